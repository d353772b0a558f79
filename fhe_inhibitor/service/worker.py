"""A worker: a process that takes jobs and runs their tasks, the only one that loads circuits.

It is started by the supervisor with an `Order` as its one argument. A line on stdin says that a job
may wait; the end of stdin that the server is gone. What happens it reports on stdout, a `Report`
as JSON on each line. Whatever it finishes it writes to disk before it says so: it may be killed at
any moment, and another goes on after the last task.

Of Concrete it loads what `runtime.server` does. Native code may end this process on forged input;
that is why it is a process.
"""

from __future__ import annotations

import logging
import os
import resource
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from fhe_inhibitor.cluster.options import Cluster
from fhe_inhibitor.cluster.orders import ClusterError, EngineDiedError, WorkerFailedError
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.execution import TaskDone, tasks_to_keep
from fhe_inhibitor.runtime.executor import Executor, InProcess
from fhe_inhibitor.runtime.manifest import Task
from fhe_inhibitor.runtime.messages import Request
from fhe_inhibitor.runtime.protocol import Failure, TaskEvent, folder_hash
from fhe_inhibitor.runtime.ready_keys import ReadyKeys, undamaged
from fhe_inhibitor.runtime.server import Server, Value, read_outputs, to_response
from fhe_inhibitor.service.database import Database, is_full
from fhe_inhibitor.service.jobs import Claim, Jobs
from fhe_inhibitor.service.logs import fields, log_to_stderr
from fhe_inhibitor.service.orders import DATABASE_FILE, Order, Report
from fhe_inhibitor.service.storage import FULL, DiskFullError, Storage
from fhe_inhibitor.system.progress import Observer

if TYPE_CHECKING:
    from fhe_inhibitor.cluster.executor import ClusterExecutor

LOG = logging.getLogger(__name__)
CLUSTER_RETRY_S = 2.0
IDLE_S = 1.0  # between looks at the queue that nobody asked for
NICENESS = 5  # whoever asks the server something must not wait for the workers
Running = Generator[TaskDone[Value], None, None]
MAX_MESSAGE = 500  # characters of what a job failed for; a report must stay one short line
FAILED, BROKEN = 1, 3  # exit status after a bug; without circuits that can be loaded


