"""A worker's own part of a job: what it goes on with, and which keys it takes."""

from __future__ import annotations

import hashlib
import logging
import resource
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fhe_inhibitor.cluster import executor as cluster_executor
from fhe_inhibitor.cluster.options import Cluster
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.execution import TaskDone
from fhe_inhibitor.runtime.manifest import Task
from fhe_inhibitor.runtime.messages import Message, Request
from fhe_inhibitor.service.jobs import Claim, NewJob
from fhe_inhibitor.service.orders import Report
from fhe_inhibitor.service.worker import OnCluster, Worker, limit_memory
from tests.fhe_inhibitor.service.test_watchers import order_of

#  x -> a -> b --> d --> e
#        \-> c -/   y -/
TASKS = [
    Task("a", "a", ("x",), ("a1", "a2"), {}),
    Task("b", "b", ("a1",), ("b",), {}),
    Task("c", "c", ("a2",), ("c",), {}),
    Task("d", "d", ("b", "c"), ("d",), {}),
    Task("e", "e", ("d", "y"), ("e",), {}),
]


REQUEST = Request(4, {"x": b"x", "y": b"y"})
MODEL = "a" * 64


class Scripted:
    """Takes the ciphertexts of a request as they are."""

    def read_values(self, request: Request) -> dict[str, Any]:
        return dict(request.ciphertexts)

    def tasks(self, n: int, pieces: int) -> list[Task]:
        return TASKS


@dataclass
class Written:
    """Stands for a ciphertext."""

    data: bytes

    def serialize(self) -> bytes:
        return self.data


class Killed(Exception):
    """Ends a worker in the middle of a job."""


class Finishing:
    """Finishes tasks in an order of its own, given values that it checks."""

    def __init__(self, *order: int) -> None:
        self.order = order

    def go_on(
        self, tasks: list[Task], values: dict[str, bytes], observer: object, left: range, keep: bool
    ) -> Iterator[TaskDone[Any]]:
        assert keep and set(self.order) <= set(left)
        made = {name for index in left for name in tasks[index - 1].outputs}
        read = {name for index in left for name in tasks[index - 1].inputs}
        assert {name: name.encode() for name in read - made} == values
        for index in self.order:
            outputs = {name: Written(name.encode()) for name in tasks[index - 1].outputs}
            yield TaskDone(tasks[index - 1], outputs, 0.1, index, len(tasks))
        if index < len(tasks):
            raise Killed


@pytest.mark.parametrize(
    ("n_done", "read"),
    [(0, "x y"), (1, "a1 a2 y"), (2, "a2 b y"), (3, "b c y"), (4, "d y")],
)
def test_a_job_goes_on_with_what_is_read_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_done: int, read: str
) -> None:
    """The files of tasks that nobody reads any more are not even there."""
    monkeypatch.setattr("fhe_inhibitor.runtime.server.read_value", lambda name, data: data)
    worker = Worker(order_of(tmp_path), lambda report: None)
    for index, task in enumerate(TASKS[:n_done], start=1):
        if set(task.outputs) & set(read.split()):
            outputs = Message(4, {name: name.encode() for name in task.outputs})
            worker._storage.write(worker._storage.task("job", index), outputs.to_bytes())
    claim = Claim("job", "ann", MODEL, "b" * 64, n_done)
    server: Any = Scripted()
    values: dict[str, Any] = worker._read_values(claim, server, REQUEST, TASKS)
    assert values == {name: name.encode() for name in read.split()}


def test_outputs_that_no_task_reads_any_more_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third task is done before the second; then another worker goes on."""
    monkeypatch.setattr("fhe_inhibitor.runtime.server.read_value", lambda name, data: data)
    seen: list[tuple[str, str]] = []

    def report(content: Report) -> None:
        folder = worker._storage.folder / "jobs" / job
        names = sorted(path.name.removeprefix("task-") for path in folder.iterdir())
        seen.append((content.stage or content.kind, " ".join(names)))

    worker = Worker(order_of(tmp_path), report)
    worker._servers[MODEL] = Scripted()  # type: ignore[assignment]
    storage, jobs = worker._storage, worker._jobs
    new = NewJob("ann", MODEL, "b" * 64, 4, len(TASKS), "0" * 64, None)
    job = jobs.submit(new, lambda job: storage.write(storage.request(job), REQUEST.to_bytes())).id
    for order in ((1, 3, 2), (4, 5)):
        executor = Finishing(*order)
        monkeypatch.setattr(Worker, "_executor", lambda *_, executor=executor: executor)
        claim = jobs.claim("lease", [MODEL])
        assert claim is not None
        with suppress(Killed):
            worker._run(claim)
        jobs.put_back()
    assert seen == [
        ("a", "1 request"),
        ("b", "1 2 3 request"),
        ("c", "1 2 3 request"),
        ("d", "2 3 4 request"),
        ("e", "4 request result"),
    ]
    assert [path.name for path in storage.result(job).parent.iterdir()] == ["result"]


@pytest.mark.parametrize(
    ("hard", "limit", "keys_bytes"),
    [(resource.RLIM_INFINITY, 1000, 50), (4000, 1000, 50), (400, 400, 20)],
)
def test_a_worker_takes_the_system_s_limit_of_memory_where_it_is_lower(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    hard: int,
    limit: int,
    keys_bytes: int,
) -> None:
    """A process can't raise it; one that tried ended, and so did all that followed."""
    taken: list[tuple[int, int]] = []

    def take(kind: int, limits: tuple[int, int]) -> None:
        if hard != resource.RLIM_INFINITY and max(limits) > hard:
            raise ValueError("not allowed to raise maximum limit")
        taken.append(limits)

    monkeypatch.setattr(resource, "getrlimit", lambda kind: (hard, hard))
    monkeypatch.setattr(resource, "setrlimit", take)
    order = order_of(tmp_path).model_copy(update={"memory_bytes": 1000, "keys_bytes": 50})
    with caplog.at_level(logging.WARNING):
        given = limit_memory(order)
    assert taken == [(limit, limit)]
    assert (given.memory_bytes, given.keys_bytes) == (limit, keys_bytes)
    assert [record.message.split(":")[0] for record in caplog.records] == (
        ["less memory than set"] if limit < 1000 else []
    )


def test_damaged_keys_go_to_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bytes] = []

    def executor(cluster: Cluster, folder: Path, keys: bytes, observer: object) -> object:
        given.append(keys)
        return object()

    monkeypatch.setattr(cluster_executor, "ClusterExecutor", executor)
    path, sha256 = tmp_path / "keys", hashlib.sha256(b"keys").hexdigest()
    on_cluster = OnCluster(Cluster("tcp://127.0.0.1:1"))
    path.write_bytes(b"kexs")
    with pytest.raises(InputError, match="keys were damaged on the server"):
        on_cluster.executor("ann", tmp_path, path, sha256)
    path.write_bytes(b"keys")
    on_cluster.executor("ann", tmp_path, path, sha256)
    assert given == [b"keys"]
