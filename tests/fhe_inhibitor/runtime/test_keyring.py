"""Keys by model hash: made once, private, listed, locked, removed."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.client import Client
from fhe_inhibitor.runtime.keyring import Keyring
from fhe_inhibitor.system import private_files
from tests.execution import Execution

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
    keyring.make(inhibitor.folder, HASH, "tiny")
    before = keyring.path(HASH).read_bytes()
    keyring.make(inhibitor.folder, HASH, "tiny")
    assert keyring.path(HASH).read_bytes() == before
    for path in [keyring.folder, *keyring.folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    client = Client(inhibitor.folder)
    keyring.load(HASH, client)
    (entry,) = keyring.entries()
    assert (entry.model_hash, entry.model) == (HASH, "tiny")
    # The server knows keys by this hash: loading must give the same bytes each time.
    assert entry.evaluation_keys == hashlib.sha256(client.evaluation_keys()).hexdigest()
    assert keyring.find("aba") == keyring.find("tiny") == entry

    keyring.path(HASH).chmod(0o644)
    with pytest.raises(InputError, match="others may have read it"):
        keyring.load(HASH, client)
    keyring.remove(entry)
    assert list(keyring.folder.iterdir()) == []


@pytest.mark.fhe
def test_locked_keys_open_with_the_passphrase(
    inhibitor: Execution, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private_files, "LOG_N", 4)
    keyring.make(inhibitor.folder, HASH, "tiny", "correct horse")
    keyring.make(inhibitor.folder, OTHER, "tiny")
    assert keyring.is_locked(HASH) and not keyring.is_locked(OTHER)
    client = Client(inhibitor.folder)
    keyring.load(HASH, client, "correct horse")
    for wrong in (None, "", "battery staple"):
        with pytest.raises(InputError, match="don't open"):
            keyring.load(HASH, client, wrong)
    for ambiguous in ("a", "tiny", ""):
        with pytest.raises(InputError, match="not one"):
            keyring.find(ambiguous)


@pytest.mark.fhe
def test_a_folder_that_cannot_be_written_is_said(inhibitor: Execution, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't be written.*FHE_INHIBITOR_KEYS"):
        Keyring(tmp_path / "file").make(inhibitor.folder, HASH, "tiny")


def test_a_damaged_entry_is_named(keyring: Keyring) -> None:
    keyring.path(HASH).parent.mkdir(parents=True)
    keyring.path(HASH).write_bytes(b"")
    with pytest.raises(InputError, match=r"about\.json can't be read"):
        keyring.entries()