class Worker:
    """Runs one job after the other. Raises InputError for a folder that can't be loaded."""

    def __init__(self, order: Order, report: Callable[[Report], None]) -> None:
        self._lease = order.lease
        self._report = report
        self._storage = Storage(order.data_dir, order.reserved_bytes)
        self._jobs = Jobs(
            Database(order.data_dir / DATABASE_FILE), order.max_unfinished_jobs, order.job_ttl_s
        )
        self._folders = order.models
        cluster = order.cluster
        self._on_cluster = OnCluster(cluster) if cluster is not None else None
        self._observer = Logged() if cluster is not None else None
        self._servers = {digest: _load(digest, path) for digest, path in order.models.items()}
        self._keys = ReadyKeys(order.keys_bytes)

    def run_next(self) -> bool:
        """Run the next job to its end; False if none waits."""
        try:
            claim = self._jobs.claim(self._lease, self._servers)
        except sqlite3.OperationalError as error:
            if not is_full(error):
                raise
            return False
        if claim is None:
            return False
        try:
            done = self._run(claim)
            self._report(Report(kind="done" if done else "dropped", job=claim.job))
        except ClusterError as error:  # no fault of the request
            self._fail(claim, Failure.INTERNAL, str(error))
        except InputError as error:
            self._fail(claim, Failure.REFUSED, str(error))
        except EngineDiedError as error:
            self._fail(claim, Failure.WORKER_DIED, str(error))
        except WorkerFailedError as error:
            self._fail(claim, _failure_of(error), str(error))
        except MemoryError:
            self._fail(claim, Failure.REFUSED, "the request asks for more memory than there is")
        except FileNotFoundError:  # of a job that was cancelled meanwhile, or lost its files
            self._fail(claim, Failure.INTERNAL, "the job's files are gone: send it again")
        except (DiskFullError, sqlite3.OperationalError) as error:
            if isinstance(error, sqlite3.Error) and not is_full(error):
                raise
            self._fail(claim, Failure.DISK_FULL, "the server's disk is full: try again later")
        return True

    def _run(self, claim: Claim) -> bool:
        """Run what is left of a job; False if it was taken away meanwhile."""
        server = self._servers[claim.circuits_hash]
        request = Request.from_bytes(self._storage.request(claim.job).read_bytes())
        tasks = server.tasks(request.n, request.pieces)
        values = self._read_values(claim, server, request, tasks)
        executor = self._executor(claim, server)
        left = range(claim.tasks_done + 1, len(tasks) + 1)
        running = executor.go_on(tasks, values, self._observer, left, keep=True)
        for done in in_order(self._write_each(claim.job, request, running), left.start):
            event = TaskEvent(
                stage=done.task.stage, seconds=done.seconds, index=done.index, total=done.total
            )
            if not self._jobs.record(self._lease, claim.job, event):
                return False
            self._prune(claim.job, tasks, done.index)
            self._report(
                Report(
                    kind="task",
                    job=claim.job,
                    stage=event.stage,
                    seconds=event.seconds,
                    lookups=done.task.n_lookups,
                )
            )
        self._storage.keep_result(claim.job)
        return True

    def _read_values(
        self, claim: Claim, server: Server, request: Request, tasks: Sequence[Task]
    ) -> dict[str, Value]:
        """Return what the tasks that are left read, of the request and of those that are done."""
        read = {name for task in tasks[claim.tasks_done :] for name in task.inputs}
        values = server.read_values(request)
        for index, task in enumerate(tasks[: claim.tasks_done], start=1):
            if read.intersection(task.outputs):
                values |= read_outputs(task, self._storage.task(claim.job, index).read_bytes())
        return {name: value for name, value in values.items() if name in read}

    def _executor(self, claim: Claim, server: Server) -> Executor:
        """Return what runs a job's tasks: this process, or the cluster of the server's settings."""
        path = self._storage.keys(claim.user, claim.keys)
        name = (claim.user, claim.keys, claim.circuits_hash)
        if self._on_cluster is not None:
            folder = self._folders[claim.circuits_hash]
            return self._on_cluster.executor(name, folder, path, claim.keys)
        keys = self._keys.get(name, claim.keys, path.read_bytes, server)
        return InProcess(server, keys)

    def _write_each(
        self, job: str, request: Request, running: Iterator[TaskDone[Value]]
    ) -> Running:
        for done in running:
            self._write_outputs(job, request, done)
            yield done

    def _write_outputs(self, job: str, request: Request, done: TaskDone[Value]) -> None:
        last = done.index == done.total
        path = self._storage.result(job) if last else self._storage.task(job, done.index)
        self._storage.write(path, to_response(request.n, done, request.pieces).to_bytes())

    def _prune(self, job: str, tasks: Sequence[Task], n_done: int) -> None:
        """Remove outputs that nobody reads any more, after the first `n_done` tasks are recorded.

        Later tasks that are done early keep theirs: they aren't recorded yet. Files that a killed
        worker left go with the next task.
        """
        kept = tasks_to_keep(tasks, range(n_done + 1, len(tasks) + 1), n_done)
        self._storage.remove_tasks(job, set(range(1, n_done + 1)) - kept)

    def _fail(self, claim: Claim, failure: Failure, message: str) -> None:
        message = message[:MAX_MESSAGE]
        if self._jobs.fail(self._lease, failure, message):
            self._storage.remove_job(claim.job)
            self._report(Report(kind="failed", job=claim.job, error=failure, message=message))
        else:  # cancelled meanwhile, or timed out
            self._report(Report(kind="dropped", job=claim.job))


