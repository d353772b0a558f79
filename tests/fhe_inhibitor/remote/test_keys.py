"""Evaluation keys on a server: the right ones are asked for, lost ones are listed and removed."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import Response

from fhe_inhibitor.cli.main import main
from fhe_inhibitor.remote.async_client import AsyncRemoteClient
from fhe_inhibitor.remote.options import RemoteOptions
from fhe_inhibitor.runtime.keyring import Keyring
from fhe_inhibitor.runtime.protocol import KeysList, KeysState
from tests.fhe_inhibitor.remote.test_connection import MODEL
from tests.fhe_inhibitor.remote.test_connection import json as answer
from tests.fhe_inhibitor.runtime.scripted import Scripted, scripted_server
from tests.fhe_inhibitor.runtime.test_keyring import Loading

A, LOST = "a1" * 32, "1057" * 16


@pytest.fixture
def server() -> Iterator[Scripted]:
    with scripted_server() as scripted:
        yield scripted


def state(sha256: str, **changes: Any) -> KeysState:
    """Return what a server says of complete keys."""
    content = {"size": 10, "received": 10, "complete": True, "created_at": 0, "expires_at": 0}
    digests = {"sha256": sha256, "circuits_hash": MODEL.circuits_hash}
    return KeysState.model_validate({**content, **digests, **changes})


def test_the_keys_that_were_loaded_are_asked_for_whatever_describes_them(
    server: Scripted, tmp_path: Path
) -> None:
    """The description is that of later keys, which the server has as well."""
    client = AsyncRemoteClient(server.url, "token", RemoteOptions(keys_dir=tmp_path))
    known: Any = client
    known._model, known._fetched = MODEL, (tmp_path, None)
    known._side = SimpleNamespace(client=Loading())
    path = client.keyring.path(MODEL.circuits_hash)
    path.parent.mkdir()
    path.write_bytes(b"older")
    about = {"circuits_hash": MODEL.circuits_hash, "model": "tiny", "created": 0}
    about["evaluation_keys"] = "1" * 64
    path.with_name("about.json").write_text(json.dumps(about))
    loaded = hashlib.sha256(b"evaluation older").hexdigest()
    server.answers = {
        f"GET /keys/{digest}": [answer(state(digest))] for digest in (loaded, "1" * 64)
    }

    async def prepare() -> None:
        async with client:
            await client.prepare()

    asyncio.run(prepare())
    assert [name for name, _ in server.asked] == [f"GET /keys/{loaded}"]
    assert client.keyring.entry(MODEL.circuits_hash).evaluation_keys == loaded


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Return what runs a command with a keyring that holds one set of keys, A on the server."""
    monkeypatch.setenv("FHE_INHIBITOR_KEYS", str(tmp_path))
    monkeypatch.setenv("FHE_INHIBITOR_TOKEN", "token")
    path = Keyring().path(MODEL.circuits_hash)
    path.parent.mkdir()
    path.write_bytes(b"")
    about = {"circuits_hash": MODEL.circuits_hash, "model": "tiny", "created": 0}
    about["evaluation_keys"] = A
    path.with_name("about.json").write_text(json.dumps(about))

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main(["keys", *arguments])
        return int(exit_.value.code or 0), *capsys.readouterr()

    return run


def test_what_a_server_has_is_listed(server: Scripted, run) -> None:
    day_s = 86_400
    listed = [
        state(A, size=32_200_000, created_at=day_s, expires_at=31 * day_s),
        state(LOST, complete=False, received=1_000_000),
    ]
    server.answers["GET /keys"] = [answer(KeysList(keys=listed))]
    code, out, err = run("list", "--server", server.url, "--json")
    assert (code, err) == (0, "")
    there = [
        {**one.model_dump(), "here": here} for one, here in zip(listed, (True, False), strict=True)
    ]
    assert json.loads(out) == there
    code, out, err = run("list", "--server", server.url)
    assert (code, err) == (0, "")
    first, second = (line.split() for line in out.splitlines()[1:])
    date = [f"{datetime.fromtimestamp(day * day_s):%Y-%m-%d}" for day in (1, 31)]
    circuits = MODEL.circuits_hash[:12]
    assert first == [A[:12], circuits, date[0], "32.2", "MB", "yes", date[1], "yes"]
    assert second[:2] == [LOST[:12], circuits] and second[-1] == "no"
    assert " no, 1 MB " in out
    server.answers["GET /keys"] = [answer(KeysList(keys=[]))]
    assert "no keys of yours on" in run("list", "--server", server.url)[1]
    code, out, err = run("list", "--server", server.url, "--parameters")
    assert (code, out) == (2, "") and "--parameters is of the keys here" in err


def test_keys_that_are_on_the_server_alone_are_removed_there(server: Scripted, run) -> None:
    """As after a lost disk: they filled the server until they expired."""
    server.answers = {
        "GET /keys": [answer(KeysList(keys=[state(A), state(LOST), state(LOST[:-1] + "0")]))],
        f"DELETE /keys/{A}": [Response(status_code=204)],
        f"DELETE /keys/{LOST}": [Response(status_code=204)],
    }
    on_server = ("--server", server.url)
    for name, words in (
        (LOST[:7], "pass 8 of its digits or more"),
        ("no-digits", "pass 8 of its digits or more"),
        (LOST[:8], "2 sets of keys on"),
        ("0" * 8, "0 sets of keys on"),
    ):
        code, out, err = run("remove", name, *on_server)
        assert (code, out) == (2, "") and words in err and "keys list --server" in err
    assert run("remove", LOST, *on_server) == (0, f"removed {LOST[:12]} from {server.url}\n", "")
    assert run("remove", A[:8], *on_server)[0] == 0
    assert server.count(f"DELETE /keys/{LOST}") == server.count(f"DELETE /keys/{A}") == 1
    assert len(Keyring().entries()) == 1  # what is here stays, and is uploaded when it is needed
    assert run("remove", "tiny", *on_server)[0] == 0  # but its name removes it here, too
    assert server.count(f"DELETE /keys/{A}") == 2 and Keyring().entries() == []
