"""What a Dask worker runs: it keeps ciphertexts, and has engines beside it call the circuits.

A worker runs as many tasks at once as Dask gives it threads, each in an engine of its own, whose
call uses the worker's cores over that number. Handing out a task's outputs one by one takes no
thread from them.

Nothing here loads Concrete: while a call runs, however long, this process answers its scheduler and
other workers.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import current_process
from typing import Any

import psutil
from distributed import Worker, WorkerPlugin, get_worker

from fhe_inhibitor.cluster.engine import start_engine
from fhe_inhibitor.cluster.machines import Machine, this_machine, why_unfit
from fhe_inhibitor.cluster.orders import (
    CORES_VARIABLE,
    ENGINE_RESOURCE,
    EngineDiedError,
    Equipment,
    Receipt,
    Source,
    Work,
)
from fhe_inhibitor.cluster.store import Store
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.manifest import Task
from fhe_inhibitor.system.child import Child, ChildError
from fhe_inhibitor.system.machine import processor

HANDS = "fhe_inhibitor_hands"  # our part of a Dask worker
PLUGINS = "fhe-inhibitor-"  # begins the name of each Fit; the id of its client and a slash follow
SMALL = "fhe-inhibitor-small"  # the threads that hand out and fetch
SMALL_THREADS = 4
UNKNOWN = "it has not been compared yet"
SAMPLE_BYTES = 1 << 16
MAKING = threading.Lock()
ABSENT = -1.0  # of a resource: no task asks for less than 0


class Hands:
    """Our part of one worker: files, engines, and threads for what is small."""

    def __init__(self, worker: Worker) -> None:
        self.store = Store(worker)
        self.n_engines: int = worker.state.nthreads
        cores = int(os.environ.get(CORES_VARIABLE, self.n_engines))
        self.threads = max(1, cores // self.n_engines)
        self._free: queue.LifoQueue[Child | None] = queue.LifoQueue()
        for _ in range(self.n_engines):
            self._free.put(None)
        # An engine ends with the thread that started it, on Linux: this one stays.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="fhe-inhibitor-start")
        worker.executors[SMALL] = ThreadPoolExecutor(SMALL_THREADS, thread_name_prefix=SMALL)
        # One more task than threads: what is small must not wait until a call is done.
        worker.state.nthreads += 1
        # A daemon may not have children, lest they outlive it; ours end with it.
        current_process().daemon = False

    @contextmanager
    def engine(self) -> Iterator[Child]:
        """Give an engine that nobody uses; one that fails in the block is ended."""
        child = self._free.get()
        try:
            if child is None:
                child = self._starter.submit(start_engine, self.threads).result()
            yield child
        except InputError:
            raise
        except BaseException:
            if child is not None:
                child.close()
                child = None
            raise
        finally:
            self._free.put(child)


def hands_of(worker: Worker) -> Hands:
    """Return our part of a worker, made once."""
    with MAKING:
        hands = getattr(worker, HANDS, None)
        if hands is None:
            hands = Hands(worker)
            setattr(worker, HANDS, hands)
    return hands


@dataclass
class Fit(WorkerPlugin):
    """Compares each worker, those that come late too, with the machine that compiled the circuits.

    One that fits has their files then, and the resource that their tasks ask for.
    """

    name: str
    work: Work
    compiled_on: Machine
    why_left_out: str | None = UNKNOWN

    async def setup(self, worker: Worker) -> None:
        """Compare, and fetch."""
        reason = await asyncio.to_thread(self._check, worker)
        fit = ABSENT if reason else 1.0
        n_engines = float(hands_of(worker).n_engines)
        await worker.set_resources(**{ENGINE_RESOURCE: n_engines, self.name: fit})
        self.why_left_out = reason

    async def teardown(self, worker: Worker) -> None:
        """Take no more tasks of these circuits."""
        with suppress(KeyError, OSError):  # of a scheduler that has lost this worker, or is gone
            await worker.set_resources(**{self.name: ABSENT})

    def _check(self, worker: Worker) -> str | None:
        if reason := why_unfit(self.compiled_on, this_machine()):
            return reason
        try:
            hands_of(worker).store.circuits(self.work.source, self.work.circuits)
        except InputError as error:
            return str(error)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return None


def verdict(name: str, dask_worker: Worker) -> str | None:
    """Return why a worker is left out; None if it fits, UNKNOWN before it was compared."""
    plugin = dask_worker.plugins.get(name)
    return plugin.why_left_out if isinstance(plugin, Fit) else UNKNOWN


def equipment(dask_worker: Worker) -> Equipment:
    """Return what a worker computes with."""
    hands = hands_of(dask_worker)
    return Equipment(
        processor=processor(),
        cores=psutil.cpu_count(logical=False) or os.cpu_count() or 1,
        memory_gb=round(psutil.virtual_memory().total / 1e9),
        tasks_at_once=hands.n_engines,
        threads=hands.threads,
    )


def place_waiting(address: str, dask_scheduler: Any) -> None:
    """Have a scheduler look again at tasks that no worker could run, now that this one can."""
    if worker := dask_scheduler.workers.get(address):
        found = dask_scheduler.bulk_schedule_unrunnable_after_adding_worker(worker)
        dask_scheduler.transitions(found, stimulus_id=f"fhe-inhibitor-{address}")


def knows(name: str, dask_scheduler: Any) -> bool:
    """Whether a scheduler tells workers that come of this Fit."""
    return name in dask_scheduler.worker_plugins


def left_behind(dask_scheduler: Any) -> list[str]:
    """Return the names of Fits that a scheduler has of clients which it no longer has."""
    ours = [name for name in dask_scheduler.worker_plugins if name.startswith(PLUGINS)]
    client_of = {name: name.removeprefix(PLUGINS).rpartition("/")[0] for name in ours}
    there = {"", *dask_scheduler.clients}  # older versions' names have no client
    return [name for name, client in client_of.items() if client not in there]


def fetch(source: Source, sha256: str) -> bytes:
    """Return a ciphertext that the tasks start from."""
    return hands_of(get_worker()).store.fetch(source, sha256)


def run_task(work: Work, task: Task, *arguments: bytes) -> list[Receipt | bytes]:
    """Return the receipt of a task, then its outputs.

    Raises InputError for what the circuits refuse, EngineDiedError if the engine didn't survive it.
    """
    worker = get_worker()
    hands = hands_of(worker)
    folder = hands.store.circuits(work.source, work.circuits)
    keys = hands.store.keys(work.source, work.keys)
    try:
        with hands.engine() as engine:
            outputs, seconds = engine.call(
                "call", folder, keys, task.function, task.inputs, arguments, work.keys_bytes
            )
    except ChildError as error:
        raise EngineDiedError(f"{task.stage} on the worker {worker.address}: {error}") from error
    if len(outputs) != len(task.outputs):
        raise InputError(f"{task.function} gave {len(outputs)} values, wanted {len(task.outputs)}")
    sizes = tuple(map(len, outputs))
    receipt = Receipt(worker.address, seconds, sizes, hands.threads, _packed(outputs))
    return [receipt, *outputs]


def _packed(outputs: Sequence[bytes]) -> float:
    """Return the size of a sample after compression, over its size before."""
    sample = outputs[0][:SAMPLE_BYTES]
    return len(zlib.compress(sample, 1)) / len(sample)
