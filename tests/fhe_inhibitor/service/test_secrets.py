"""Nothing that decrypts is loaded by the server, and no secret is in what it stores or logs."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fhe_inhibitor.runtime.client import Client
from fhe_inhibitor.runtime.messages import Request
from tests.conftest import REPOSITORY
from tests.fhe_inhibitor.conftest import TEXT, Tiny, User
from tests.fhe_inhibitor.service.api import Api
from tests.fhe_inhibitor.service.serving import Serving, serve

NATIVE = "mlir._mlir_libs._concretelang._compiler"
# The native library comes in one piece; these are what holds or makes secrets in it.
SECRET_KEEPERS = (
    "ClientCircuit", "ClientKeyset", "ClientProgram", "Compiler", "Keyset", "KeysetCache",
    "LweSecretKey",
)  # fmt: skip
FORBIDDEN = ("concrete", "compile", "torch", "transformers", "fhe_inhibitor.runtime.client",
             "fhe_inhibitor.runtime.keyring", "fhe_inhibitor.integer", "circuits")  # fmt: skip
ALLOWED = ("circuits", "circuits.blocks")  # how stages are cut into tasks: names and numbers alone
WINDOW_BITS = 128
BIT_ORDERS = ("big", "little")

SHOW_IMPORTS = """
import json, sys
import {room}.{module}
native = sys.modules.get({native!r})
secret = [getattr(native, name) for name in {keepers!r}] if native else []
holders = sorted(
    f"{{name}}.{{key}}"
    for name, module in list(sys.modules.items())
    if not name.startswith("mlir._mlir_libs")
    for key, value in list(getattr(module, "__dict__", {{}}).items())
    if isinstance(value, type) and value in secret
)
print(json.dumps([sorted(sys.modules), holders]))
"""


def loaded_by(module: str, room: str = "fhe_inhibitor.service") -> tuple[list[str], list[str]]:
    """Return what a fresh process has loaded with a module, and who there holds secret keepers."""
    program = SHOW_IMPORTS.format(room=room, module=module, native=NATIVE, keepers=SECRET_KEEPERS)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, cwd=REPOSITORY
    )
    modules, holders = json.loads(done.stdout)
    return modules, holders


def is_part_of(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in packages)


def forbidden_in(modules: list[str]) -> list[str]:
    return [name for name in modules if is_part_of(name, FORBIDDEN) and name not in ALLOWED]


def test_the_web_process_loads_no_concrete_at_all() -> None:
    modules, _ = loaded_by("process")
    assert "fhe_inhibitor.service.web" in modules
    assert not forbidden_in(modules) and not [m for m in modules if is_part_of(m, ("mlir",))]


def test_a_worker_loads_what_evaluates_alone() -> None:
    modules, holders = loaded_by("worker")
    assert NATIVE in modules
    assert not forbidden_in(modules)
    assert holders == []


@pytest.mark.fhe
def test_the_running_processes_hold_to_it(server: Serving, alice: Api, user: User) -> None:
    """What is mapped into their memory shows which native libraries they have loaded."""
    user.check(alice.result(alice.start(user.request)))
    assert server.process is not None
    assert not any("oncrete" in path for path in mapped_files(server.process.pid))
    (worker,) = server.workers()
    libraries = mapped_files(worker.pid)
    assert any("_concretelang" in path for path in libraries)
    assert not any("torch" in path for path in libraries)


@pytest.mark.fhe
def test_no_secret_is_stored_or_logged(tiny: Tiny, user: User, tmp_path: Path) -> None:
    secrets = [*secret_windows(user.client), *map(str.encode, (TEXT, "good film"))]
    user.client.save_keys(tmp_path / "keys")
    stored = (tmp_path / "keys").read_bytes()
    found = [window for window in secrets if window in stored]
    assert len(found) >= 10, "the windows are not what a key file holds: the test can't fail"
    with serve(tiny.folder, tiny.cache, tmp_path / "data") as server:
        api = Api(server.url, server.token, user.keys)
        api.upload()
        haystacks = watch_files(api, api.start(user.request), tmp_path / "data" / "jobs")
        api.submit(user.request[:-1])
        haystacks |= watch_files(api, api.start(damaged(user)), tmp_path / "data" / "jobs")
        api.http.get("/jobs", headers={"Authorization": "Bearer wrong"})
    haystacks |= read_files(tmp_path / "data") | {server.log: server.log.read_bytes()}
    names = {path.name for path in haystacks}
    assert {"service.db", "request", "task-1", "result", api.keys_id} <= names
    for path, content in haystacks.items():
        assert not any(secret in content for secret in secrets), path
        assert server.token.encode() not in content, path
    log = server.log.read_text()
    assert user.request[5:200].hex() not in log and "Bearer" not in log
    assert all(json.loads(line) for line in log.splitlines() if line.startswith("{"))


def damaged(user: User) -> bytes:
    """Return a request whose last ciphertext ends in zeros, in a message that is whole."""
    request = Request.from_bytes(user.request)
    name, ciphertext = list(request.ciphertexts.items())[-1]
    ciphertexts = {**request.ciphertexts, name: ciphertext[:-40] + bytes(40)}
    return Request(request.n, ciphertexts).to_bytes()


def watch_files(api: Api, job: str, folder: Path) -> dict[Path, bytes]:
    """Return all files that were there before a job ended, as they were last seen."""
    files: dict[Path, bytes] = {}
    while not api.job(job).status.final:
        files |= read_files(folder)
        time.sleep(0.02)  # a task takes far longer
    return files


def read_files(folder: Path) -> dict[Path, bytes]:
    files = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            files[path] = path.read_bytes()
    return files


def mapped_files(pid: int) -> set[str]:
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.split(maxsplit=5)[5] for line in lines if line.count(" ") > 4 and "/" in line}


def secret_windows(client: Client) -> list[bytes]:
    """Return parts of each secret key, of 128 secret bits, as anybody might write them down."""
    windows = []
    keyset = client._client.keys._keyset
    for key in keyset.get_client_keys().get_secret_keys():
        words = np.frombuffer(key.serialize()[-8 * key.param.dimension() :], dtype="<u8")
        assert set(words.tolist()) == {0, 1}
        for start in range(0, len(words) - WINDOW_BITS, len(words) // 5):
            bits = words[start : start + WINDOW_BITS]
            windows += [bits.astype(dtype).tobytes() for dtype in ("<u8", "<u4", "u1")]
            windows += [np.packbits(bits.astype(bool), bitorder=o).tobytes() for o in BIT_ORDERS]
    return windows