class OnCluster:
    """Keeps the executor of the keys that were used last."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._kept: tuple[object, ClusterExecutor] | None = None

    def executor(self, name: object, folder: Path, keys: Path, sha256: str) -> ClusterExecutor:
        """Return what runs tasks with these circuits and keys, once a worker is there that can.

        Raises InputError for keys that have another SHA-256.
        """
        if self._kept is not None and self._kept[0] == name:
            return self._kept[1]
        if self._kept is not None:
            self._kept[1].close()
            self._kept = None
        from fhe_inhibitor.cluster.executor import ClusterExecutor  # Dask, that others can spare

        data = undamaged(keys.read_bytes(), sha256)
        while True:
            try:
                self._kept = (name, ClusterExecutor(self._cluster, folder, data, Logged()))
                return self._kept[1]
            except ClusterError as error:  # a job waits, as it does for a worker of our own
                LOG.warning("no cluster", extra=fields(reason=str(error)))
                time.sleep(CLUSTER_RETRY_S)


class Logged(Observer):
    """Logs what a cluster has to say."""

    def note(self, message: str) -> None:
        LOG.info("cluster", extra=fields(said=message))


def in_order(running: Running, first: int) -> Iterator[TaskDone[Value]]:
    """Yield tasks in their order, from index `first` on; those that are done early wait."""
    early: dict[int, TaskDone[Value]] = {}
    with closing(running):
        for done in running:
            early[done.index] = done
            while first in early:
                yield early.pop(first)
                first += 1


def _failure_of(error: WorkerFailedError) -> Failure:
    """Return what a job fails for where a worker of the cluster could not run its task."""
    full = isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL
    return Failure.DISK_FULL if full else Failure.INTERNAL


def _load(digest: str, folder: Path) -> Server:
    """Load circuits. Raises InputError if they are others than the server showed its clients."""
    if folder_hash(folder) != digest:
        raise InputError(f"{folder} has changed since the server started: start it again")
    return Server(folder)


def limit_memory(order: Order) -> Order:
    """Have what is beyond a worker's memory fail here, before the kernel kills some process.

    The system's own limit counts where it is lower, as one of `ulimit -d` or LimitDATA= is. Returns
    the order with as much less memory, and keys that are kept ready, as the system leaves of it.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = order.memory_bytes
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if limit < wanted:
        LOG.warning(
            "less memory than set: raise `ulimit -d`, or LimitDATA= of systemd",
            extra=fields(wanted_bytes=wanted, limit_bytes=limit),
        )
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    keys_bytes = order.keys_bytes * limit // wanted
    return order.model_copy(update={"memory_bytes": limit, "keys_bytes": keys_bytes})


def main() -> None:
    """Work until the server is gone."""
    os.nice(NICENESS)
    order = Order.model_validate_json(sys.argv[1])
    report = _take_streams()
    log_to_stderr()
    wake = threading.Event()
    threading.Thread(target=_listen, args=(wake,), daemon=True).start()
    try:
        worker = Worker(limit_memory(order), report)
        report(Report(kind="ready"))
        while True:
            wake.clear()
            while worker.run_next():
                pass
            wake.wait(IDLE_S)
    except InputError as error:
        LOG.error("worker can't start", extra=fields(reason=str(error)))
        os._exit(BROKEN)
    except Exception:
        LOG.exception("worker failed")
        os._exit(FAILED)


def _listen(wake: threading.Event) -> None:
    """Wake the worker for each line; end it, wherever it is, with the server."""
    for _ in sys.stdin.buffer:
        wake.set()
    os._exit(0)


def _take_streams() -> Callable[[Report], None]:
    """Keep stdout for reports and stderr for logs; return what sends reports.

    What native code prints is lost: one forged ciphertext makes it print megabytes.
    """
    lines = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    sys.stderr = os.fdopen(os.dup(sys.stderr.fileno()), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)

    def report(content: Report) -> None:
        try:
            print(content.model_dump_json(exclude_none=True), file=lines, flush=True)
        except BrokenPipeError:
            os._exit(0)

    return report


if __name__ == "__main__":
    main()
