"""Private files are their owner's, whole or absent; locked ones open with the passphrase alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system import private_files
from fhe_inhibitor.system.private_files import is_locked, lock, read_private, unlock, write_private

CONTENT, PASSPHRASE = b"secret keys" * 9, "correct horse"


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """As few rounds of scrypt as it takes."""
    monkeypatch.setattr(private_files, "LOG_N", 4)


def test_file_and_folder_are_the_owners(tmp_path: Path) -> None:
    path = tmp_path / "made" / "here" / "file"
    write_private(path, CONTENT)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for folder in (path.parent, path.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert read_private(path) == CONTENT
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    write_private(tmp_path / "file", CONTENT)
    (tmp_path / "file").chmod(mode)
    with pytest.raises(InputError, match=f"mode 0{mode:o}, so others may have read it"):
        read_private(tmp_path / "file")


def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_private(tmp_path / "file", CONTENT)

    def full(_: int) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_private(tmp_path / "file", b"other")
    assert read_private(tmp_path / "file") == CONTENT
    assert os.listdir(tmp_path) == ["file"]


def test_a_passphrase_is_the_same_on_every_keyboard(
    fast: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    composed, apart = "caf\u00e9 \u00fcber", "cafe\u0301 u\u0308ber"
    for given in (composed, apart):
        for typed in (composed, apart):
            assert unlock(lock(CONTENT, given), typed) == CONTENT
        with pytest.raises(InputError, match="wrong passphrase"):
            unlock(lock(CONTENT, given), "cafe uber")
    with monkeypatch.context() as context:  # as versions before 0.2 did
        context.setattr(private_files, "_normal", lambda passphrase: passphrase)
        old = [lock(CONTENT, composed), lock(CONTENT, apart)]
    for locked in old:
        for typed in (composed, apart):
            assert unlock(locked, typed) == CONTENT


def test_a_locked_file_opens_with_its_passphrase_alone() -> None:
    locked = lock(CONTENT, PASSPHRASE)  # as slow as it really is
    assert is_locked(locked) and not is_locked(CONTENT)
    assert CONTENT[:16] not in locked
    assert unlock(locked, PASSPHRASE) == CONTENT
    with pytest.raises(InputError, match="wrong passphrase"):
        unlock(locked, PASSPHRASE + " ")


def test_equal_contents_are_locked_differently(fast: None) -> None:
    one, other = lock(CONTENT, PASSPHRASE), lock(CONTENT, PASSPHRASE)
    assert one[8:36] != other[8:36] and one[36:] != other[36:]


def test_every_changed_byte_and_every_cut_is_refused(fast: None) -> None:
    locked = lock(CONTENT, PASSPHRASE)
    for position in range(len(locked)):
        changed = bytearray(locked)
        changed[position] ^= 1
        with pytest.raises(InputError):
            unlock(bytes(changed), PASSPHRASE)
    for end in range(len(locked)):
        with pytest.raises(InputError):
            unlock(locked[:end], PASSPHRASE)


def test_parameters_that_would_take_the_machine_down_are_refused(fast: None) -> None:
    locked = bytearray(lock(CONTENT, PASSPHRASE))
    locked[5] = 40  # log2 N
    with pytest.raises(InputError, match="no locked file"):
        unlock(bytes(locked), PASSPHRASE)


@pytest.mark.parametrize("passphrase", ["", None])
def test_a_missing_passphrase_is_said(fast: None, passphrase: str | None) -> None:
    with pytest.raises(InputError, match="locked with a passphrase"):
        unlock(lock(CONTENT, PASSPHRASE), passphrase)
    with pytest.raises(InputError, match="passphrase is empty"):
        lock(CONTENT, "")
