"""The one loop that runs a program: each task reads named values and gives new ones.

A server runs it on ciphertexts, a worker of the service goes on with it where another one stopped,
a simulation runs it on clear integers. They differ in what calls a function and in what becomes of
the outputs, not in the loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from fhe_inhibitor.runtime.costs import StageCost, stage_name
from fhe_inhibitor.runtime.manifest import Task
from fhe_inhibitor.system.progress import Observer

Value = TypeVar("Value")


@dataclass(frozen=True)
class TaskDone(Generic[Value]):
    """A task that has just finished: the `index`-th of `total`, counted from 1.

    outputs: what it gave, by name. seconds: wall time.
    """

    task: Task
    outputs: Mapping[str, Value]
    seconds: float
    index: int
    total: int

    @property
    def cost(self) -> StageCost:
        """Time and lookups, under the name of the stage that the task is part of."""
        return StageCost(stage_name(self.task.stage), self.seconds, self.task.lookups)


def run_tasks(
    tasks: Sequence[Task],
    values: Mapping[str, Value],
    call: Callable[[str, list[Value]], Sequence[Value]],
    observer: Observer | None = None,
    n_done: int = 0,
) -> Iterator[TaskDone[Value]]:
    """Run tasks in their order, each when the iterator is asked for it; yield each when it is done.

    values: by name, what the first task to run needs: the ciphertexts of a request, and the outputs
    of the first `n_done` tasks, which are not run again. call: evaluates a function, by name, on
    its arguments.
    """
    observer = observer or Observer()
    known = dict(values)
    for index, task in enumerate(tasks[n_done:], start=n_done + 1):
        observer.begin(task.stage)
        start = time.perf_counter()
        given = call(task.function, [known[name] for name in task.inputs])
        outputs = dict(zip(task.outputs, given, strict=True))
        known.update(outputs)
        seconds = time.perf_counter() - start
        observer.finish(task.n_lookups)
        yield TaskDone(task, outputs, seconds, index, len(tasks))
