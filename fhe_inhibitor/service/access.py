"""Who may ask, and how much: bearer tokens, of which only hashes are kept, and limits for each.

A file of tokens has a line `USER SHA256` for each; `new_token` adds one, `revoke` removes those of
a user. A token is 256 random bits, so that one SHA-256 hides it well. The file is read again
whenever it changes.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import stat
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.service.logs import fields
from fhe_inhibitor.service.refusals import Refused, too_many
from fhe_inhibitor.system.files import write_atomically

TOKEN_PREFIX = "fhei_"
LOG = logging.getLogger(__name__)
AT_ONCE_WAIT_S = 10  # before another try for what a user has too many of at once
USER = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")  # a folder's name, too


def new_token(path: Path, user: str) -> str:
    """Return a new token of a user, after adding its hash to a file of tokens.

    Raises InputError for a user's name with other characters than a-z, 0-9, _ and -, and for a
    file that can't be read or written.
    """
    if not USER.fullmatch(user):
        raise InputError(f"user {user!r}: take 1 to 64 characters of a-z, 0-9, _ and -")
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    with _writing(path), open(path, "a+b", opener=_private) as file:
        _read_tokens(path)  # a server that can't read it would never know the new one
        gap = b"\n" if _is_cut(file) else b""
        file.write(gap + f"{user} {_hash(token)}\n".encode())
    return token


def list_tokens(path: Path) -> list[tuple[str, str]]:
    """Return user and SHA-256 of each token in a file, in its order; none without the file.

    Raises InputError if it can't be read.
    """
    return [(user, digest) for digest, user in _read_tokens(path).items()] if path.exists() else []


def revoke(path: Path, user: str) -> int:
    """Remove all tokens of a user from a file; return how many. Other lines stay as they are.

    Raises InputError for a user without one, and a file that can't be read or written.
    """
    n_tokens = [name for name, _ in list_tokens(path)].count(user)
    if not n_tokens:
        raise InputError(f"{user!r} has no token in {path}; `fhe-inhibitor tokens list` shows who")
    with _writing(path):
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.strip().partition(" ")[0] != user]
        status = path.stat()
        write_atomically(path, "".join(kept), stat.S_IMODE(status.st_mode))
        if os.geteuid() != status.st_uid:  # root's doing: the server must be able to read it
            os.chown(path, status.st_uid, status.st_gid)
    return n_tokens


def _is_cut(file: BinaryIO) -> bool:
    """Whether the last line of a file lacks its end."""
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Hold a file of tokens for this process alone. Raises InputError if it can't be written."""
    path = Path(os.path.realpath(path))  # the same lock by whatever link
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(path.with_name(f"{path.name}.lock"), mode=0o600):
            yield
    except OSError as error:
        raise InputError(
            f"the tokens file {path} can't be written ({error.strerror}): make it writable, or "
            "name another one, tokens_file in the settings"
        ) from error


class Tokens:
    """The users of a file of tokens; without the file there are none.

    Raises InputError if the file can't be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at: tuple[int, ...] | None = None
        self._users: dict[str, str] = {}
        self._refresh()

    def user(self, authorization: str | None) -> str:
        """Return whom an `Authorization` header belongs to, else refuse with 401."""
        scheme, _, token = (authorization or "").partition(" ")
        try:
            self._refresh()
        except (OSError, InputError) as error:
            LOG.error("tokens can't be read", extra=fields(reason=str(error)))  # the old ones stay
        user = self._users.get(_hash(token.strip()))
        if scheme.lower() != "bearer" or user is None:
            raise Refused(
                401,
                "no_token",
                "send a token that this server knows: Authorization: Bearer TOKEN",
                {"WWW-Authenticate": "Bearer"},
            )
        return user

    def _refresh(self) -> None:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            self._users, self._read_at = {}, None
            return
        changed = (status.st_mtime_ns, status.st_size, status.st_ino)
        if changed != self._read_at:
            self._users, self._read_at = _read_tokens(self._path), changed


@dataclass
class _Bucket:
    left: float
    at_s: float


class Rates:
    """Lets each user ask `burst` times at once, and `per_s` times a second on the average."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s, self._burst = per_s, burst
        self._buckets: dict[str, _Bucket] = {}

    def count(self, user: str) -> None:
        """Count one request; refuse with 429 one that is too many."""
        now = time.monotonic()
        bucket = self._buckets.setdefault(user, _Bucket(self._burst, now))
        bucket.left = min(self._burst, bucket.left + (now - bucket.at_s) * self._per_s)
        bucket.at_s = now
        if bucket.left < 1:
            wait_s = (1 - bucket.left) / self._per_s
            raise too_many("too_many_requests", "too many requests; wait a moment", wait_s)
        bucket.left -= 1


class AtOnce:
    """Lets each user have `most` things of a kind open at once.

    code: of the refusal of one more. message: says how many there are, and what to do.
    """

    def __init__(self, most: int, code: str, message: str) -> None:
        self._most, self._code, self._message = most, code, message
        self._open: Counter[str] = Counter()

    @contextmanager
    def counted(self, user: str) -> Iterator[None]:
        """Count one while it is open; refuse with 429 one that is too many."""
        if self._open[user] >= self._most:
            raise too_many(self._code, self._message, AT_ONCE_WAIT_S)
        self._open[user] += 1
        try:
            yield
        finally:
            self._open[user] -= 1


def _read_tokens(path: Path) -> dict[str, str]:
    """Return the users of a file by the hashes of their tokens."""
    users = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"the tokens file {path} can't be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        user, _, digest = line.strip().partition(" ")
        if not USER.fullmatch(user) or not re.fullmatch("[0-9a-f]{64}", digest):
            raise InputError(f"{path}, line {number}: wanted USER SHA256, a token's hash")
        users[digest] = user
    return users


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
