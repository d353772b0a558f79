"""Keys by circuits hash: made once, private, listed, locked, removed."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.client import Client
from fhe_inhibitor.runtime.keyring import Keyring
from fhe_inhibitor.system import private_files
from tests.execution import Execution
from tests.observers import Recorder

HASH, OTHER = "ab" * 32, "ac" * 32


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "keys")


def test_the_folder_is_the_environment_s_or_the_user_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FHE_INHIBITOR_KEYS", str(tmp_path))
    assert Keyring().folder == tmp_path
    monkeypatch.delenv("FHE_INHIBITOR_KEYS")
    assert Keyring().folder.parts[-2:] == ("fhe-inhibitor", "keys")
    assert Keyring("here").folder == Path("here")


def test_an_empty_keyring_has_nothing(keyring: Keyring) -> None:
    assert keyring.entries() == []
    assert not keyring.is_locked(HASH)
    with pytest.raises(InputError, match="names 0 sets of keys"):
        keyring.find("ab")


@pytest.mark.fhe
def test_keys_are_made_once_private_and_found(inhibitor: Execution, keyring: Keyring) -> None:
    client, recorder = Client(inhibitor.folder), Recorder()
    keyring.load_or_make(client, HASH, "tiny", observer=recorder)
    before = keyring.path(HASH).read_bytes()
    client = Client(inhibitor.folder)
    keyring.load_or_make(client, HASH, "tiny", observer=recorder)
    assert recorder.steps == ["keygen", "load keys"]
    assert keyring.path(HASH).read_bytes() == before
    for path in [keyring.folder, *keyring.folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    (entry,) = keyring.entries()
    assert (entry.circuits_hash, entry.model) == (HASH, "tiny")
    assert entry.parameters == client.parameters
    # The server knows keys by this hash: loading must give the same bytes each time.
    assert entry.evaluation_keys == hashlib.sha256(client.evaluation_keys()).hexdigest()
    assert keyring.find("aba") == keyring.find("tiny") == entry

    keyring.path(HASH).chmod(0o644)
    with pytest.raises(InputError, match="others may have read it"):
        keyring.load_or_make(client, HASH, "tiny")
    keyring.remove(entry)
    assert list(keyring.folder.iterdir()) == []


@pytest.mark.fhe
def test_locked_keys_open_with_the_passphrase(
    inhibitor: Execution, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_files, "LOG_N", 4)
    for digest, passphrase in ((HASH, "correct horse"), (OTHER, None)):
        keyring.load_or_make(Client(inhibitor.folder), digest, "tiny", passphrase)
    assert keyring.is_locked(HASH) and not keyring.is_locked(OTHER)
    client = Client(inhibitor.folder)
    keyring.load_or_make(client, HASH, "tiny", "correct horse")
    for wrong in (None, "", "battery staple"):
        with pytest.raises(InputError, match="don't open"):
            keyring.load_or_make(client, HASH, "tiny", wrong)
    for ambiguous in ("a", "tiny", ""):
        with pytest.raises(InputError, match="not one"):
            keyring.find(ambiguous)


@pytest.mark.fhe
def test_a_folder_that_cannot_be_written_is_said(inhibitor: Execution, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't be written.*FHE_INHIBITOR_KEYS"):
        Keyring(tmp_path / "file").load_or_make(Client(inhibitor.folder), HASH, "tiny")


@pytest.mark.fhe
def test_keys_that_cannot_be_read_are_never_replaced(
    inhibitor: Execution, keyring: Keyring
) -> None:
    keyring.load_or_make(Client(inhibitor.folder), HASH, "tiny")
    path = keyring.path(HASH)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="holds no keys"):
        keyring.load_or_make(Client(inhibitor.folder), HASH, "tiny")
    assert len(path.read_bytes()) == 1000


class Loading(Client):
    """A client whose keys are what the file of keys holds."""

    def __init__(self) -> None:
        self.parameters = ()

    def load_keys(self, path: str | Path, passphrase: str | None = None) -> None:
        self._loaded = Path(path).read_bytes()

    def evaluation_keys(self) -> bytes:
        return b"evaluation " + self._loaded


@pytest.mark.parametrize("about", ["later", "damaged", None])
def test_keys_from_a_backup_are_described_anew(keyring: Keyring, about: str | None) -> None:
    """A server would compute with the later keys: a wrong label, without a word."""
    path = keyring.path(HASH)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"older")
    os.utime(path, (1e9, 1e9))
    later = {"circuits_hash": HASH, "model": "tiny", "evaluation_keys": OTHER, "created": 2e9}
    if about is not None:
        content = json.dumps(later) if about == "later" else about
        path.with_name("about.json").write_text(content)
    assert keyring.load(Loading(), HASH, "tiny") == b"evaluation older"
    entry = keyring.entry(HASH)
    assert entry.evaluation_keys == hashlib.sha256(b"evaluation older").hexdigest()
    assert (entry.model, entry.created) == ("tiny", datetime.fromtimestamp(1e9, UTC))
    described = path.with_name("about.json").stat()
    assert keyring.load(Loading(), HASH, "tiny") == b"evaluation older"
    assert path.with_name("about.json").stat() == described  # right as it was: not written


def test_keys_of_an_older_version_are_set_aside_unread(keyring: Keyring, tmp_path: Path) -> None:
    for content in (b"FHEK one", b"FHEK two"):
        keys = tmp_path / "secret.keys"
        keys.write_bytes(content)
        keys.chmod(0o600)
        aside = keyring.set_aside(keys)
        assert aside.is_relative_to(keyring.folder / "aside") and not keys.exists()
        assert aside.read_bytes() == content
        assert stat.S_IMODE(aside.stat().st_mode) == 0o600
    assert keyring.entries() == []


def test_an_entry_of_an_older_version_is_read(keyring: Keyring) -> None:
    path = keyring.path(HASH)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    about = {"model_hash": HASH, "model": "tiny", "evaluation_keys": OTHER, "created": 0}
    path.with_name("about.json").write_text(json.dumps(about))
    (entry,) = keyring.entries()
    assert (entry.circuits_hash, entry.model, entry.evaluation_keys) == (HASH, "tiny", OTHER)
    assert entry.parameters is None


@pytest.mark.parametrize("written", [OTHER, "..", "../other", "AB" * 32, ""])
def test_an_entry_that_names_another_folder_is_refused_and_removes_nothing(
    keyring: Keyring, written: str
) -> None:
    other = keyring.folder / "other"
    for folder in (keyring.path(HASH).parent, keyring.path(OTHER).parent, other):
        folder.mkdir(parents=True)
    keyring.path(HASH).write_bytes(b"")
    about = {"circuits_hash": written, "model": "tiny", "evaluation_keys": OTHER, "created": 0}
    keyring.path(HASH).with_name("about.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match=r"about\.json can't be read"):
        keyring.entry(HASH)
    with pytest.raises(InputError, match="names 0 sets of keys"):
        keyring.find("tiny")
    (entry,) = keyring.entries()
    assert (entry.circuits_hash, entry.model) == (HASH, "unknown")
    keyring.remove(entry)
    assert other.is_dir() and keyring.path(OTHER).parent.is_dir()
    assert not keyring.path(HASH).parent.exists()


def test_a_damaged_entry_is_named(keyring: Keyring) -> None:
    keyring.path(HASH).parent.mkdir(parents=True)
    keyring.path(HASH).write_bytes(b"")
    with pytest.raises(InputError, match=r"about\.json can't be read"):
        keyring.entry(HASH)


@pytest.mark.parametrize("about", [None, "damaged", "naive"])
def test_keys_that_nobody_described_do_not_hide_the_others(
    keyring: Keyring, about: str | None
) -> None:
    for digest in (HASH, OTHER):
        keyring.path(digest).parent.mkdir(parents=True)
        keyring.path(digest).write_bytes(b"")
    good = {"circuits_hash": OTHER, "model": "tiny", "evaluation_keys": HASH, "created": 0}
    keyring.path(OTHER).with_name("about.json").write_text(json.dumps(good))
    if about == "naive":  # a time of no zone comes neither before nor after the others
        about = json.dumps(good | {"circuits_hash": HASH, "created": "2026-01-01T00:00:00"})
    if about:
        keyring.path(HASH).with_name("about.json").write_text(about)
    assert [(e.circuits_hash, e.model) for e in keyring.entries()] == [
        (OTHER, "tiny"),
        (HASH, "unknown"),
    ]
    keyring.remove(keyring.find(HASH[:12]))
    assert [entry.circuits_hash for entry in keyring.entries()] == [OTHER]


def test_a_folder_in_place_of_keys_is_none(keyring: Keyring) -> None:
    keyring.path(HASH).mkdir(parents=True)
    assert keyring.entries() == [] and not keyring.is_locked(HASH)


def test_keys_behind_a_link_are_not_removed(keyring: Keyring, tmp_path: Path) -> None:
    keys = tmp_path / "elsewhere" / "secret.keys"
    keys.parent.mkdir()
    keys.write_bytes(b"")
    keyring.folder.mkdir()
    keyring.path(HASH).parent.symlink_to(keys.parent)
    with pytest.raises(InputError, match=r"is a link to .*elsewhere, whose keys stay"):
        keyring.remove(keyring.find(HASH))
    assert keys.exists() and keyring.path(HASH).parent.is_symlink()
