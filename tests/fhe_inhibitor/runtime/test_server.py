"""The server holds nothing that decrypts, tells of its progress, refuses what does not fit."""

from __future__ import annotations

import ast
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from concrete import fhe

import fhe_inhibitor.runtime.server
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.manifest import SERVER_FOLDER
from fhe_inhibitor.runtime.messages import Request, pack_keys
from fhe_inhibitor.runtime.server import Server
from tests.execution import Execution
from tests.networks import random_inputs
from tests.observers import Recorder

SECRET_KEEPERS = (fhe.Client, fhe.Keys, fhe.Circuit, fhe.Compiler)


def test_the_server_binds_nothing_that_decrypts() -> None:
    bound = vars(fhe_inhibitor.runtime.server).values()
    assert not [value for value in bound if value in SECRET_KEEPERS or value is fhe]
    path = fhe_inhibitor.runtime.server.__file__
    names = {
        node.attr if isinstance(node, ast.Attribute) else node.id
        for node in ast.walk(ast.parse(Path(path).read_text()))
        if isinstance(node, (ast.Attribute, ast.Name))
    }
    assert not [name for name in names if "decrypt" in name or "keygen" in name]


@pytest.mark.fhe
def test_progress_adds_up(inhibitor: Execution) -> None:
    x, padding = random_inputs(np.random.default_rng(0), inhibitor.network, 4)
    request, recorder = inhibitor.client.encrypt(x, padding), Recorder()
    done = list(inhibitor.server.start(request, inhibitor.evaluation_keys, recorder))
    tasks = inhibitor.server.tasks(4)
    assert recorder.told == [
        told for t in tasks for told in (("begin", t.stage), ("finish", t.n_lookups))
    ]
    assert tuple(d.task for d in done) == tasks
    assert [(d.index, d.total) for d in done] == [(i + 1, len(tasks)) for i in range(len(tasks))]
    assert all(d.seconds > 0 for d in done)


@pytest.mark.fhe
def test_a_broken_connection_is_an_error_like_any_other(inhibitor: Execution) -> None:
    """Concrete's scheduler would end the process: it catches SIGPIPE from the first run on."""
    x, padding = random_inputs(np.random.default_rng(0), inhibitor.network, 3)
    request = inhibitor.client.encrypt(x, padding)
    inhibitor.server.run(request, inhibitor.evaluation_keys)
    reading, writing = os.pipe()
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        os.write(writing, b"x")
    os.close(writing)


@pytest.mark.fhe
def test_malformed_requests_are_refused(inhibitor: Execution) -> None:
    x, padding = random_inputs(np.random.default_rng(0), inhibitor.network, 3)
    good = inhibitor.client.encrypt(x, padding)
    x, padding = random_inputs(np.random.default_rng(0), inhibitor.network, 4)
    longer = inhibitor.client.encrypt(x, padding)
    name, data = next(iter(good.ciphertexts.items()))
    cases = {
        "5 tokens": Request(5, good.ciphertexts),
        "wanted": Request(3, {}),
        "wanted ": Request(3, {**good.ciphertexts, "surplus": b""}),
        "can't be read": Request(3, {**good.ciphertexts, name: b"garbage"}),
        "can't be read ": Request(3, {**good.ciphertexts, name: data[: len(data) // 2]}),
        # Sizes that Concrete would take at their word, for gigabytes or minutes.
        "can't be read  ": Request(3, {**good.ciphertexts, name: data[:7] + b"\x7f" + data[8:]}),
        "can't be read   ": Request(3, {**good.ciphertexts, name: data[:11] + b"\1" + data[12:]}),
        "refuses its input": Request(3, {**good.ciphertexts, name: longer.ciphertexts[name]}),
        "refuses its input ": Request(
            3, dict(zip(good.ciphertexts, reversed(list(good.ciphertexts.values())), strict=True))
        ),
    }
    for message, request in cases.items():
        with pytest.raises(InputError, match=message.strip()):
            inhibitor.server.run(request, inhibitor.evaluation_keys)


@pytest.mark.fhe
def test_wrong_evaluation_keys_are_refused(inhibitor: Execution) -> None:
    data = inhibitor.client.evaluation_keys()
    for wrong in (b"", data[:37], data[: len(data) // 2], pack_keys("00" * 32, data[37:])):
        with pytest.raises(InputError):
            inhibitor.server.read_evaluation_keys(wrong)


@pytest.mark.fhe
def test_a_folder_that_lacks_a_file_is_refused(inhibitor: Execution, tmp_path: Path) -> None:
    folder = tmp_path / "circuits"
    shutil.copytree(inhibitor.folder, folder)
    with pytest.raises(InputError, match="belongs to the model"):
        Server(folder, model_hash="00" * 32)
    for path in (folder / SERVER_FOLDER).iterdir():
        path.unlink()
    with pytest.raises(InputError, match="compile the model again"):
        Server(folder)
