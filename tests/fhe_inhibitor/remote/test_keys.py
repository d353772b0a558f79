"""Which evaluation keys a client asks its server for, without encryption."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fhe_inhibitor.remote.async_client import AsyncRemoteClient
from fhe_inhibitor.remote.options import RemoteOptions
from fhe_inhibitor.runtime.protocol import KeysState
from tests.fhe_inhibitor.remote.test_connection import MODEL
from tests.fhe_inhibitor.remote.test_connection import json as answer
from tests.fhe_inhibitor.runtime.scripted import Scripted, scripted_server
from tests.fhe_inhibitor.runtime.test_keyring import Loading


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
