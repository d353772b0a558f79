"""Jobs, from the queue to the result: what may happen to one, each step a transaction.

    submit -> queued -> claim -> running -> record, once for each task -> done
                ^                   |
                +----- release -----+    its worker died: another goes on after the last task
                +----- put_back ----+    its server ends
                +----- recover -----+    its server died
    fail, cancel, expire

A worker holds a lease on its job. What a worker reports under a lease that was released or
cancelled meanwhile is dropped, so that each task counts once.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from fhe_inhibitor.runtime.protocol import Failure, Job, Status, TaskEvent
from fhe_inhibitor.service.database import Database
from fhe_inhibitor.service.refusals import Refused, not_found, too_many

# Of one task. A crash is the job's fault. A worker that was killed was more likely somebody else's
# victim: its own memory limit keeps it from being the kernel's.
MAX_CRASHES, MAX_KILLS = 2, 20
MAX_LISTED = 1000
MAX_WITHOUT_RESULT = 1000  # ended jobs of one user, who can submit and cancel them all day
UNFINISHED = f"status IN ('{Status.QUEUED}', '{Status.RUNNING}')"


@dataclass(frozen=True)
class NewJob:
    """A request that was found to fit its model and keys; request_sha256: of its bytes."""

    user: str
    circuits_hash: str
    keys: str
    n: int
    tasks_total: int
    request_sha256: str
    idempotency_key: str | None


@dataclass(frozen=True)
class Claim:
    """A job that a worker is to go on with, after `tasks_done` tasks."""

    job: str
    user: str
    circuits_hash: str
    keys: str
    tasks_done: int


class Jobs:
    """The table of jobs. max_unfinished: of one user. ttl_s: from a job's end until it expires."""

    def __init__(self, database: Database, max_unfinished: int, ttl_s: float) -> None:
        self._database = database
        self._max_unfinished = max_unfinished
        self._ttl_s = ttl_s

    # What a user asks.

    def submit(self, new: NewJob, admit: Callable[[str], None]) -> Job:
        """Return a job for a request: a new one, or that of the same idempotency key.

        admit: checks what a new job needs, and writes its request. It is given the job's id, and
        called in the transaction that adds the job, so that nobody removes its keys in between.
        Refuses a user's idempotency key with another request, and more jobs than allowed.
        """
        with self._database.transaction() as connection:
            first = connection.execute(
                "SELECT * FROM jobs WHERE user = ? AND idempotency_key = ?",
                (new.user, new.idempotency_key),
            ).fetchone()
            if first is not None:
                return _repeated(first, new)
            (waiting,) = connection.execute(
                f"SELECT count(*) FROM jobs WHERE user = ? AND {UNFINISHED}", (new.user,)
            ).fetchone()
            if waiting >= self._max_unfinished:
                message = f"{waiting} jobs are unfinished; wait for one or remove it"
                raise too_many("too_many_jobs", message, 10)
            _forget_oldest(connection, new.user)
            job = uuid4().hex
            admit(job)
            connection.execute(
                "INSERT INTO jobs (id, user, circuits_hash, keys, n, status, tasks_total,"
                " created_at, idempotency_key, request_sha256)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    job,
                    new.user,
                    new.circuits_hash,
                    new.keys,
                    new.n,
                    Status.QUEUED,
                    new.tasks_total,
                    time.time(),
                    new.idempotency_key,
                    new.request_sha256,
                ),
            )
        return self.get(new.user, job)

    def get(self, user: str, job: str) -> Job:
        """Return a user's job; refuses with 404 what is not one."""
        row = self._database.row("SELECT * FROM jobs WHERE user = ? AND id = ?", user, job)
        if row is None:
            raise not_found("job")
        return _job(row)

    def list_of(self, user: str) -> list[Job]:
        """Return a user's `MAX_LISTED` newest jobs, the newest first."""
        query = "SELECT * FROM jobs WHERE user = ? ORDER BY created_at DESC, rowid DESC LIMIT ?"
        return [_job(row) for row in self._database.rows(query, user, MAX_LISTED)]

    def events(self, job: str, after: int) -> list[TaskEvent]:
        """Return the finished tasks of a job whose index is greater than `after`."""
        query = (
            "SELECT stage, seconds, idx, tasks_total FROM tasks JOIN jobs ON jobs.id = tasks.job"
            " WHERE job = ? AND idx > ? ORDER BY idx"
        )
        return [
            TaskEvent(
                stage=row["stage"],
                seconds=row["seconds"],
                index=row["idx"],
                total=row["tasks_total"],
            )
            for row in self._database.rows(query, job, after)
        ]

    def remove(self, user: str, job: str) -> None:
        """Cancel a user's unfinished job, forget another one; refuses with 404 what is none."""
        with self._database.transaction() as connection:
            if not self._end(connection, job, Status.CANCELLED, user=user):
                delete = "DELETE FROM jobs WHERE user = ? AND id = ?"
                if connection.execute(delete, (user, job)).rowcount == 0:
                    raise not_found("job")

    # What a worker does.

    def claim(self, lease: str, models: Collection[str]) -> Claim | None:
        """Return a job to run, of the user whose turn was longest ago; None if none waits.

        A job that lost its worker goes first: it had its turn. models: hashes that can be run.
        """
        marks = ", ".join("?" * len(models))
        with self._database.transaction() as connection:
            row = connection.execute(
                "SELECT jobs.* FROM jobs LEFT JOIN served ON served.user = jobs.user WHERE"
                f" status = '{Status.QUEUED}' AND circuits_hash IN ({marks})"
                " ORDER BY restarts > 0 DESC, coalesce(turn, 0), created_at, jobs.rowid LIMIT 1",
                tuple(models),
            ).fetchone()
            if row is None:
                return None
            connection.execute(
                f"UPDATE jobs SET status = '{Status.RUNNING}', lease = ?, task_started_at = ?"
                " WHERE id = ?",
                (lease, time.monotonic(), row["id"]),
            )
            connection.execute(
                "INSERT INTO served SELECT ?, 1 + coalesce(max(turn), 0) FROM served WHERE true"
                " ON CONFLICT (user) DO UPDATE SET turn = excluded.turn",
                (row["user"],),
            )
        return Claim(row["id"], row["user"], row["circuits_hash"], row["keys"], row["tasks_done"])

    def record(self, lease: str, job: str, event: TaskEvent) -> bool:
        """Record a finished task, the last one as the job's end; False if the lease is gone."""
        with self._database.transaction() as connection:
            held = connection.execute(
                "UPDATE jobs SET tasks_done = ?, deaths = 0, task_started_at = ?"
                " WHERE id = ? AND lease = ?",
                (event.index, time.monotonic(), job, lease),
            ).rowcount
            if held:
                connection.execute(
                    "INSERT INTO tasks VALUES (?, ?, ?, ?)",
                    (job, event.index, event.stage, event.seconds),
                )
                if event.index == event.total:
                    self._end(connection, job, Status.DONE)
        return bool(held)

    def fail(
        self, lease: str, failure: Failure, message: str, timeout_s: float = 0.0
    ) -> str | None:
        """End the job of a lease as failed; return it, or None if the lease is gone.

        timeout_s: only if its task takes longer than that. Meanwhile its worker may have gone on
        to the next one.
        """
        with self._database.transaction() as connection:
            row = connection.execute(
                "SELECT id FROM jobs WHERE lease = ? AND task_started_at <= ?",
                (lease, time.monotonic() - timeout_s),
            ).fetchone()
            if row is None:
                return None
            self._end(connection, row["id"], Status.FAILED, failure=failure, message=message)
        return row["id"]

    # What the supervisor does.

    def release(self, lease: str, crashed: bool) -> Job | None:
        """Give a dead worker's job to the next one, or end it; return it, None if it had none.

        crashed: the worker ended itself, as Concrete does on forged input, and wasn't killed.
        """
        with self._database.transaction() as connection:
            row = connection.execute("SELECT * FROM jobs WHERE lease = ?", (lease,)).fetchone()
            if row is None:
                return None
            connection.execute("UPDATE jobs SET restarts = restarts + 1 WHERE id = ?", (row["id"],))
            self._count_death(connection, row, MAX_CRASHES if crashed else MAX_KILLS)
        return self.get(row["user"], row["id"])

    # What a server does at its end, and at its start.

    def put_back(self) -> None:
        """Queue all jobs that run, for a server that ends its workers: no job died of it."""
        with self._database.transaction() as connection:
            connection.execute(
                f"UPDATE jobs SET status = '{Status.QUEUED}', lease = NULL"
                f" WHERE status = '{Status.RUNNING}'"
            )

    def recover(self, models: Collection[str]) -> None:
        """Release all jobs, for a server that starts: no worker of the last one may go on.

        A job that still runs by the table lost its worker together with the server. It may be what
        ended both, as by taking more memory than the system grants them, or be a victim. So that
        counts as a kill. models: hashes that the server serves; jobs for others fail.
        """
        with self._database.transaction() as connection:
            running = f"SELECT * FROM jobs WHERE status = '{Status.RUNNING}'"
            for row in connection.execute(running).fetchall():
                self._count_death(connection, row, MAX_KILLS)
            query = f"SELECT id, circuits_hash FROM jobs WHERE {UNFINISHED}"
            for row in connection.execute(query).fetchall():
                if row["circuits_hash"] not in models:
                    message = "the server no longer runs this job's model"
                    self._end(
                        connection,
                        row["id"],
                        Status.FAILED,
                        failure=Failure.REFUSED,
                        message=message,
                    )

    def overdue(self, timeout_s: float) -> list[str]:
        """Return the leases of workers whose task takes longer than that."""
        query = "SELECT lease FROM jobs WHERE lease IS NOT NULL AND task_started_at < ?"
        return [row["lease"] for row in self._database.rows(query, time.monotonic() - timeout_s)]

    def expire(self) -> int:
        """Let jobs expire, and count them; forget them a second `ttl_s` later."""
        now = time.time()
        with self._database.transaction() as connection:
            n_expired = connection.execute(
                f"UPDATE jobs SET status = '{Status.EXPIRED}' WHERE expires_at < ?"
                f" AND status != '{Status.EXPIRED}'",
                (now,),
            ).rowcount
            connection.execute(
                f"DELETE FROM jobs WHERE status = '{Status.EXPIRED}' AND expires_at < ?",
                (now - self._ttl_s,),
            )
        return n_expired

    def statuses(self) -> dict[str, Status]:
        """Return the status of each job, of all users."""
        rows = self._database.rows("SELECT id, status FROM jobs")
        return {row["id"]: Status(row["status"]) for row in rows}

    def longest_wait_s(self) -> float | None:
        """Return how long the oldest queued job has waited; None if none is queued."""
        query = f"SELECT min(created_at) AS at FROM jobs WHERE status = '{Status.QUEUED}'"
        (row,) = self._database.rows(query)
        return None if row["at"] is None else max(0.0, time.time() - row["at"])

    def counts(self) -> dict[str, int]:
        """Return the number of jobs by status."""
        query = "SELECT status, count(*) AS n FROM jobs GROUP BY status"
        counts = {row["status"]: row["n"] for row in self._database.rows(query)}
        return {status.value: counts.get(status, 0) for status in Status}

    def _count_death(self, connection: sqlite3.Connection, row: sqlite3.Row, limit: int) -> None:
        """Queue a job that lost its worker, or end it if that is the `limit`-th at one task."""
        connection.execute(
            f"UPDATE jobs SET status = '{Status.QUEUED}', lease = NULL, deaths = deaths + 1"
            " WHERE id = ?",
            (row["id"],),
        )
        if row["deaths"] + 1 >= limit:
            message = f"{limit} workers died while they ran task {row['tasks_done'] + 1} of it"
            self._end(
                connection,
                row["id"],
                Status.FAILED,
                failure=Failure.WORKER_DIED,
                message=message,
            )

    def _end(
        self,
        connection: sqlite3.Connection,
        job: str,
        status: Status,
        failure: Failure | None = None,
        message: str | None = None,
        user: str | None = None,
    ) -> bool:
        """End an unfinished job, of that user if given; False if there is none."""
        now = time.time()
        ended: dict[str, Any] = {
            "id": job,
            "user": user,
            "status": status,
            "error": failure,
            "message": message,
            "now": now,
            "expires": now + self._ttl_s,
        }
        cursor = connection.execute(
            "UPDATE jobs SET status = :status, error = :error, message = :message,"
            " finished_at = :now, expires_at = :expires, lease = NULL"
            f" WHERE id = :id AND (:user IS NULL OR user = :user) AND {UNFINISHED}",
            ended,
        )
        return cursor.rowcount > 0


def _forget_oldest(connection: sqlite3.Connection, user: str) -> None:
    """Forget a user's ended jobs without a result, but for the newest.

    The next cleaning takes their files.
    """
    ended = f"user = :user AND status != '{Status.DONE}' AND NOT {UNFINISHED}"
    connection.execute(
        f"DELETE FROM jobs WHERE {ended} AND rowid NOT IN (SELECT rowid FROM jobs WHERE {ended}"
        " ORDER BY finished_at DESC, rowid DESC LIMIT :most)",
        {"user": user, "most": MAX_WITHOUT_RESULT},
    )


def _repeated(first: sqlite3.Row, new: NewJob) -> Job:
    """Return the job that the same request made before."""
    asked = (new.circuits_hash, new.keys, new.request_sha256)
    if (first["circuits_hash"], first["keys"], first["request_sha256"]) != asked:
        raise Refused(
            409,
            "idempotency_conflict",
            "this idempotency key came with another request before: take a new one",
        )
    return _job(first)


def _job(row: sqlite3.Row) -> Job:
    return Job(**{name: row[name] for name in Job.model_fields})
