"""Who may ask, and how often: bearer tokens, of which only hashes are kept, and a rate for each.

A file of tokens has a line `USER SHA256` for each; `new_token` adds one. A token is 256 random
bits, so that one SHA-256 hides it well. The file is read again whenever it changes.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.service.logs import fields
from fhe_inhibitor.service.refusals import Refused, too_many

TOKEN_PREFIX = "fhei_"
LOG = logging.getLogger(__name__)
USER = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")  # a folder's name, too


def new_token(path: Path, user: str) -> str:
    """Return a new token of a user, after adding its hash to a file of tokens.

    Raises InputError for a user's name with other characters than a-z, 0-9, _ and -.
    """
    if not USER.fullmatch(user):
        raise InputError(f"user {user!r}: take 1 to 64 characters of a-z, 0-9, _ and -")
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(handle, "a", encoding="ascii") as file:
        file.write(f"{user} {_hash(token)}\n")
    return token


class Tokens:
    """The users of a file of tokens; without the file there are none.

    Raises InputError if the file can't be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at: tuple[int, int] | None = None
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
        changed = (status.st_mtime_ns, status.st_size)
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


def _read_tokens(path: Path) -> dict[str, str]:
    """Return the users of a file by the hashes of their tokens."""
    users = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        user, _, digest = line.strip().partition(" ")
        if not USER.fullmatch(user) or not re.fullmatch("[0-9a-f]{64}", digest):
            raise InputError(f"{path}, line {number}: wanted USER SHA256, a token's hash")
        users[digest] = user
    return users


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
