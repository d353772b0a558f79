"""Evaluation keys, received piece by piece and straight to disk; an interruption loses nothing.

How much of unfinished keys has arrived is the size of their file. When all is there its SHA-256 is
taken; the file gets its final name only if that is the one announced. Room on the disk is kept for
what has been announced and is missing, for an hour after the last piece.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from sqlite3 import Connection, Row

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.messages import KEYS_HEADER_BYTES, unpack_keys
from fhe_inhibitor.runtime.protocol import UPLOAD_OFFSET, KeysState, NewKeys
from fhe_inhibitor.service.database import Database
from fhe_inhibitor.service.jobs import UNFINISHED
from fhe_inhibitor.service.refusals import Refused, not_found, too_large, too_many
from fhe_inhibitor.service.settings import Settings
from fhe_inhibitor.service.status import KeysCount
from fhe_inhibitor.service.storage import Storage, as_disk_full
from fhe_inhibitor.system.files import sync_folder

WRITE_BYTES = 1 << 20
UNDER_WAY_S = 3600.0  # that room is kept for, since the last piece or announcement


class Uploads:
    """All users' evaluation keys."""

    def __init__(self, database: Database, storage: Storage, settings: Settings) -> None:
        self._database = database
        self._storage = storage
        self._settings = settings
        self._busy: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def recover(self) -> None:
        """Complete keys that had got their final name when the server was killed."""
        for row in self._database.rows("SELECT * FROM keys WHERE NOT complete"):
            if self._storage.keys(row["user"], row["sha256"]).exists():
                self._complete(row["user"], row["sha256"])

    def start(self, user: str, new: NewKeys, keys_hash: str) -> KeysState:
        """Announce keys, or go on with those of the same SHA-256.

        keys_hash: of the circuits that the keys must belong to. Refuses keys that are too large,
        more keys than allowed, a size that differs from the one announced before, and keys that
        are here and belong to other circuits. Raises DiskFullError.
        """
        if new.size > self._settings.max_keys_bytes:
            raise too_large("keys", self._settings.max_keys_bytes)
        now = time.time()
        with self._database.transaction() as connection:
            rows = connection.execute("SELECT * FROM keys WHERE user = ?", (user,)).fetchall()
            sizes = {row["sha256"]: row["size"] for row in rows}
            if sizes.get(new.sha256, new.size) != new.size:
                message = f"these keys were announced with {sizes[new.sha256]} bytes"
                raise Refused(422, "invalid", message)
            if new.sha256 not in sizes:
                if len(sizes) >= self._settings.max_keys:
                    message = (
                        f"{len(sizes)} keys are here already: `fhe-inhibitor keys list --server "
                        "URL` shows them, `fhe-inhibitor keys remove SHA256 --server URL` removes "
                        "one"
                    )
                    raise too_many("too_many_keys", message, 60)
            else:
                self._check_header(user, new.sha256, keys_hash)
            connection.execute(
                "INSERT INTO keys (user, sha256, circuits_hash, size, created_at, used_at)"
                " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (user, sha256)"
                " DO UPDATE SET circuits_hash = excluded.circuits_hash, used_at = excluded.used_at",
                (user, new.sha256, new.circuits_hash, new.size, now, now),
            )
            self._reserve(connection, user, new.sha256)
        return self.get(user, new.sha256)

    def get(self, user: str, sha256: str) -> KeysState:
        """Return how far a user's keys are; refuses with 404 what is not there."""
        return self._state(self._row(user, sha256))

    def list_of(self, user: str) -> list[KeysState]:
        """Return all of a user's keys, in the order of their arrival."""
        query = "SELECT * FROM keys WHERE user = ? ORDER BY created_at"
        return [self._state(row) for row in self._database.rows(query, user)]

    def use(self, user: str, sha256: str, circuits_hash: str) -> None:
        """Let keys live on; refuses with 404 and 409 those that no job of that hash can have.

        To be called in the transaction that adds the job: until then they may be removed.
        """
        state = self.get(user, sha256)
        if not state.complete:
            message = f"{state.received} of {state.size} bytes of these keys are here: go on"
            raise Refused(409, "keys_incomplete", message)
        if state.circuits_hash != circuits_hash:
            raise Refused(409, "wrong_model", "these keys were announced for another model")
        self._touch(self._database.connection, user, sha256)

    def remove(self, user: str, sha256: str) -> None:
        """Remove keys; refuses with 409 those that an unfinished job needs."""
        self._remove(user, sha256, unused_since=math.inf)

    def expire(self) -> int:
        """Drop keys that no one used for `keys_ttl_s` and no unfinished job needs; count them."""
        long_ago = time.time() - self._settings.keys_ttl_s
        n_dropped = 0
        for row in self._database.rows("SELECT * FROM keys WHERE used_at < ?", long_ago):
            with suppress(Refused):  # in use, or removed meanwhile
                self._remove(row["user"], row["sha256"], unused_since=long_ago)
                n_dropped += 1
        return n_dropped

    def announced(self) -> set[tuple[str, str]]:
        """Return user and SHA-256 of all keys."""
        rows = self._database.rows("SELECT user, sha256 FROM keys")
        return {(row["user"], row["sha256"]) for row in rows}

    def count(self) -> KeysCount:
        """Return how many keys there are, of all users."""
        query = (
            "SELECT coalesce(sum(complete), 0) AS complete, count(*) AS n,"
            " coalesce(sum(complete * size), 0) AS n_bytes FROM keys"
        )
        (row,) = self._database.rows(query)
        complete = row["complete"]
        return KeysCount(complete=complete, arriving=row["n"] - complete, n_bytes=row["n_bytes"])

    async def append(
        self, user: str, sha256: str, offset: int, chunks: AsyncIterator[bytes], keys_hash: str
    ) -> KeysState:
        """Add a piece; the last one completes the keys.

        offset: where it begins, which must be where the server's bytes end. keys_hash: of the
        circuits that the keys must belong to. A piece that breaks off keeps what arrived.
        """
        row = self._row(user, sha256)
        if row["complete"] or offset != self._state(row).received:
            received = self._state(row).received
            message = f"{received} bytes of these keys are here: go on from there"
            raise Refused(409, "wrong_offset", message, {UPLOAD_OFFSET: str(received)})
        with self._alone(user, sha256):
            await asyncio.to_thread(self._go_on, user, sha256)
            path = self._storage.unfinished_keys(user, sha256)
            try:
                await _write(path, row["size"] - offset, chunks)
            except OSError as error:
                raise as_disk_full(error) from error
            await asyncio.to_thread(self._check, row, path, keys_hash)
        return self.get(user, sha256)

    def _remove(self, user: str, sha256: str, unused_since: float) -> None:
        with self._alone(user, sha256):
            with self._database.transaction() as connection:
                used_at = self._row(user, sha256)["used_at"]
                query = f"SELECT count(*) FROM jobs WHERE user = ? AND keys = ? AND {UNFINISHED}"
                n_jobs = connection.execute(query, (user, sha256)).fetchone()[0]
                if n_jobs or used_at >= unused_since:
                    message = "unfinished jobs need these keys: wait for those or remove them"
                    raise Refused(409, "keys_in_use", message)
                self._forget(connection, user, sha256)
            self._storage.remove_keys(user, sha256)

    @contextmanager
    def _alone(self, user: str, sha256: str) -> Iterator[None]:
        """Let one request at a time add to keys, or remove them."""
        with self._lock:
            if (user, sha256) in self._busy:
                raise _busy()
            self._busy.add((user, sha256))
        try:
            yield
        finally:
            self._busy.remove((user, sha256))

    def _check(self, row: Row, path: Path, keys_hash: str) -> None:
        """Complete keys that are all there; drop those that are wrong."""
        user, sha256 = row["user"], row["sha256"]
        received = path.stat().st_size if path.exists() else 0
        try:
            if received >= KEYS_HEADER_BYTES:
                _read_header(path, keys_hash)
            if received < row["size"]:
                return
            with open(path, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    raise InputError("the keys' SHA-256 is another than announced: send them again")
                os.fsync(file.fileno())
        except InputError as error:
            with self._database.transaction() as connection:
                self._forget(connection, user, sha256)
            self._storage.remove_keys(user, sha256)
            raise Refused(422, "wrong_keys", str(error)) from error
        os.replace(path, self._storage.keys(user, sha256))
        sync_folder(path.parent)
        self._complete(user, sha256)

    def _go_on(self, user: str, sha256: str) -> None:
        """Note that more of some keys comes."""
        with self._database.transaction() as connection:
            self._touch(connection, user, sha256)
            self._reserve(connection, user, sha256)

    def _reserve(self, connection: Connection, user: str, sha256: str) -> None:
        """Raise DiskFullError unless there is room for some keys and all others under way.

        To be called in the transaction that announces them or goes on with them.
        """
        query = "SELECT * FROM keys WHERE NOT complete AND used_at >= ?"
        rows = connection.execute(query, (time.time() - UNDER_WAY_S,)).fetchall()
        if any((row["user"], row["sha256"]) == (user, sha256) for row in rows):
            states = [self._state(row) for row in rows]
            self._storage.need(sum(state.size - state.received for state in states))

    def _check_header(self, user: str, sha256: str, keys_hash: str) -> None:
        path = self._storage.keys(user, sha256)
        if path.exists():
            try:
                _read_header(path, keys_hash)
            except InputError as error:
                raise Refused(422, "wrong_keys", str(error)) from error

    def _touch(self, connection: Connection, user: str, sha256: str) -> None:
        """Note that keys were used now; refuses with 404 what was removed meanwhile."""
        query = "UPDATE keys SET used_at = ? WHERE user = ? AND sha256 = ?"
        if not connection.execute(query, (time.time(), user, sha256)).rowcount:
            raise not_found("keys")

    def _forget(self, connection: Connection, user: str, sha256: str) -> None:
        connection.execute("DELETE FROM keys WHERE user = ? AND sha256 = ?", (user, sha256))

    def _complete(self, user: str, sha256: str) -> None:
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE keys SET complete = 1, used_at = ? WHERE user = ? AND sha256 = ?",
                (time.time(), user, sha256),
            )

    def _row(self, user: str, sha256: str) -> Row:
        query = "SELECT * FROM keys WHERE user = ? AND sha256 = ?"
        row = self._database.row(query, user, sha256)
        if row is None:
            raise not_found("keys")
        return row

    def _state(self, row: Row) -> KeysState:
        return KeysState(
            sha256=row["sha256"],
            circuits_hash=row["circuits_hash"],
            size=row["size"],
            received=(
                row["size"]
                if row["complete"]
                else self._storage.received(row["user"], row["sha256"])
            ),
            complete=bool(row["complete"]),
            created_at=row["created_at"],
            expires_at=row["used_at"] + self._settings.keys_ttl_s,
        )


def _read_header(path: Path, keys_hash: str) -> None:
    """Raise InputError for keys of other circuits."""
    with open(path, "rb") as file:
        unpack_keys(keys_hash, file.read(KEYS_HEADER_BYTES))


async def _write(path: Path, wanted: int, chunks: AsyncIterator[bytes]) -> None:
    """Append chunks to a file, `wanted` bytes at most; more are refused, all of them."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with open(path, "ab", buffering=WRITE_BYTES) as file:
        start = file.tell()
        n_bytes = 0
        async for chunk in chunks:
            n_bytes += len(chunk)
            if n_bytes > wanted:
                file.truncate(start)
                raise too_large("the rest of these keys", wanted)
            await asyncio.to_thread(file.write, chunk)


def _busy() -> Refused:
    return Refused(409, "upload_busy", "another request is sending these keys")
