"""The table of jobs: fair between users, each task once, no lease outlives its worker."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

import pytest

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.protocol import Failure, Job, Status, TaskEvent
from fhe_inhibitor.service.database import SCHEMA, Database
from fhe_inhibitor.service.jobs import MAX_CRASHES, MAX_KILLS, Jobs, NewJob
from fhe_inhibitor.service.refusals import Refused

MODEL = "a" * 64
N_TASKS = 3


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(Database(tmp_path / "service.db"), max_unfinished=100, ttl_s=0.0)


def test_a_database_of_the_first_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "service.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(SCHEMA.replace("circuits_hash", "model_hash"))
        connection.execute("INSERT INTO keys VALUES ('ann', 'b', 'a', 3, 1, 0.0, 0.0)")
        connection.execute("PRAGMA user_version = 1")
    for _ in range(2):
        row = Database(path).row("SELECT user, circuits_hash FROM keys")
        assert row is not None and tuple(row) == ("ann", "a")
    with pytest.raises(InputError, match="version 9, this server reads 2"):
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 9")
        Database(path)


def add(jobs: Jobs, user: str, key: str | None = None, request: str = "0" * 64) -> str:
    new = NewJob(user, MODEL, "b" * 64, 4, N_TASKS, request, key)
    return jobs.submit(new, lambda job: None).id


def finish(jobs: Jobs, lease: str, job: str, *indices: int) -> bool:
    events = [
        TaskEvent(stage="project", seconds=0.1, index=index, total=N_TASKS) for index in indices
    ]
    return all([jobs.record(lease, job, event) for event in events])


def claimed(jobs: Jobs, lease: str) -> tuple[str, int]:
    claim = jobs.claim(lease, [MODEL])
    assert claim is not None
    return claim.job, claim.tasks_done


def released(jobs: Jobs, lease: str, crashed: bool) -> Job:
    job = jobs.release(lease, crashed)
    assert job is not None
    return job


def test_users_take_turns(jobs: Jobs) -> None:
    for user in ("greedy",) * 4 + ("late",) * 2 + ("last",):
        add(jobs, user)
    turns = []
    while claim := jobs.claim("worker", [MODEL]):
        turns.append(claim.user)
        assert finish(jobs, "worker", claim.job, 1, 2, 3)
    assert turns == ["greedy", "late", "last", "greedy", "late", "greedy", "greedy"]


def test_a_job_goes_on_after_its_last_task_with_another_worker(jobs: Jobs) -> None:
    job = add(jobs, "alice")
    add(jobs, "bob")
    assert claimed(jobs, "first") == (job, 0)
    assert finish(jobs, "first", job, 1)
    assert released(jobs, "first", crashed=False).status is Status.QUEUED
    assert claimed(jobs, "second") == (job, 1)
    assert not finish(jobs, "first", job, 2), "a worker without a lease recorded a task"
    assert finish(jobs, "second", job, 2, 3)
    ended = jobs.get("alice", job)
    assert (ended.status, ended.restarts) == (Status.DONE, 1)
    assert [event.index for event in jobs.events(job, 0)] == [1, 2, 3]


@pytest.mark.parametrize(("crashed", "limit"), [(True, MAX_CRASHES), (False, MAX_KILLS)])
def test_a_job_that_kills_its_workers_ends(jobs: Jobs, crashed: bool, limit: int) -> None:
    job = add(jobs, "alice")
    for n in range(1, limit + 1):
        jobs.claim(f"worker{n}", [MODEL])
        ended = released(jobs, f"worker{n}", crashed)
        assert ended.status is (Status.FAILED if n == limit else Status.QUEUED)
    assert (ended.error, ended.restarts) == (Failure.WORKER_DIED, limit)
    assert jobs.claim("another", [MODEL]) is None
    assert jobs.get("alice", job) == ended


def test_a_task_that_gets_done_clears_the_account(jobs: Jobs) -> None:
    job = add(jobs, "alice")
    for index in (1, 2):
        jobs.claim("worker", [MODEL])
        assert released(jobs, "worker", crashed=True).status is Status.QUEUED
        jobs.claim("worker", [MODEL])
        assert finish(jobs, "worker", job, index)
    assert jobs.get("alice", job).restarts == 2


def test_a_restarted_server_takes_all_up_but_other_models(jobs: Jobs) -> None:
    job = add(jobs, "alice")
    jobs.claim("old", [MODEL])
    jobs.recover([MODEL])
    assert jobs.get("alice", job).restarts == 0
    assert not finish(jobs, "old", job, 1)
    assert claimed(jobs, "new") == (job, 0)
    jobs.recover(["c" * 64])
    assert jobs.get("alice", job).error is Failure.REFUSED


def test_a_job_that_ends_its_server_again_and_again_fails(jobs: Jobs) -> None:
    """As one does that makes the system kill all of a unit, web process and workers."""
    job, waiting = add(jobs, "alice"), add(jobs, "bob")
    for n in range(1, MAX_KILLS + 1):
        assert claimed(jobs, f"worker{n}") == (job, 0)
        jobs.recover([MODEL])
        ended = jobs.get("alice", job)
        assert ended.status is (Status.FAILED if n == MAX_KILLS else Status.QUEUED)
        with jobs._database.transaction() as connection:
            connection.execute("DELETE FROM served")  # so that it is the first again
    assert ended.error is Failure.WORKER_DIED
    assert ended.message == f"{MAX_KILLS} workers died while they ran task 1 of it"
    for _ in range(MAX_KILLS):
        jobs.recover([MODEL])
    assert claimed(jobs, "another") == (waiting, 0), "a job that waited was taken for the cause"


def test_a_server_that_ends_in_order_is_no_fault_of_its_jobs(jobs: Jobs) -> None:
    job = add(jobs, "alice")
    for n in range(2 * MAX_KILLS):
        assert claimed(jobs, f"worker{n}") == (job, 0)
        jobs.put_back()
        assert not finish(jobs, f"worker{n}", job, 1)
        jobs.recover([MODEL])
    assert jobs.get("alice", job).status is Status.QUEUED
    claimed(jobs, "first")
    assert released(jobs, "first", crashed=True).status is Status.QUEUED, "of two crashes"


def test_a_task_that_gets_done_clears_the_account_of_servers_too(jobs: Jobs) -> None:
    job = add(jobs, "alice")
    for index in (1, 2):
        for n in range(MAX_KILLS - 1):
            claimed(jobs, f"worker{n}")
            jobs.recover([MODEL])
        assert claimed(jobs, "worker") == (job, index - 1)
        assert finish(jobs, "worker", job, index)
        jobs.put_back()
    assert jobs.get("alice", job).status is Status.QUEUED


def test_what_was_cancelled_is_not_recorded(jobs: Jobs) -> None:
    job = add(jobs, "alice")
    jobs.claim("worker", [MODEL])
    with pytest.raises(Refused):
        jobs.remove("bob", job)
    jobs.remove("alice", job)
    assert not finish(jobs, "worker", job, 1)
    assert jobs.fail("worker", Failure.REFUSED, "") is None
    assert jobs.get("alice", job).status is Status.CANCELLED


def test_an_idempotency_key_stands_for_one_request_of_one_user(jobs: Jobs) -> None:
    job = add(jobs, "alice", "key")
    assert add(jobs, "alice", "key") == job
    assert add(jobs, "bob", "key") != job
    with pytest.raises(Refused) as refused:
        add(jobs, "alice", "key", request="1" * 64)
    assert refused.value.code == "idempotency_conflict"


@pytest.mark.parametrize("jump_s", [1e6, -1e6])
def test_a_clock_that_is_set_times_nothing_out(jobs: Jobs, monkeypatch, jump_s: float) -> None:
    add(jobs, "alice")
    jobs.claim("worker", [MODEL])
    now = time.time()
    monkeypatch.setattr("fhe_inhibitor.service.jobs.time.time", lambda: now + jump_s)
    assert jobs.overdue(60.0) == []
    right = time.monotonic()
    monkeypatch.setattr("fhe_inhibitor.service.jobs.time.monotonic", lambda: right + 61)
    assert jobs.overdue(60.0) == ["worker"]


def test_a_job_that_ends_in_time_leaves_the_next_one_alone(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a look for overdue tasks and their end, a worker may have gone on."""
    job, following = add(jobs, "alice"), add(jobs, "alice")
    now = [1000.0]
    monkeypatch.setattr("fhe_inhibitor.service.jobs.time.monotonic", lambda: now[0])
    assert claimed(jobs, "worker") == (job, 0)
    now[0] += 61
    assert jobs.overdue(60.0) == ["worker"]
    finish(jobs, "worker", job, 1, 2, 3)
    assert claimed(jobs, "worker") == (following, 0)
    assert jobs.fail("worker", Failure.TIMED_OUT, "", 60.0) is None
    assert jobs.get("alice", following).status is Status.RUNNING
    now[0] += 61
    assert jobs.fail("worker", Failure.TIMED_OUT, "", 60.0) == following


