"""Whatever dies, comes late or leaves: results are there, each once, and nobody else suffers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster, Scheduler, Worker

from fhe_inhibitor.cluster.executor import ClusterExecutor
from fhe_inhibitor.cluster.options import Cluster
from fhe_inhibitor.cluster.orders import EngineDiedError
from fhe_inhibitor.cluster.worker import hands_of
from fhe_inhibitor.runtime.execution import TaskDone
from fhe_inhibitor.runtime.manifest import Task
from fhe_inhibitor.runtime.messages import Request
from fhe_inhibitor.runtime.server import Server, Value
from tests.conftest import REPOSITORY
from tests.fhe_inhibitor.cluster.conftest import OPTIONS
from tests.fhe_inhibitor.cluster.scripted import ScriptEngines
from tests.fhe_inhibitor.cluster.sentences import (
    Notes,
    check_logits,
    naps,
    run_all,
    sentences,
)
from tests.fhe_inhibitor.conftest import Tiny, User

KEYS = b"of nobody"


@pytest.fixture(scope="module")
def value(tiny: Tiny, user: User) -> Value:
    """A ciphertext that scripted engines hand on."""
    return next(iter(Server(tiny.circuits).read_values(Request.from_bytes(user.request)).values()))


@contextmanager
def scripted(
    n_workers: int, patience_s: float = 60, **options: Any
) -> Iterator[tuple[LocalCluster, Client, Cluster]]:
    """A cluster whose engines are scripted."""
    with (
        LocalCluster(n_workers=n_workers, **{**OPTIONS, **options}) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(ScriptEngines())
        yield cluster, client, Cluster(client, patience_s=patience_s)


def outputs_moved(client: Client) -> int:
    """Return the bytes of tasks' outputs that workers got from others, by Dask's own account."""

    def incoming(dask_worker: Worker) -> int:
        moved = [m["keys"] for m in dask_worker.transfer_incoming_log]
        return sum(n for keys in moved for k, n in keys.items() if k.startswith("part-"))

    return sum(client.run(incoming).values())


def each_once(done: list[TaskDone[Value]]) -> bool:
    return sorted(one.index for one in done) == list(range(1, done[0].total + 1))


@pytest.mark.fhe
def test_every_engine_is_made_ready_once(tiny: Tiny, value: Value) -> None:
    """So what is timed afterwards loads nothing, whichever engine it comes to."""
    task = Task("nap", "nap:0.2", ("0.0",), ("out",), {})

    def n_called(dask_scheduler: Scheduler) -> int:
        naps = [p for name, p in dask_scheduler.task_prefixes.items() if name.startswith("nap")]
        return sum(prefix.state_counts["memory"] for prefix in naps)

    def engines(dask_worker: Worker) -> list[bool]:
        return [engine is not None for engine in hands_of(dask_worker)._free.queue]

    given = {"0.0": value}
    with (
        scripted(1, threads_per_worker=2) as (_, client, cluster),
        ClusterExecutor(cluster, tiny.circuits, KEYS) as executor,
    ):
        ready = executor.make_ready(task, given)
        assert set(ready) == set(client.scheduler_info()["workers"])
        (equipment,) = ready.values()
        assert (equipment.tasks_at_once, equipment.threads) == (2, 1)
        assert list(client.run(engines).values()) == [[True, True]]
        assert executor.make_ready(task, given) == ready
        assert client.run_on_scheduler(n_called) == 2


@pytest.mark.fhe
def test_what_kills_two_engines_ends_its_job_alone(tiny: Tiny, value: Value) -> None:
    """Neither worker dies, and the job of somebody else, on the same workers, is done."""
    poisoned = [
        Task("poisoned", "die", ("0.0",), ("bad",), {}),
        Task("last", "nap:0", ("bad",), ("logits",), {}),
    ]
    with scripted(2) as (_, client, cluster):
        pids = client.run(os.getpid)
        with (
            ClusterExecutor(cluster, tiny.circuits, KEYS) as ours,
            ClusterExecutor(cluster, tiny.circuits, KEYS) as theirs,
        ):
            done: list[TaskDone[Value]] = []
            innocent = threading.Thread(
                target=lambda: done.extend(run_all(theirs, *naps(4, 0.3, value)))
            )
            innocent.start()
            with pytest.raises(EngineDiedError, match="SIGSEGV"):
                run_all(ours, poisoned, {"0.0": value})
            innocent.join()
            assert each_once(done)
            # More runs after it; what moved for that, Dask has counted too.
            before = outputs_moved(client)
            assert each_once(run_all(ours, *naps(4, 0.3, value)))
            assert outputs_moved(client) - before == ours.placement.moved_bytes > 0
        assert client.run(os.getpid) == pids


@pytest.mark.fhe
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("n", [1, 2])
def test_workers_killed_in_mid_task(tiny: Tiny, value: Value, n: int) -> None:
    """One, or all that there are: the nanny starts others, which are compared and go on."""
    with scripted(2) as (_, client, cluster):
        with ClusterExecutor(cluster, tiny.circuits, KEYS) as executor:
            running = executor.go_on(*naps(4, 1.0, value, length=2))
            done = [next(running)]
            for pid in list(client.run(os.getpid).values())[:n]:
                os.kill(pid, signal.SIGKILL)
            done += running
        assert each_once(done)


@pytest.mark.fhe
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_worker_that_comes_late_takes_its_part_and_gets_the_keys(
    tiny: Tiny, value: Value
) -> None:
    with (
        scripted(1) as (local, _, cluster),
        ClusterExecutor(cluster, tiny.circuits, KEYS) as executor,
    ):
        running = executor.go_on(*naps(40, 2.0, value))  # a worker starts within these
        done = [next(running)]
        local.scale(2)
        done += running
        assert each_once(done)
        assert len(executor.placement.tasks) == 2


@pytest.mark.fhe
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_first_worker_is_waited_for_and_the_last_one_may_leave(tiny: Tiny, value: Value) -> None:
    """Tasks that no worker could run go on with the next one that comes."""
    notes = Notes()
    with scripted(0) as (local, client, cluster):
        threading.Timer(2, lambda: local.scale(1)).start()
        with ClusterExecutor(cluster, tiny.circuits, KEYS, notes) as executor:
            assert notes.notes == ["waiting for a first worker of the cluster"]
            running = executor.go_on(*naps(6, 0.5, value))
            done = [next(running)]
            local.scale(0)
            threading.Timer(4, lambda: local.scale(1)).start()
            done += running
        assert each_once(done)


@pytest.mark.fhe
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_worker_whose_network_is_cut_is_given_up(tiny: Tiny, value: Value) -> None:
    """It is stopped, so that its connections stay open and nothing comes through them."""
    with (
        dask.config.set({"distributed.scheduler.worker-ttl": "20s"}),
        scripted(2) as (_, client, cluster),
    ):
        with ClusterExecutor(cluster, tiny.circuits, KEYS) as executor:
            running = executor.go_on(*naps(4, 1.0, value, length=2))
            done = [next(running)]
            pid = client.run(os.getpid)[executor.placement.tasks.most_common()[0][0]]
            os.kill(pid, signal.SIGSTOP)
            try:
                done += running
            finally:
                with suppress(ProcessLookupError):  # its nanny has put another in its place
                    os.kill(pid, signal.SIGCONT)
        assert each_once(done)


@pytest.mark.fhe
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_scheduler_that_is_killed_and_started_again(tiny: Tiny, user: User) -> None:
    """By our own commands, with real circuits: workers come back to it, and what was lost runs."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    notes = Notes()
    tasks, values = sentences(tiny, user, 2)
    scheduler = start("scheduler", "--port", str(port))
    worker = start("worker", address, "--cores", "1")
    try:
        cluster = Cluster(address, patience_s=120)
        with ClusterExecutor(wait_for(cluster), tiny.circuits, user.keys, notes) as executor:
            running = executor.go_on(tasks, values, notes)
            done = [next(running)]
            stop(scheduler, signal.SIGKILL)
            scheduler = start("scheduler", "--port", str(port))
            done += running
        check_logits(user, done, 1)
        assert any("scheduler was lost" in note for note in notes.notes)
    finally:
        for process in (worker, scheduler):
            stop(process, signal.SIGTERM)


def start(*arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "fhe_inhibitor", "cluster", *arguments]
    return subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True)


def stop(process: subprocess.Popen[bytes], number: int) -> None:
    """End a command and, for a kill, what it started."""
    os.killpg(process.pid, number)
    process.wait(timeout=60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(cluster: Cluster) -> Cluster:
    """Return it once its scheduler answers."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            Client(cluster.scheduler, timeout=2, set_as_default=False).close()
            return cluster
        except OSError:
            time.sleep(0.5)
    raise AssertionError("no scheduler")
