"""Runs a program's tasks on a Dask cluster; intermediate ciphertexts stay on its workers.

    with ClusterExecutor(Cluster("tls://scheduler:8786"), folder, keys) as executor:
        for done in executor.go_on(tasks, values):
            ...

Each task is one Dask task, whose inputs are others' outputs. A task's receipt comes back when it is
done, its outputs only if they are the last, or to be kept. Whatever dies, what was lost runs again:
a worker's part by Dask, all that is left by this file if the scheduler is lost. Each task is told
once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import dask
from distributed import Client, Future, KilledWorker, wait
from distributed.client import FutureCancelledError
from distributed.comm import CommClosedError

from fhe_inhibitor.cluster.connection import connect, scheduler_address
from fhe_inhibitor.cluster.depot import Depot
from fhe_inhibitor.cluster.machines import this_machine
from fhe_inhibitor.cluster.options import Cluster
from fhe_inhibitor.cluster.orders import (
    ENGINE_RESOURCE,
    ClusterError,
    EngineDiedError,
    Equipment,
    Receipt,
    Work,
    WorkerFailedError,
)
from fhe_inhibitor.cluster.placement import Placement
from fhe_inhibitor.cluster.worker import (
    PLUGINS,
    SMALL,
    UNKNOWN,
    Fit,
    equipment,
    fetch,
    knows,
    left_behind,
    place_waiting,
    run_task,
    verdict,
)
from fhe_inhibitor.errors import first_line
from fhe_inhibitor.runtime.execution import TaskDone
from fhe_inhibitor.runtime.manifest import Task
from fhe_inhibitor.runtime.server import Value, read_value
from fhe_inhibitor.system.progress import Observer

LOOK_S = 1.0  # between looks for workers that came
ENGINES_TRIED = 2  # of one task: a forged ciphertext ends each one
WORKERS_LOST = 3  # times that a program begins anew because Dask gave a task up
SCHEDULERS_LOST = 5  # times in a row that it begins anew before another task was done
LOST = (CancelledError, FutureCancelledError, CommClosedError, TimeoutError, OSError)


@dataclass
class Connection:
    """A client of a scheduler, with what its workers were told of these circuits and keys.

    seen: why each worker that was compared is left out, None for those that fit. ready: by
    function, the workers all of whose engines have called it.
    """

    client: Client
    depot: Depot
    plugin: Fit
    seen: dict[str, str | None]
    ready: dict[str, dict[str, Equipment]] = field(default_factory=dict)

    def close(self) -> None:
        """Take back what the workers were told; what is gone has nothing to take back."""
        with suppress(*LOST):
            self.depot.close()
        if self.client.status == "running":
            with suppress(*LOST, ValueError):
                self.client.unregister_worker_plugin(self.plugin.name)


class ClusterExecutor:
    """Runs tasks with circuits and evaluation keys on the workers of a cluster.

    folder: of circuits, compiled on this machine or one like it. keys: as
    `Client.evaluation_keys` gives them.

    Raises InputError for an address that can't be used, ClusterError if no scheduler answers there
    and if no worker can run the circuits.
    """

    def __init__(
        self, cluster: Cluster, folder: Path, keys: bytes, observer: Observer | None = None
    ) -> None:
        self.placement = Placement()
        self._cluster, self._folder, self._keys = cluster, folder, keys
        self._observer = observer or Observer()
        self._connection: Connection | None = self._connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the cluster; its workers keep files and engines for the next time."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
            self._close_client(connection.client)

    def go_on(
        self,
        tasks: Sequence[Task],
        values: Mapping[str, Value],
        observer: Observer | None = None,
        left: Iterable[int] | None = None,
        keep: bool = False,
    ) -> Iterator[TaskDone[Value]]:
        """Run tasks as `Executor.go_on` says, in the order in which they are done.

        Outputs are those of the last task; of all if they are to be kept. Raises InputError for
        what the circuits refuse, EngineDiedError for what ended two engines, or workers again and
        again, WorkerFailedError for what a worker could not do, twice, ClusterError for a scheduler
        that doesn't come back or is lost again and again.
        """
        observer = observer or Observer()
        run = Run(
            tasks,
            {name: value.serialize() for name, value in values.items()},
            list(range(1, len(tasks) + 1) if left is None else left),
            keep,
        )
        self.placement = Placement(compressed=bool(dask.config.get("distributed.comm.compression")))
        n_workers = n_schedulers = 0
        while run.left:
            n_left = len(run.left)
            try:
                yield from self._attempt(run, observer)
            except KilledWorker as error:
                n_workers += 1
                if n_workers == WORKERS_LOST:
                    raise EngineDiedError(f"workers died again and again: {error}") from error
                observer.note(f"workers died, so what is left begins anew: {error}")
            except LOST as error:
                n_schedulers = 1 if len(run.left) < n_left else n_schedulers + 1
                _refuse_too_many(n_schedulers, error)
                observer.note(
                    f"the scheduler was lost ({type(error).__name__}): what is left begins anew"
                )
                self._reconnect()
        observer.note(self.placement.describe())

    def make_ready(self, task: Task, values: Mapping[str, Value]) -> dict[str, Equipment]:
        """Have every engine call a task's function once; then return all workers that fit.

        For what is timed: an engine loads circuits and keys when it first needs them, and Concrete
        unpacks a key when a function first uses it. task: one that starts from `values` alone. What
        engines have called already they don't call again.
        """
        data = {name: value.serialize() for name, value in values.items()}
        n_lost = 0
        while True:
            connection = self._joined()
            try:
                ready = connection.ready.setdefault(task.function, {})
                self._run_everywhere(connection, task, data, ready)
                there = self._look_for_workers(connection)
                return {name: one for name, one in ready.items() if name in there}
            except LOST as error:
                n_lost += 1
                _refuse_too_many(n_lost, error)
                self._observer.note(f"the scheduler was lost ({type(error).__name__})")
                self._reconnect()

    def _run_everywhere(
        self,
        connection: Connection,
        task: Task,
        data: dict[str, bytes],
        ready: dict[str, Equipment],
    ) -> None:
        """Run a task in every engine of the workers that aren't ready, on all of them at once."""
        new = [address for address in self._look_for_workers(connection) if address not in ready]
        if not new:
            return
        found = connection.client.run(equipment, workers=new, on_error="ignore")
        with ExitStack() as stack:
            all_sent = {}
            for address, one in found.items():
                run = copies(task, data, one.tasks_at_once)
                all_sent[address] = Sent(connection, run, Placement(), [address])
                stack.callback(all_sent[address].cancel)
            for address, sent in all_sent.items():
                with suppress(KilledWorker):  # it isn't there any more
                    while sent.pending and address in self._look_for_workers(connection):
                        sent.next()
                    if not sent.pending:
                        ready[address] = found[address]

    def _attempt(self, run: Run, observer: Observer) -> Iterator[TaskDone[Value]]:
        sent = Sent(connection := self._joined(), run, self.placement)
        try:
            observer.begin(run.tasks[run.left[0] - 1].stage)
            looked = time.monotonic()
            while sent.pending:
                for index, receipt in sent.next():
                    task = run.tasks[index - 1]
                    self.placement.add(task, receipt)
                    if index not in run.left:
                        continue  # it was told before the scheduler was lost
                    outputs = sent.outputs(index, run.keep or index == len(run.tasks))
                    run.told(index, outputs)
                    observer.finish(task.n_lookups)
                    if run.left:
                        observer.begin(run.tasks[run.left[0] - 1].stage)
                    values = {name: read_value(name, data) for name, data in outputs.items()}
                    yield TaskDone(task, values, receipt.seconds, index, len(run.tasks))
                if time.monotonic() - looked > LOOK_S:
                    self._look_for_workers(connection)
                    looked = time.monotonic()
        finally:
            sent.cancel()

    def _joined(self) -> Connection:
        """Return the connection, made anew if the scheduler had not come back."""
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> Connection:
        """Join the cluster. Raises ClusterError, also for a scheduler that is lost meanwhile."""
        try:
            return self._join()
        except LOST as error:
            raise ClusterError(
                f"the scheduler was lost ({type(error).__name__}: {first_line(error)})"
            ) from error

    def _join(self) -> Connection:
        cluster = self._cluster
        client = cluster.scheduler
        if isinstance(client, str):
            client = connect(client, cluster.insecure, security=cluster.security)
        elif client.status != "running":
            raise ClusterError(f"the client is {client.status}: give one that is connected")
        with ExitStack() as undo:
            undo.callback(self._close_client, client)
            forget_the_gone(client)
            depot = Depot(client, cluster.shared)
            undo.callback(depot.close)
            work = Work(
                depot.source,
                depot.add_circuits(self._folder),
                depot.add(self._keys, lasting=True),
                cluster.keys_bytes,
            )
            plugin = Fit(f"{PLUGINS}{client.id}/{uuid4().hex[:12]}", work, this_machine())
            connection = Connection(client, depot, plugin, {})
            undo.callback(connection.close)
            with suppress(Exception):  # of a worker without this package; the others have it
                client.register_plugin(plugin)
            self._wait_for_workers(connection)
            undo.pop_all()
        return connection

    def _wait_for_workers(self, connection: Connection) -> None:
        """Wait for a worker that fits. Raises ClusterError if those that are there don't."""
        end = time.monotonic() + self._cluster.patience_s
        told = False
        while not self._look_for_workers(connection):
            left_out = [f"{name}: {reason}" for name, reason in connection.seen.items()]
            if left_out or time.monotonic() > end:
                address = scheduler_address(connection.client)
                if left_out:
                    why = "; ".join(left_out)
                    raise ClusterError(f"no worker of {address} can run these circuits ({why})")
                raise ClusterError(
                    f"no worker came to {address} in {self._cluster.patience_s:.0f} s: start one "
                    f"with `fhe-inhibitor cluster worker {address}`"
                )
            if not told:
                self._observer.note("waiting for a first worker of the cluster")
                told = True
            time.sleep(LOOK_S / 4)

    def _look_for_workers(self, connection: Connection) -> list[str]:
        """Compare workers that have come; return those that fit.

        Raises CommClosedError if no worker will be: whoever took the scheduler, or this client,
        for gone has no more of what it was told.
        """
        client = connection.client
        if not client.run_on_scheduler(knows, connection.plugin.name):
            raise CommClosedError("the scheduler knows nothing of these circuits any more")
        there = list(client.scheduler_info(n_workers=-1)["workers"])
        new = [address for address in there if address not in connection.seen]
        if new:
            name = connection.plugin.name
            found = client.run(verdict, name, workers=new, on_error="return")
            for address in new:
                answer = found.get(address, UNKNOWN)
                if answer == UNKNOWN:
                    continue  # it has gone, or is about to be compared
                reason = answer
                if isinstance(answer, BaseException):
                    reason = f"it can't load this package ({type(answer).__name__}: {answer})"
                connection.seen[address] = reason
                if reason is None:
                    client.run_on_scheduler(place_waiting, address)
                else:
                    self._observer.note(f"the worker {address} is left out: {reason}")
        for address in set(connection.seen) - set(there):
            del connection.seen[address]
        return [address for address, reason in connection.seen.items() if reason is None]

    def _reconnect(self) -> None:
        """Wait for the scheduler, and tell its workers of the circuits again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
            self._close_client(connection.client)
        end = time.monotonic() + self._cluster.patience_s
        while self._connection is None:
            try:
                self._connection = self._connect()
            except ClusterError as error:
                if time.monotonic() > end:
                    raise ClusterError(f"the scheduler did not come back: {error}") from error
                time.sleep(LOOK_S)

    def _close_client(self, client: Client) -> None:
        if isinstance(self._cluster.scheduler, str):
            client.close(timeout=1)


@dataclass
class Run:
    """What is to be run, and what of it is left to be told."""

    tasks: Sequence[Task]
    values: dict[str, bytes]
    left: list[int]
    keep: bool

    def told(self, index: int, outputs: Mapping[str, bytes]) -> None:
        """Count a task as told; outputs: what is here of it, to begin anew from."""
        self.left.remove(index)
        self.values |= outputs
        read = {name for i in self.left for name in self.tasks[i - 1].inputs}
        if self.keep:
            self.values = {name: data for name, data in self.values.items() if name in read}


class Sent:
    """A run's tasks as Dask has them. workers: addresses of those that may run them, or None."""

    def __init__(
        self,
        connection: Connection,
        run: Run,
        placement: Placement,
        workers: list[str] | None = None,
    ) -> None:
        self._client, self._depot = connection.client, connection.depot
        self._tasks = run.tasks
        self._workers = workers
        self._name = uuid4().hex[:12]
        self._fit = {connection.plugin.name: 0}
        self._given: list[str] = []
        self._outputs: dict[int, list[Future]] = {}
        self.pending: dict[Future, int] = {}
        work = connection.plugin.work
        began = time.time()
        indices = needed(run.tasks, run.left, run.values)
        read = {name for index in indices for name in run.tasks[index - 1].inputs}
        futures = {}
        for name, data in run.values.items():
            if name in read:
                futures[name] = self._give(name, data)
                placement.give(name, len(data))
        for index in indices:
            task = run.tasks[index - 1]
            done = self._submit(
                run_task,
                f"{task.function}-{self._name}-{index}",
                work,
                task,
                *(futures[name] for name in task.inputs),
                resources={ENGINE_RESOURCE: 1, **self._fit},
                retries=ENGINES_TRIED - 1,
                # Whose run began first goes first, then its earlier tasks.
                priority=-(began + index * 1e-4),
            )
            outputs = [self._part(done, index, k) for k in range(1 + len(task.outputs))]
            self.pending[outputs[0]] = index
            futures.update(zip(task.outputs, outputs[1:], strict=True))
            if run.keep or index == len(run.tasks):
                self._outputs[index] = outputs[1:]

    def next(self) -> list[tuple[int, Receipt]]:
        """Wait for tasks that are done, or a second; return them with their receipts."""
        try:
            with self._client.as_current():
                waited = wait(list(self.pending), timeout=LOOK_S, return_when="FIRST_COMPLETED")
        except TimeoutError:
            if self._client.status != "running":
                raise CommClosedError("the connection is closed") from None
            return []
        finished = sorted(waited.done, key=lambda future: self.pending[future])
        receipts = self._gather(finished)
        indices = [self.pending.pop(future) for future in finished]
        _release(finished)
        return list(zip(indices, receipts, strict=True))

    def outputs(self, index: int, wanted: bool) -> dict[str, bytes]:
        """Return the outputs of a task that is done, none if they are not wanted."""
        if not wanted:
            return {}
        names = self._tasks[index - 1].outputs
        futures = self._outputs.pop(index)
        found = self._gather(futures)
        _release(futures)
        return dict(zip(names, found, strict=True))

    def cancel(self) -> None:
        """Let go of all that is left, and of what the tasks started from."""
        for sha256 in self._given:
            self._depot.drop(sha256)
        if self.pending and self._client.status == "running":
            self._client.cancel(list(self.pending), force=True)
        _release([*self.pending, *(one for futures in self._outputs.values() for one in futures)])
        self.pending.clear()
        self._outputs.clear()

    def _gather(self, futures: list[Future]) -> list[Any]:
        """Return what tasks gave, or raise what one of them raised."""
        try:
            return list(self._client.gather(futures))
        except LOST as error:
            if not any(future.status == "error" for future in futures):
                raise
            # A task's own, such as of a full disk: raised as it is, it would say that the
            # scheduler was lost.
            raise WorkerFailedError(
                f"a worker could not run a task ({type(error).__name__}: {first_line(error)}): "
                "look at its disk and its log"
            ) from error

    def _give(self, name: str, data: bytes) -> Future:
        sha256 = self._depot.add(data)
        self._given.append(sha256)
        return self._small(fetch, f"given-{self._name}-{name}", self._depot.requests, sha256)

    def _part(self, done: Future, index: int, k: int) -> Future:
        return self._small(take, f"part-{self._name}-{index}-{k}", done, k)

    def _small(self, function: Callable[..., Any], key: str, *arguments: Any) -> Future:
        with dask.annotate(executor=SMALL):
            return self._submit(function, key, *arguments, resources=self._fit)

    def _submit(
        self, function: Callable[..., Any], key: str, *arguments: Any, **options: Any
    ) -> Future:
        return self._client.submit(
            function, *arguments, key=key, pure=False, workers=self._workers, **options
        )


