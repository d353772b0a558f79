"""Programs that a cluster can run side by side."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from distributed import Client

from fhe_inhibitor.cluster.executor import ClusterExecutor
from fhe_inhibitor.runtime.execution import TaskDone
from fhe_inhibitor.runtime.manifest import Task
from fhe_inhibitor.runtime.messages import Request
from fhe_inhibitor.runtime.server import Server, Value, to_response
from fhe_inhibitor.system.progress import Observer
from tests.fhe_inhibitor.cluster.scripted import NAP
from tests.fhe_inhibitor.conftest import Tiny, User


class Notes(Observer):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def sentences(tiny: Tiny, user: User, n: int) -> tuple[list[Task], dict[str, Value]]:
    """Return the tasks of the user's request n times, and their ciphertexts: names begin `1.`."""
    server = Server(tiny.circuits)
    request = Request.from_bytes(user.request)
    tasks: list[Task] = []
    values: dict[str, Value] = {}
    for number in range(1, n + 1):
        name = f"{number}.{{}}".format
        for task in server.tasks(request.n):
            inputs, outputs = tuple(map(name, task.inputs)), tuple(map(name, task.outputs))
            tasks.append(replace(task, inputs=inputs, outputs=outputs))
        values |= {name(key): value for key, value in server.read_values(request).items()}
    return tasks, values


def check_logits(user: User, done: Sequence[TaskDone[Value]], n: int) -> None:
    """Check that n sentences are right, and that each task was told once."""
    assert sorted(one.index for one in done) == list(range(1, done[0].total + 1))
    n_tokens = Request.from_bytes(user.request).n
    found = 0
    for one in done:
        if one.task.function == "classify" and one.outputs:
            (logits,) = one.outputs.values()
            named = replace(one, outputs={"logits": logits})
            user.check(to_response(n_tokens, named).to_bytes())
            found += 1
    assert found == n


def naps(n: int, seconds: float, value: Value, length: int = 1) -> tuple[list[Task], Any]:
    """Return n chains of tasks that take so long and return what they got, and a last one."""
    tasks = [
        Task(f"nap{i}", f"{NAP}:{seconds}", (f"{i}.{k}",), (f"{i}.{k + 1}",), {})
        for i in range(n)
        for k in range(length)
    ]
    ends = tuple(f"{i}.{length}" for i in range(n))
    tasks.append(Task("last", f"{NAP}:0", ends, ("logits",), {}))
    return tasks, {f"{i}.0": value for i in range(n)}


def run_all(
    executor: ClusterExecutor, tasks: Sequence[Task], values: dict[str, Value], **options: Any
) -> list[TaskDone[Value]]:
    return list(executor.go_on(tasks, values, **options))


@contextmanager
def left_alone(client: Client) -> Iterator[None]:
    """Check that nothing is left on the scheduler."""
    yield
    end = time.monotonic() + 10
    while keys := client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks)):
        assert time.monotonic() < end, keys
        time.sleep(0.05)
