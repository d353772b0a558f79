"""A worker's own part of a job: what it goes on with, and which keys it takes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from fhe_inhibitor.cluster import executor as cluster_executor
from fhe_inhibitor.cluster.options import Cluster
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.manifest import Task
from fhe_inhibitor.runtime.messages import Message, Request
from fhe_inhibitor.service.jobs import Claim
from fhe_inhibitor.service.worker import OnCluster, Worker
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


class Scripted:
    """Takes the ciphertexts of a request as they are."""

    def read_values(self, request: Request) -> dict[str, Any]:
        return dict(request.ciphertexts)


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
    request = Request(4, {"x": b"x", "y": b"y"})
    claim = Claim("job", "ann", "a" * 64, "b" * 64, n_done)
    server: Any = Scripted()
    values: dict[str, Any] = worker._read_values(claim, server, request, TASKS)
    assert values == {name: name.encode() for name in read.split()}


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
