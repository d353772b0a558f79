"""The client keeps its secrets to itself and refuses what it cannot encrypt or decrypt."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.client import Client
from fhe_inhibitor.runtime.messages import Response
from tests.execution import Execution
from tests.networks import random_inputs

pytestmark = pytest.mark.fhe

PARAMETERS = 37  # bytes before evaluation keys
DIGEST = 32  # bytes more before secret ones


@pytest.fixture(scope="module")
def other(executions: object, tmp_path_factory: pytest.TempPathFactory) -> Client:
    """A second client of the same circuits, with keys of its own."""
    assert callable(executions)
    client = Client(executions("inhibitor").folder)
    client.generate_keys()
    return client


def test_keys_are_the_owners_alone_and_come_back(inhibitor: Execution, tmp_path: Path) -> None:
    path = tmp_path / "made" / "keys"
    inhibitor.client.save_keys(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["keys"]
    loaded = Client(inhibitor.folder)
    loaded.load_keys(path)
    x, padding = random_inputs(np.random.default_rng(0), inhibitor.network, 3)
    response = inhibitor.server.run(loaded.encrypt(x, padding), inhibitor.evaluation_keys)
    assert loaded.decrypt(response).tolist() == inhibitor.client.decrypt(response).tolist()


def test_two_clients_have_different_keys(inhibitor: Execution, other: Client) -> None:
    mine, theirs = inhibitor.client.evaluation_keys(), other.evaluation_keys()
    assert mine[:PARAMETERS] == theirs[:PARAMETERS] and len(mine) == len(theirs)
    equal = np.frombuffer(mine, np.uint8) == np.frombuffer(theirs, np.uint8)
    assert equal.mean() < 0.05


def test_a_ciphertext_differs_each_time(inhibitor: Execution) -> None:
    x, padding = random_inputs(np.random.default_rng(0), inhibitor.network, 3)
    first, second = (inhibitor.client.encrypt(x, padding).to_bytes() for _ in range(2))
    assert len(first) == len(second) and first != second


def test_nothing_secret_is_shown(inhibitor: Execution) -> None:
    shown = repr(inhibitor.client)
    assert shown == f"Client({inhibitor.compiled.manifest.model_hash[:12]}, has_keys=True)"


@pytest.mark.parametrize(
    ("x", "padding", "message"),
    [
        (np.zeros((3, 5), int), np.zeros(3, int), r"x is int64 \(3, 5\), wanted integers \(3, 4\)"),
        (np.full((3, 4), 8), np.zeros(3, int), r"x reaches 8\.\.8, wanted -8\.\.7"),
        (np.zeros((3, 4)), np.zeros(3, int), "x is float64"),
        (np.zeros((3, 4), int), np.full(3, 2), r"padding reaches 2\.\.2, wanted 0\.\.1"),
        (np.zeros((5, 4), int), np.zeros(5, int), "5 tokens: these circuits take 3, 4"),
    ],
)
def test_wrong_input_is_refused(
    inhibitor: Execution, x: np.ndarray, padding: np.ndarray, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        inhibitor.client.encrypt(x, padding)


def test_without_keys_nothing_works(inhibitor: Execution, tmp_path: Path) -> None:
    client = Client(inhibitor.folder)
    for call in (
        client.evaluation_keys,
        lambda: client.save_keys(tmp_path / "keys"),
        lambda: client.decrypt(Response(3, {})),
        lambda: client.encrypt(np.zeros((3, 4), int), np.zeros(3, int)),
    ):
        with pytest.raises(InputError, match="has no keys"):
            call()


def test_a_file_without_keys_is_refused(inhibitor: Execution, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    inhibitor.client.save_keys(path)
    data = path.read_bytes()
    for content in (
        b"",
        b"garbage" * 99,
        data[:PARAMETERS],
        data[: PARAMETERS + DIGEST],
        data[: len(data) // 2],
        b"\0" + data[1:],
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match="holds no keys"):
            Client(inhibitor.folder).load_keys(path)
    with pytest.raises(InputError, match="holds no keys"):
        Client(inhibitor.folder).load_keys(tmp_path / "missing")


@pytest.mark.parametrize("what", ["random", "zeros", "a bit", "the digest"])
def test_damaged_keys_are_refused(inhibitor: Execution, tmp_path: Path, what: str) -> None:
    """As for a disk that gave other bytes: before, labels came out wrong, without a word."""
    path = tmp_path / "keys"
    inhibitor.client.save_keys(path)
    data = bytearray(path.read_bytes())
    middle, run = len(data) // 2, len(data) // 16
    if what == "a bit":
        data[-100] ^= 1
    elif what == "the digest":
        data[PARAMETERS] ^= 1
    else:
        data[middle : middle + run] = os.urandom(run) if what == "random" else bytes(run)
    path.write_bytes(data)
    client = Client(inhibitor.folder)
    with pytest.raises(InputError, match="damaged: their SHA-256 is another one") as error:
        client.load_keys(path)
    assert str(path) in str(error.value) and not client.has_keys


def test_logits_that_the_model_never_gives_are_refused(
    inhibitor: Execution, other: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What keys of another client, or damaged ones, make of a response."""
    x, padding = random_inputs(np.random.default_rng(0), inhibitor.network, 3)
    response = inhibitor.server.run(inhibitor.client.encrypt(x, padding), inhibitor.evaluation_keys)
    low, high = inhibitor.compiled.manifest.logit_range
    assert low <= inhibitor.client.decrypt(response).min()
    assert inhibitor.client.decrypt(response).max() <= high
    never = [low, high + 1]
    monkeypatch.setattr(other._client, "decrypt", lambda *_, **__: np.array(never))
    with pytest.raises(InputError, match=rf"leave {low}\.\.{high}.*Don't tell the server"):
        other.decrypt(response)


def test_damaged_specifications_are_named(inhibitor: Execution, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(inhibitor.folder, tmp_path / "circuits"))
    path = folder / "client.specs.json"
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))
    with pytest.raises(InputError, match=r"client\.specs\.json is damaged"):
        Client(folder)


@pytest.mark.parametrize("change", [{"position": 9}, {"position": -1}, {"function": "none"}])
def test_a_manifest_of_other_circuits_is_refused(
    inhibitor: Execution, tmp_path: Path, change: dict[str, object]
) -> None:
    folder = Path(shutil.copytree(inhibitor.folder, tmp_path / "circuits"))
    path = folder / "circuits.json"
    content = json.loads(path.read_text())
    next(iter(content["programs"].values()))["encryptions"][0].update(change)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="files of different circuits"):
        Client(folder)


def test_a_response_without_logits_is_refused(inhibitor: Execution) -> None:
    for ciphertexts in ({}, {"logits": b""}, {"logits": b"garbage"}):
        with pytest.raises(InputError, match="holds no logits"):
            inhibitor.client.decrypt(Response(3, ciphertexts))
