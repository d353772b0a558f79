"""What keeps the service going can't end in silence: it goes on, and /ready knows if it doesn't."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from fhe_inhibitor.cluster.orders import ClusterError, EngineDiedError
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.protocol import Failure, Status
from fhe_inhibitor.service.jobs import Claim, Jobs, NewJob
from fhe_inhibitor.service.orders import Order, Report
from fhe_inhibitor.service.service import Service
from fhe_inhibitor.service.settings import load_settings
from fhe_inhibitor.service.supervisor import Supervisor
from fhe_inhibitor.service.watchers import Watchers, repeat
from fhe_inhibitor.service.web import create_app
from fhe_inhibitor.service.worker import MAX_MESSAGE, Worker

MODEL = "a" * 64
SAY = 'print(\'{"kind": "%s"}\', flush=True)\n'
READY = SAY % "ready"
WAIT = "import sys; sys.stdin.read()\n"
LONG_LINE = "print('x' * 1_000_000, flush=True)\n"


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, ten seconds at most."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What workers are to be instead: a program each, the last one for all that follow."""
    programs: list[str] = []

    async def spawn(supervisor: Supervisor, lease: str) -> Process:
        program = programs.pop(0) if len(programs) > 1 else programs[0]
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, stdin=PIPE, stdout=PIPE
        )

    monkeypatch.setattr(Supervisor, "_spawn", spawn)
    monkeypatch.setattr("fhe_inhibitor.service.watchers.RETRY_S", 0.01)
    monkeypatch.setattr("fhe_inhibitor.service.supervisor.RETRY_S", 0.01)
    monkeypatch.setattr("fhe_inhibitor.service.supervisor.WATCH_S", 0.01)
    return programs


@asynccontextmanager
async def running(data_dir: Path) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    """Run a service without models, and a client of it, in this process."""
    service = Service(load_settings(data_dir=data_dir), [])
    app = create_app(service)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield service, client


