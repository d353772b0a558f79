"""Findings about cache, keys, Concrete and a server: each fault is found, nothing is changed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from compile.local import diagnosis, prepared
from compile.local.diagnosis import (
    TinyCircuit,
    diagnose,
    find_cache,
    find_concrete,
    find_keys,
    find_server,
)
from compile.local.prepared import prepare_circuits
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.remote.options import RemoteOptions
from fhe_inhibitor.runtime.keyring import Keyring
from fhe_inhibitor.system.cache import locked, published
from fhe_inhibitor.system.diagnosis import Finding
from fhe_inhibitor.system.folders import CACHE_VARIABLE, KEYS_VARIABLE
from fhe_inhibitor.system.private_files import write_private
from tests.observers import Recorder
from tests.tiny_model import write_tiny_model

HASH = "ab" * 32
ABOUT = {"circuits_hash": HASH, "model": "tiny", "evaluation_keys": "0" * 64, "created": 0}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of one set of keys."""
    monkeypatch.setenv(KEYS_VARIABLE, str(tmp_path / "keys"))
    path = Keyring().path(HASH)
    write_private(path, b"secret")
    write_private(path.with_name("about.json"), json.dumps(ABOUT).encode())
    return path


def test_an_empty_cache_is_well_and_stays_away(cache: Path) -> None:
    finding = find_cache()
    assert finding.state == "ok" and "0 parts" in finding.found
    assert not cache.exists()


def fill(cache: Path, part: str) -> Path:
    """Put a part of circuits into the cache; return the file that it has."""
    with (
        locked(cache / "tiny", lambda message: None),
        published(cache / "tiny" / part, {"model": "tiny"}) as folder,
    ):
        (folder / "code").write_bytes(b"native")
    return cache / "tiny" / part / "code"


def test_a_cache_is_whole_damaged_or_unfinished(cache: Path) -> None:
    fill(cache, "circuits")
    assert find_cache().state == "ok" and "1 part " in find_cache().found
    (cache / "tiny" / ".unfinished-1").mkdir()
    assert find_cache().state == "warning" and "unfinished" in find_cache().found
    (cache / "tiny" / "circuits" / "code").write_bytes(b"nativ")
    finding = find_cache()
    assert finding.state == "warning"
    assert f"damaged: {cache / 'tiny' / 'circuits'}" in finding.found and finding.remedy


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("split", [1, 4])
@pytest.mark.parametrize("simulated", [False, True])
def test_every_part_of_circuits_is_checked(
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    documents: bool,
    split: int,
    simulated: bool,
) -> None:
    """Of the names that `prepare_circuits` really gives them."""
    nothing = SimpleNamespace(save=lambda folder, simulated: folder.mkdir())
    monkeypatch.setattr(prepared, "compile_model", lambda *arguments: nothing)
    model = IntegerModel.load(write_tiny_model(tmp_path / "tiny"))
    folder = prepare_circuits(model, simulated=simulated, documents=documents, split=split)
    assert find_cache().state == "ok"
    (folder.parent / "manifest.json").write_text("{}")
    finding = find_cache()
    assert finding.state == "warning" and f"damaged: {folder.parent}" in finding.found


def test_files_that_go_away_meanwhile_are_no_fault(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, look = fill(cache, "circuits-long"), Path.stat
    (cache / "tiny" / "gone").symlink_to("nowhere")

    def look_and_remove(path: Path, **options: bool) -> os.stat_result:
        found = look(path, **options)
        if path == code:
            code.unlink()
        return found

    monkeypatch.setattr(Path, "stat", look_and_remove)
    finding = find_cache()
    assert finding.state == "warning" and f"damaged: {code.parent}" in finding.found


def test_no_keys_are_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEYS_VARIABLE, str(tmp_path / "keys"))
    assert find_keys().state == "ok" and "0 sets" in find_keys().found


