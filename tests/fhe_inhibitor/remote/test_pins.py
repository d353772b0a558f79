"""The model that a server had is the one that it must have, until another one is accepted."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi import Response

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.remote.client import RemoteClient, RemoteOptions
from fhe_inhibitor.remote.errors import ModelMismatch
from fhe_inhibitor.remote.pins import PINS_FILE, Pins
from fhe_inhibitor.runtime.keyring import Keyring
from fhe_inhibitor.runtime.manifest import SPECS_FILE
from fhe_inhibitor.runtime.protocol import (
    MODEL_FILES,
    FileInfo,
    ModelInfo,
    ModelList,
    circuits_hash,
)
from tests.fhe_inhibitor.conftest import Tiny
from tests.fhe_inhibitor.remote.test_connection import (  # noqa: F401 a fixture
    MODEL,
    ask,
    choose,
    json,
    running,
)
from tests.fhe_inhibitor.runtime.scripted import Scripted

OTHER_DIGESTS = {name: f"{i:064x}" for i, name in enumerate(MODEL_FILES, start=100)}
CHANGED = MODEL.model_copy(
    update={
        "circuits_hash": circuits_hash(OTHER_DIGESTS),
        "files": [FileInfo(name=n, size=1, sha256=digest) for n, digest in OTHER_DIGESTS.items()],
    }
)
RENAMED = CHANGED.model_copy(update={"name": "second"})


def offer(scripted: Scripted, *models: ModelInfo) -> None:
    scripted.answers["GET /models"] = [json(ModelList(models=list(models)))]


@pytest.fixture
def scripted(running: Scripted) -> Scripted:  # noqa: F811
    """A server that offers one model."""
    offer(running, MODEL)
    running.asked = []
    return running


@pytest.fixture
def pinned(scripted: Scripted, tmp_path: Path) -> Path:
    """The folder of a user's keys, who has used the model of the server."""
    Pins(tmp_path).pin(scripted.url, MODEL)
    return tmp_path


def test_another_model_is_refused_until_it_is_accepted(
    scripted: Scripted,
    pinned: Path,
) -> None:
    assert ask(scripted, choose(keys_dir=pinned)) == MODEL
    offer(scripted, CHANGED)
    with pytest.raises(ModelMismatch, match="nothing was sent.*--accept-new-model") as refused:
        ask(scripted, choose(keys_dir=pinned))
    for word in (MODEL.circuits_hash[:12], CHANGED.circuits_hash[:12], scripted.url, "tiny"):
        assert word in str(refused.value)
    assert {name for name, _ in scripted.asked} == {"GET /models"}
    assert ask(scripted, choose(keys_dir=pinned, accept_new_model=True)) == CHANGED
    with pytest.raises(ModelMismatch):  # accepting lasts as soon as the model is used
        ask(scripted, choose(keys_dir=pinned))
    Pins(pinned).pin(scripted.url, CHANGED)
    assert ask(scripted, choose(keys_dir=pinned)) == CHANGED


def test_a_new_name_does_not_hide_another_model(
    scripted: Scripted,
    pinned: Path,
) -> None:
    offer(scripted, RENAMED)
    with pytest.raises(ModelMismatch, match="it had tiny before"):
        ask(scripted, choose(keys_dir=pinned))
    assert (
        ask(scripted, choose(keys_dir=pinned, model="second")) == RENAMED
    )  # the user's own choice


def test_an_address_is_the_same_however_it_is_written(
    scripted: Scripted,
    pinned: Path,
) -> None:
    offer(scripted, CHANGED)
    for url in (scripted.url, f"{scripted.url}/", scripted.url.replace("http", "HTTP", 1)):
        with pytest.raises(ModelMismatch, match="--accept-new-model"):
            ask(url, choose(keys_dir=pinned))


def test_other_servers_and_users_are_not_concerned(
    scripted: Scripted,
    tmp_path: Path,
) -> None:
    Pins(tmp_path).pin("https://elsewhere:8765", CHANGED)
    assert ask(scripted, choose(keys_dir=tmp_path)) == MODEL
    assert ask(scripted, choose(keys_dir=tmp_path / "other")) == MODEL


def test_the_file_is_private_and_whole_and_keeps_all(pinned: Path) -> None:
    path = pinned / PINS_FILE
    Pins(pinned).pin("https://elsewhere", RENAMED)
    before = path.stat().st_mtime_ns, path.read_bytes()
    Pins(pinned).pin("https://elsewhere", RENAMED)
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before
    assert before[1].count(b"http") == 2
    assert all(not stat.S_IMODE(file.stat().st_mode) & 0o077 for file in pinned.iterdir())
    assert sorted(os.listdir(pinned)) == [".servers.lock", PINS_FILE]


@pytest.mark.parametrize("content", ["", "[]", '{"a": {"tiny": "short"}}', "\0"])
def test_a_damaged_file_is_no_reason_to_believe_a_server(
    scripted: Scripted,
    pinned: Path,
    content: str,
) -> None:
    (pinned / PINS_FILE).write_text(content)
    with pytest.raises(InputError, match="remove it to forget which models servers had"):
        ask(scripted, choose(keys_dir=pinned))
    assert (pinned / PINS_FILE).read_text() == content


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't be written"):
        Pins(tmp_path / "file").pin("https://elsewhere", MODEL)


def offer_insecure(scripted: Scripted, circuits: Path) -> ModelInfo:
    """Have a server offer a model, all files as its hash says, whose keys would have no noise."""
    contents = {name: (circuits / name).read_bytes() for name in MODEL_FILES}
    contents[SPECS_FILE] = re.sub(
        rb'"variance": *[^,}]+', b'"variance":1e-60', contents[SPECS_FILE]
    )
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    files = [FileInfo(name=n, size=len(contents[n]), sha256=digests[n]) for n in MODEL_FILES]
    model = MODEL.model_copy(update={"circuits_hash": circuits_hash(digests), "files": files})
    offer(scripted, model)
    for name, content in contents.items():
        scripted.answers[f"GET /models/{model.name}/files/{name}"] = [Response(content)]
    return model


@pytest.mark.fhe
@pytest.mark.parametrize("with_keys", [False, True])
@pytest.mark.parametrize("call", [RemoteClient.make_keys, RemoteClient.prepare])
def test_a_model_that_is_refused_is_not_pinned(
    scripted: Scripted,
    tiny: Tiny,
    tmp_path: Path,
    call: Callable[[RemoteClient], object],
    with_keys: bool,
) -> None:
    """with_keys: there are keys for it, from before its parameters were checked."""
    model, keyring = offer_insecure(scripted, tiny.circuits), Keyring(tmp_path)
    keys = keyring.path(model.circuits_hash)
    if with_keys:
        keys.parent.mkdir()
        keys.write_bytes(b"keys")
    options = RemoteOptions(keys_dir=tmp_path, cache_dir=tmp_path / "cache")
    with (
        RemoteClient(scripted.url, "token", options) as client,
        pytest.raises(ModelMismatch, match="the server's circuits can't be used: .*log2"),
    ):
        call(client)
    assert not (tmp_path / PINS_FILE).exists()
    assert keys.exists() == with_keys
    assert {name.split()[0] for name, _ in scripted.asked} == {"GET"}  # no keys were sent