def heard(service: Service, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list of the kinds of all reports from now on."""
    kinds: list[str] = []
    monkeypatch.setattr(service.supervisor, "_on_report", lambda report: kinds.append(report.kind))
    return kinds


def claim(service: Service) -> str:
    """Queue a job and let the supervisor's only worker have it; return its id."""
    job = service.jobs.submit(
        NewJob("ann", MODEL, "b" * 64, 4, 3, "0" * 64, None), lambda job: None
    )
    (lease,) = service.supervisor._workers
    assert service.jobs.claim(lease, [MODEL]) is not None
    return job.id


def test_a_report_of_any_length_does_not_end_the_hearing(
    tmp_path: Path, programs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    programs.append(READY + LONG_LINE + SAY % "task" + LONG_LINE + SAY % "done" + WAIT)

    async def run() -> None:
        async with running(tmp_path) as (service, client):
            kinds = heard(service, monkeypatch)
            await until(lambda: kinds == ["ready", "task", "done"])
            assert (await client.get("/ready")).status_code == 200

    asyncio.run(run())


def test_a_worker_that_cannot_be_heard_is_replaced_and_its_job_goes_on(
    tmp_path: Path, programs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    programs += [READY + "import sys; sys.stdin.readline()\n" + SAY % "task" + WAIT, READY + WAIT]

    async def run() -> None:
        async with running(tmp_path) as (service, client):
            await until(lambda: service.supervisor.n_ready)
            job = claim(service)
            (worker,) = service.supervisor._workers.values()

            def broken(report: Report) -> None:
                if report.kind == "task":
                    raise RuntimeError("of anybody who listens")

            monkeypatch.setattr(service.supervisor, "_on_report", broken)
            service.supervisor.wake()
            await until(lambda: service.jobs.get("ann", job).status is Status.QUEUED)
            assert worker.returncode is not None, "it works on without anybody who hears it"
            await until(lambda: service.supervisor.n_ready)
            assert (await client.get("/ready")).status_code == 200

    asyncio.run(run())


@pytest.mark.parametrize("error", [sqlite3.OperationalError, sqlite3.DatabaseError, ValueError])
def test_watchers_outlive_their_failures(
    tmp_path: Path, programs: list[str], monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    programs.append(READY + WAIT)
    methods = [(Service, "_clean"), (Jobs, "overdue"), (Jobs, "release")]
    calls = {name: 0 for _, name in methods}

    def failing_twice(kind: type, name: str) -> None:
        right = getattr(kind, name)

        def method(*arguments: object, **options: object) -> object:
            calls[name] += 1
            if calls[name] <= 2:
                raise error("for a while")
            return right(*arguments, **options)

        method.__name__ = name
        monkeypatch.setattr(kind, name, method)

    for kind, name in methods:
        failing_twice(kind, name)
    monkeypatch.setattr("fhe_inhibitor.service.service.CLEAN_S", 0.01)

    async def run() -> None:
        async with running(tmp_path) as (service, client):
            broken = [error("locked"), error("locked")]
            right = service.database.data_version
            monkeypatch.setattr(
                service.database,
                "data_version",
                lambda: right() if not broken else (_ for _ in ()).throw(broken.pop()),
            )
            await until(lambda: service.supervisor.n_ready)
            change, job = service.next_change(), claim(service)
            await until(lambda: not broken and change.is_set())
            (worker,) = service.supervisor._workers.values()
            worker.kill()
            await until(lambda: service.jobs.get("ann", job).status is Status.QUEUED)
            await until(lambda: all(n > 2 for n in calls.values()))
            await until(lambda: service.supervisor.n_ready)
            assert (await client.get("/ready")).status_code == 200

    asyncio.run(run())


def test_a_watcher_that_ended_all_the_same_makes_the_server_unready(
    tmp_path: Path, programs: list[str]
) -> None:
    programs.append(READY + WAIT)

    async def run() -> None:
        async with running(tmp_path) as (service, client):
            await until(lambda: service.supervisor.n_ready)
            for watchers, name in (
                (service._watchers, "watch over the database"),
                (service.supervisor.watchers, "watch over task times"),
                (service.supervisor.watchers, "keeper of worker 1"),
            ):
                (task,) = [task for task in watchers._tasks if task.get_name() == name]
                task.cancel()
                await until(task.done)
                answer = await client.get("/ready")
                assert answer.status_code == 503
                assert name in answer.json()["message"]

    asyncio.run(run())


def test_no_worker_is_a_reason_too(tmp_path: Path, programs: list[str]) -> None:
    programs.append(WAIT)

    async def run() -> None:
        async with running(tmp_path) as (_, client):
            answer = await client.get("/ready")
            assert answer.status_code == 503
            assert answer.json() == {"error": "not_ready", "message": "no worker is ready yet"}

    asyncio.run(run())


def test_a_service_that_is_closed_queues_its_jobs_again(
    tmp_path: Path, programs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a death to its account; a database that fails keeps nothing from closing."""
    programs.append(READY + WAIT)

    async def run() -> tuple[Service, str]:
        async with running(tmp_path) as (service, _):
            await until(lambda: service.supervisor.n_ready)
            job = claim(service)
        return service, job

    def deaths(service: Service, job: str) -> tuple[str, int]:
        row = service.database.row("SELECT status, deaths FROM jobs WHERE id = ?", job)
        assert row is not None
        return row["status"], row["deaths"]

    service, job = asyncio.run(run())
    assert deaths(service, job) == (Status.QUEUED, 0)
    service.jobs.remove("ann", job)

    def fail(_: Jobs) -> None:
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(Jobs, "put_back", fail)
    service, job = asyncio.run(run())
    assert deaths(service, job) == (Status.RUNNING, 0)
    service.jobs.recover([MODEL])
    assert deaths(service, job) == (Status.QUEUED, 1)


def test_a_step_that_fails_is_done_again() -> None:
    steps: list[int] = []

    async def step() -> None:
        steps.append(len(steps))
        if len(steps) < 3:
            raise KeyError

    async def run() -> None:
        watchers = Watchers()
        watchers.start("steps", repeat(step, 0.0))
        await until(lambda: len(steps) > 10)
        assert watchers.ended() == []
        await watchers.close()
        assert watchers.ended() == ["steps"]

    asyncio.run(run())


def order_of(data_dir: Path) -> Order:
    """Return the order of a worker without models."""
    return Order(
        lease="lease", data_dir=data_dir, models={}, keys_bytes=1, memory_bytes=1,
        reserved_bytes=0, max_unfinished_jobs=9, job_ttl_s=9,
    )  # fmt: skip


def test_what_a_worker_tells_of_a_failure_is_short_and_true(tmp_path: Path) -> None:
    """Of a job that is not its any more it tells that it dropped it, not that it failed."""
    reports: list[Report] = []
    worker = Worker(order_of(tmp_path), reports.append)
    jobs = worker._jobs
    for end in (None, "cancel"):
        job = jobs.submit(NewJob("ann", MODEL, "b" * 64, 4, 3, "0" * 64, None), lambda job: None)
        claim = jobs.claim("lease", [MODEL])
        assert claim is not None
        if end:
            jobs.remove("ann", job.id)
        worker._fail(claim, Failure.REFUSED, "x" * 100_000)
    first, second = reports
    assert (first.kind, second.kind) == ("failed", "dropped")
    assert len(first.message or "") == MAX_MESSAGE


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (InputError("keys of other circuits"), Failure.REFUSED),
        (ClusterError("the scheduler was lost"), Failure.INTERNAL),
        (EngineDiedError("SIGSEGV"), Failure.WORKER_DIED),
    ],
)
def test_a_job_fails_for_what_ended_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, failure: Failure
) -> None:
    def run(worker: Worker, claim: Claim) -> bool:
        raise error

    monkeypatch.setattr(Worker, "_run", run)
    reports: list[Report] = []
    worker = Worker(order_of(tmp_path), reports.append)
    worker._servers[MODEL] = object()  # type: ignore[assignment]
    new = NewJob("ann", MODEL, "b" * 64, 4, 3, "0" * 64, None)
    job = worker._jobs.submit(new, lambda job: None)
    assert worker.run_next()
    (report,) = reports
    assert (report.kind, report.job, report.error) == ("failed", job.id, failure)
    assert report.message == str(error)