def test_keys_are_described_without_opening_them(keys: Path) -> None:
    finding = find_keys()
    assert finding.state == "ok"
    assert "1 set; abababababab for tiny, parameters unknown, without a passphrase" in finding.found
    parameters = {"key": 0, "dimension": 2048, "polynomial_size": 1, "log2_std": -50, "margin": 0}
    content = {**ABOUT, "parameters": [{**parameters, "encrypts": "x"}]}
    keys.with_name("about.json").write_text(json.dumps(content))
    keys.write_bytes(b"FHEL locked")
    assert "for tiny, dimensions 2048, locked" in find_keys().found


@pytest.mark.parametrize("place", ["file", "folder"])
def test_keys_that_others_can_reach_are_a_failure(keys: Path, place: str) -> None:
    path = keys if place == "file" else keys.parent
    path.chmod(0o755)
    finding = find_keys()
    assert finding.state == "failure" and f"{path} has mode 0755" in finding.found
    assert f"chmod go= {path}" in finding.remedy
    assert path.stat().st_mode & 0o777 == 0o755
    (command,) = re.findall(r"`(chmod .*?)`", finding.remedy)
    subprocess.run(command.split(), check=True)
    assert find_keys().state == "ok"


def test_keys_that_nobody_described_are_a_warning(keys: Path) -> None:
    keys.with_name("about.json").unlink()
    finding = find_keys()
    assert finding.state == "warning" and "for unknown" in finding.found


@pytest.mark.fhe
def test_concrete_runs_a_circuit_on_a_ciphertext() -> None:
    finding = find_concrete()
    assert finding.state == "ok", finding
    assert "3-bit lookup on a ciphertext was right" in finding.found


class Crashes:
    def run(self) -> None:
        os.kill(os.getpid(), signal.SIGILL)


class IsWrong:
    def run(self) -> None:
        raise RuntimeError("an encrypted lookup gave 5, not 6")


@pytest.mark.parametrize(
    ("circuit", "words"),
    [(Crashes, "SIGILL: this processor lacks an instruction"), (IsWrong, "gave 5, not 6")],
)
def test_a_crash_of_concrete_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, circuit: type, words: str
) -> None:
    monkeypatch.setattr(diagnosis, TinyCircuit.__name__, circuit)
    finding = find_concrete()
    assert finding.state == "failure" and words in finding.found and finding.remedy


@pytest.mark.parametrize(
    ("address", "words"), [("http://127.0.0.1:9", "can't be reached"), ("nowhere", "no address")]
)
def test_a_server_that_does_not_answer_is_a_failure(address: str, words: str) -> None:
    finding = find_server(address, None, RemoteOptions(patience_s=0.1))
    assert finding.state == "failure" and words in finding.found and finding.remedy


def test_all_is_looked_at_and_what_cannot_be_told_stops_nothing(
    cache: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        diagnosis, "find_concrete", lambda: Finding(name="concrete", state="ok", found="")
    )
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setattr("fhe_inhibitor.system.folders.user_cache_path", lambda *_, **__: homeless())
    recorder = Recorder()
    findings = {finding.name: finding for finding in diagnose(observer=recorder)}
    machine = ["processor", "cores", "memory", "huge pages"]
    names = ["versions", "extras", *machine, "cache", "keys", "concrete"]
    assert list(findings) == recorder.steps == names
    assert findings["cache"].state == "failure"
    assert CACHE_VARIABLE in findings["cache"].remedy


@pytest.mark.parametrize(("name", "remedy"), [("keys", KEYS_VARIABLE), ("memory", "readable")])
def test_what_cannot_be_read_is_a_finding(
    cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, remedy: str
) -> None:
    """As keys that another user owns."""

    def refuse() -> Finding:
        raise PermissionError(13, "Permission denied", "/keys/secret.keys")

    monkeypatch.setattr(
        diagnosis, "find_concrete", lambda: Finding(name="concrete", state="ok", found="")
    )
    monkeypatch.setattr(diagnosis, f"find_{name}", refuse)
    findings = {finding.name: finding for finding in diagnose()}
    assert findings[name].state == "failure" and "/keys/secret.keys" in findings[name].found
    assert remedy in findings[name].remedy
    assert findings["concrete"].state == "ok"


def homeless() -> Path:
    raise RuntimeError("could not determine home directory")