def forget_the_gone(client: Client) -> None:
    """Take back what workers were told by clients that were killed, or lost their connection.

    Each worker that comes would ask the depot of each of them for its circuits, and wait. Raises
    ClusterError for a scheduler that lacks this package, or has an older one.
    """
    try:
        names = client.run_on_scheduler(left_behind)
    except (AttributeError, ImportError) as error:
        raise ClusterError(
            f"the scheduler has another version of this package, or none ({first_line(error)}): "
            "start it again with this one"
        ) from error
    for name in names:
        with suppress(Exception):  # another client was faster
            client.unregister_worker_plugin(name)


def copies(task: Task, values: dict[str, bytes], number: int) -> Run:
    """Return a run of the same task so many times."""
    named = [tuple(f"{name}.{k}" for name in task.outputs) for k in range(number)]
    tasks = [replace(task, outputs=outputs) for outputs in named]
    return Run(tasks, values, list(range(1, number + 1)), keep=False)


def _refuse_too_many(n_lost: int, error: BaseException) -> None:
    """Raise ClusterError if the scheduler was lost that often, and nothing got done meanwhile."""
    if n_lost == SCHEDULERS_LOST:
        raise ClusterError(
            f"the scheduler was lost {n_lost} times in a row ({type(error).__name__}: "
            f"{first_line(error)}): look at its log"
        ) from error


def _release(futures: Iterable[Future]) -> None:
    """Let a scheduler forget results: the interpreter may come to it much later."""
    for future in futures:
        future.release()


def take(outputs: Sequence[Any], k: int) -> Any:
    """Return one of a task's outputs."""
    return outputs[k]


def needed(tasks: Sequence[Task], left: Sequence[int], known: Iterable[str]) -> list[int]:
    """Return the indices of tasks to run, from 1, so that those that are left can.

    That is more than what is left where outputs of others are not known: they were lost.
    """
    makers = {name: index for index, task in enumerate(tasks, start=1) for name in task.outputs}
    have, wanted = set(known), set(left)
    for index in range(len(tasks), 0, -1):
        if index in wanted:
            wanted.update(makers[name] for name in tasks[index - 1].inputs if name not in have)
    return sorted(wanted)