def test_jobs_expire_and_are_forgotten(jobs: Jobs) -> None:
    job = add(jobs, "alice")
    waiting = add(jobs, "alice")
    jobs.claim("worker", [MODEL])
    finish(jobs, "worker", job, 1, 2, 3)
    jobs.expire()
    assert jobs.statuses() == {waiting: Status.QUEUED}


def test_a_list_has_the_newest_jobs(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fhe_inhibitor.service.jobs.MAX_LISTED", 3)
    ids = [add(jobs, user) for user in ("alice", "bob", "alice", "alice", "alice")]
    assert [job.id for job in jobs.list_of("alice")] == [ids[4], ids[3], ids[2]]
    assert [job.id for job in jobs.list_of("bob")] == [ids[1]]


def test_who_submits_and_cancels_all_day_is_not_remembered_for_ever(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor forgotten: what is done stays until it expires, and so does what others had."""
    monkeypatch.setattr("fhe_inhibitor.service.jobs.MAX_WITHOUT_RESULT", 3)
    done, others = add(jobs, "alice"), add(jobs, "bob")
    claimed(jobs, "worker")
    finish(jobs, "worker", done, 1, 2, 3)
    jobs.remove("bob", others)
    cancelled = [add(jobs, "alice") for _ in range(5)]
    for job in cancelled:
        jobs.remove("alice", job)
    failed = add(jobs, "alice")
    assert claimed(jobs, "worker")[0] == failed
    jobs.fail("worker", Failure.REFUSED, "")
    waiting = add(jobs, "alice")
    assert set(jobs.statuses()) == {done, others, *cancelled[3:], failed, waiting}


def test_a_request_that_cannot_be_stored_is_no_job(jobs: Jobs) -> None:
    def full(_: str) -> None:
        raise OSError

    with pytest.raises(OSError):
        jobs.submit(NewJob("alice", MODEL, "b" * 64, 4, 3, "0" * 64, None), full)
    assert jobs.statuses() == {}


def test_what_failed_is_told_where_sqlite_has_rolled_back(tmp_path: Path) -> None:
    """It does by itself on a full disk; here a statement asks for it, which fails by a key."""
    database = Database(tmp_path / "service.db")
    with pytest.raises(sqlite3.IntegrityError), database.transaction() as connection:
        for turn in (1, 2):
            connection.execute("INSERT OR ROLLBACK INTO served VALUES ('ann', ?)", (turn,))
    with database.transaction() as connection:
        connection.execute("INSERT INTO served VALUES ('bob', 1)")
    assert [row["user"] for row in database.rows("SELECT user FROM served")] == ["bob"]


def test_many_workers_never_share_a_job(jobs: Jobs) -> None:
    for _ in range(40):
        add(jobs, "alice")
    taken: list[str] = []

    def work(lease: str) -> None:
        while claim := jobs.claim(lease, [MODEL]):
            taken.append(claim.job)
            finish(jobs, lease, claim.job, 1, 2, 3)

    workers = [threading.Thread(target=work, args=(f"worker{i}",)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(taken) == len(set(taken)) == 40


def test_a_database_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "service.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(InputError, match="version 99"):
        Database(path)
