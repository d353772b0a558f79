"""What is known of keys and jobs: SQLite with a write-ahead log, for several processes at once.

keys       one row for each upload: how far it is follows from its file
jobs       one row for each job; `lease` names the worker that runs it, `task_started_at` the moment
           since when it runs its next task, on the clock that nobody sets, of this boot and all
           processes
tasks      one row for each finished task
served     when each user was last given a worker, as a number that only grows
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fhe_inhibitor.errors import InputError

SCHEMA_VERSION = 2
SCHEMA = """
CREATE TABLE keys (
    user TEXT NOT NULL, sha256 TEXT NOT NULL, circuits_hash TEXT NOT NULL, size INTEGER NOT NULL,
    complete INTEGER NOT NULL DEFAULT 0, created_at REAL NOT NULL, used_at REAL NOT NULL,
    PRIMARY KEY (user, sha256)
);
CREATE TABLE jobs (
    id TEXT PRIMARY KEY, user TEXT NOT NULL, circuits_hash TEXT NOT NULL, keys TEXT NOT NULL,
    n INTEGER NOT NULL, status TEXT NOT NULL, tasks_done INTEGER NOT NULL DEFAULT 0,
    tasks_total INTEGER NOT NULL, restarts INTEGER NOT NULL DEFAULT 0,
    deaths INTEGER NOT NULL DEFAULT 0, error TEXT, message TEXT, created_at REAL NOT NULL,
    finished_at REAL, expires_at REAL, idempotency_key TEXT, request_sha256 TEXT NOT NULL,
    lease TEXT, task_started_at REAL, UNIQUE (user, idempotency_key)
);
CREATE INDEX jobs_by_status ON jobs (status, user);
CREATE TABLE tasks (
    job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, idx INTEGER NOT NULL,
    stage TEXT NOT NULL, seconds REAL NOT NULL, PRIMARY KEY (job, idx)
);
CREATE TABLE served (user TEXT PRIMARY KEY, turn INTEGER NOT NULL);
"""
# From version 1, which said model_hash for the hash of the circuits.
MIGRATION = """
ALTER TABLE keys RENAME COLUMN model_hash TO circuits_hash;
ALTER TABLE jobs RENAME COLUMN model_hash TO circuits_hash;
"""
BUSY_S = 30.0


class Database:
    """The service's database file, made if missing; one connection for each thread.

    Raises InputError for a file of another version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.transaction() as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version in (0, 1):
                for statement in filter(str.strip, (SCHEMA, MIGRATION)[version].split(";")):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            elif version != SCHEMA_VERSION:
                raise InputError(
                    f"{path} has version {version}, this server reads {SCHEMA_VERSION}: "
                    "name another data folder"
                )

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection of this thread."""
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(
                "PRAGMA synchronous = FULL"
            )  # what was accepted survives a power cut
            connection.execute("PRAGMA foreign_keys = ON")
            self._local.connection = connection
        return connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Do all of a block or nothing of it, alone among all who write."""
        connection = self.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            if connection.in_transaction:  # SQLite rolls back itself on a full disk, say
                connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        """Return all rows of a query."""
        return self.connection.execute(query, values).fetchall()

    def row(self, query: str, *values: Any) -> sqlite3.Row | None:
        """Return the first row of a query, or None."""
        return self.connection.execute(query, values).fetchone()

    def data_version(self) -> int:
        """Return a number that changes when another connection has written."""
        return self.connection.execute("PRAGMA data_version").fetchone()[0]


def is_full(error: sqlite3.Error) -> bool:
    """Whether SQLite failed for want of space."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
