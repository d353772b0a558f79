"""Starts workers, passes on what they report, replaces those that die, ends those that hang."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from fhe_inhibitor.runtime.protocol import Failure
from fhe_inhibitor.service.jobs import Jobs
from fhe_inhibitor.service.logs import fields
from fhe_inhibitor.service.orders import Order, Report
from fhe_inhibitor.service.settings import Settings
from fhe_inhibitor.service.watchers import RETRY_S, Watchers, log_failure, repeat
from fhe_inhibitor.system.huge_pages import to_ask
from fhe_inhibitor.system.programs import program

LOG = logging.getLogger(__name__)
WATCH_S = 0.5
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 30.0
KILLED = (-signal.SIGKILL, -signal.SIGTERM)  # by somebody else, or for want of memory


class Supervisor:
    """Keeps `settings.workers` worker processes at work.

    models: folders by circuits hash. on_report: hears of each `Report`.
    """

    def __init__(
        self,
        settings: Settings,
        jobs: Jobs,
        models: dict[str, Path],
        on_report: Callable[[Report], None],
    ) -> None:
        self._settings = settings
        self._jobs = jobs
        self._models = models
        self._on_report = on_report
        self._workers: dict[str, Process] = {}
        self._ready: set[str] = set()
        self.watchers = Watchers()

    @property
    def n_ready(self) -> int:
        """Workers that have loaded their circuits."""
        return len(self._ready)

    def start(self) -> None:
        """Start all workers, and watch over them."""
        for number in range(1, self._settings.workers + 1):
            self.watchers.start(f"keeper of worker {number}", self._keep_working())
        pause_s = min(WATCH_S, self._settings.task_timeout_s / 4)
        self.watchers.start("watch over task times", repeat(self._end_overdue, pause_s))

    def wake(self) -> None:
        """Tell idle workers that a job waits."""
        for worker in self._workers.values():
            if worker.stdin is not None and not worker.stdin.is_closing():
                worker.stdin.write(b"\n")

    async def close(self) -> None:
        """End all workers at once; what they were at goes on when a server starts again."""
        await self.watchers.close()

    async def _keep_working(self) -> None:
        """Start one worker after the other, as they die; wait longer while none gets ready."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                was_ready = await self._work()
            except Exception as error:  # no process, say, or no memory for one
                log_failure("keeping a worker", error)
                was_ready = False
            pause_s = FIRST_PAUSE_S if was_ready else min(2 * pause_s, LONGEST_PAUSE_S)
            await asyncio.sleep(pause_s)

    async def _work(self) -> bool:
        """Let a worker work until it dies; return whether it was ever ready."""
        lease = secrets.token_hex(8)
        worker = await self._spawn(lease)
        self._workers[lease] = worker
        try:
            await self._listen(lease, worker)
            status = await worker.wait()
        except asyncio.CancelledError:
            await _end(worker)
            raise
        except Exception as error:  # a worker that can't be heard must not go on
            log_failure("hearing a worker", error)
            status = await _end(worker)
        finally:
            was_ready = lease in self._ready
            self._ready.discard(lease)
            del self._workers[lease]
        LOG.warning("worker ended", extra=fields(pid=worker.pid, exit_status=status))
        while not await asyncio.to_thread(self._release, lease, status):
            await asyncio.sleep(RETRY_S)
        return was_ready

    async def _spawn(self, lease: str) -> Process:
        settings = self._settings
        order = Order(
            lease=lease,
            data_dir=settings.data_dir,
            models=self._models,
            keys_bytes=settings.ready_keys_bytes,
            memory_bytes=settings.memory_bytes,
            reserved_bytes=settings.reserved_bytes,
            max_unfinished_jobs=settings.max_unfinished_jobs,
            job_ttl_s=settings.job_ttl_s,
            scheduler=settings.scheduler,
            insecure_cluster=settings.insecure_cluster,
            cluster_shared=settings.cluster_shared,
        )
        return await asyncio.create_subprocess_exec(
            *program("fhe_inhibitor.service.worker"),
            order.model_dump_json(),
            stdin=PIPE,
            stdout=PIPE,
            env={**os.environ, **to_ask(), "OMP_NUM_THREADS": str(settings.threads)},
            start_new_session=True,  # Ctrl-C in a terminal is for the server alone
        )

    async def _listen(self, lease: str, worker: Process) -> None:
        """Hear a worker's reports until it ends."""
        assert worker.stdout is not None
        while True:
            try:
                if not (line := await worker.stdout.readline()):
                    return
                report = Report.model_validate_json(line)
            except ValidationError:  # cut off by the worker's death
                continue
            except ValueError:  # longer than a reader's limit, which drops it
                LOG.error("report too long", extra=fields(pid=worker.pid))
                continue
            if report.kind == "ready":
                self._ready.add(lease)
            logged = report.model_dump(exclude={"kind", "message"})
            LOG.info(f"worker: {report.kind}", extra=fields(pid=worker.pid, **logged))
            self._on_report(report)

    def _release(self, lease: str, status: int) -> bool:
        """Let another worker go on with a dead one's job, or end it; False on a full disk, say."""
        try:
            job = self._jobs.release(lease, crashed=status not in KILLED)
        except Exception as error:
            log_failure("releasing a lease", error)
            return False
        if job is not None:
            LOG.warning("job lost its worker", extra=fields(job=job.id, status=job.status))
            if job.status.final:
                self._failed(job.id, job.error, job.message)
        return True

    async def _end_overdue(self) -> None:
        """Kill workers whose task takes too long; their job ends."""
        timeout_s = self._settings.task_timeout_s
        for lease in await asyncio.to_thread(self._jobs.overdue, timeout_s):
            await self._time_out(lease, timeout_s)

    async def _time_out(self, lease: str, timeout_s: float) -> None:
        message = f"a task took more than {timeout_s:g} s"
        job = await asyncio.to_thread(self._jobs.fail, lease, Failure.TIMED_OUT, message, timeout_s)
        if job is None:
            return  # it was done meanwhile, and the worker is at its next one
        if worker := self._workers.get(lease):
            with suppress(ProcessLookupError):
                worker.kill()
        LOG.warning("job timed out", extra=fields(job=job))
        self._failed(job, Failure.TIMED_OUT, message)

    def _failed(self, job: str, error: Failure | None, message: str | None) -> None:
        self._on_report(Report(kind="failed", job=job, error=error, message=message))


async def _end(worker: Process) -> int:
    """Kill a worker; return its exit status."""
    with suppress(ProcessLookupError):
        worker.kill()
    return await worker.wait()
