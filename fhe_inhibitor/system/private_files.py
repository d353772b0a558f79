"""Files that their owner alone can read, whole or absent, locked with a passphrase if wanted.

A locked file is authenticated: one that was changed does not open, nor does one whose parameters
were changed. Its layout, integers little-endian:

    "FHEL" | format, 1 byte | log2 N, r, p of scrypt, 1 byte each | salt, 16 bytes
    | nonce, 12 bytes | AES-256-GCM of the content, with all before as associated data
"""

from __future__ import annotations

import os
import stat
import struct
import unicodedata
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.files import write_atomically

MAGIC, FORMAT = b"FHEL", 1
_HEADER = struct.Struct("<4sBBBB16s12s")
# 128 MB and a third of a second for each guess; a file that asks for more than 1 GB is refused.
LOG_N, R, P = 17, 8, 1
_MAX_MEMORY_BYTES = 1 << 30


def make_private(folder: Path) -> None:
    """Make a folder, and what is missing above it, for the owner only."""
    for part in (*reversed(folder.parents), folder):
        if not part.exists():
            part.mkdir(mode=0o700, exist_ok=True)


def write_private(path: str | Path, data: bytes) -> None:
    """Write a file of mode 0600; it appears whole or not at all.

    Its folder is made, for the owner only, if missing.
    """
    path = Path(path)
    make_private(path.parent)
    write_atomically(path, data, 0o600)


def read_private(path: str | Path) -> bytes:
    """Read a file that `write_private` wrote.

    Raises OSError for a missing one, InputError for one that others than its owner can read.
    """
    with open(path, "rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise InputError(
                f"{path} has mode {mode:04o}, so others may have read it: make new keys, or "
                "`chmod 600` it if you know that nobody did"
            )
        return file.read()


def lock(data: bytes, passphrase: str) -> bytes:
    """Return data encrypted under a passphrase, in Unicode's form NFC.

    Raises InputError for an empty one.
    """
    if not passphrase:
        raise InputError("the passphrase is empty: give one of several words")
    salt, nonce = os.urandom(16), os.urandom(12)
    header = _HEADER.pack(MAGIC, FORMAT, LOG_N, R, P, salt, nonce)
    key = _key(_normal(passphrase), salt, LOG_N, R, P)
    return header + AESGCM(key).encrypt(nonce, data, header)


def is_locked(data: bytes) -> bool:
    """Return whether data, of which the first bytes are enough, is what `lock` gave.

    >>> is_locked(lock(b"keys", "correct horse")), is_locked(b"keys")
    (True, False)
    """
    return data.startswith(MAGIC)


def unlock(data: bytes, passphrase: str | None) -> bytes:
    """Return what was given to `lock`.

    Raises InputError without a passphrase, with a wrong one, and for data that was changed.
    """
    if not passphrase:
        raise InputError("locked with a passphrase: give it")
    try:
        magic, version, log_n, r, p, salt, nonce = _HEADER.unpack_from(data)
    except struct.error as error:
        raise InputError(f"{len(data)} bytes are no whole locked file: restore it") from error
    if (magic, version) != (MAGIC, FORMAT) or 128 * r * p << log_n > _MAX_MEMORY_BYTES:
        raise InputError(
            f"no locked file of format {FORMAT} that opens in 1 GB of memory (it says format "
            f"{version}): restore it"
        )
    header, content = data[: _HEADER.size], data[_HEADER.size :]
    # As it is typed on one system or another; as it came, because versions before 0.2 took it so.
    for form in dict.fromkeys((_normal(passphrase), passphrase, _apart(passphrase))):
        try:
            return AESGCM(_key(form, salt, log_n, r, p)).decrypt(nonce, content, header)
        except (InvalidTag, ValueError) as error:
            failure = error
    raise InputError("a wrong passphrase, or the file was changed") from failure


def _key(passphrase: str, salt: bytes, log_n: int, r: int, p: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=1 << log_n, r=r, p=p).derive(passphrase.encode())


def _normal(passphrase: str) -> str:
    """Return a passphrase with composed characters, whatever the keyboard gave."""
    return unicodedata.normalize("NFC", passphrase)


def _apart(passphrase: str) -> str:
    """Return a passphrase with its characters decomposed."""
    return unicodedata.normalize("NFD", passphrase)
