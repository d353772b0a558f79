"""The one loop that runs a program: each task reads named values and gives new ones.

A server runs it on ciphertexts, a worker of the service and a session go on with it where another
one stopped, a simulation runs it on clear integers. They differ in what calls a function and in
what becomes of the outputs, not in the loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
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
    left: Iterable[int] | None = None,
) -> Iterator[TaskDone[Value]]:
    """Run tasks in their order, each when the iterator is asked for it; yield each when it is done.

    values: by name, what the tasks start from: the ciphertexts of a request, and the outputs of
    tasks that are not run again. A value is let go after the last task that reads it. left: indices
    of the tasks to run, counted from 1, ascending; all if None. call: evaluates a function, by
    name, on its arguments.
    """
    observer = observer or Observer()
    known = dict(values)
    indices = list(range(1, len(tasks) + 1) if left is None else left)
    last_read = {name: index for index in indices for name in tasks[index - 1].inputs}
    for index in indices:
        task = tasks[index - 1]
        observer.begin(task.stage)
        start = time.perf_counter()
        given = call(task.function, [known[name] for name in task.inputs])
        outputs = dict(zip(task.outputs, given, strict=True))
        known.update(outputs)
        # A document of 16 pieces would fill gigabytes.
        known = {name: known[name] for name in known if last_read.get(name, 0) > index}
        seconds = time.perf_counter() - start
        observer.finish(task.n_lookups)
        yield TaskDone(task, outputs, seconds, index, len(tasks))


def tasks_left(tasks: Sequence[Task], known: Container[str]) -> list[int]:
    """Return the indices of the tasks that the last one still needs, itself included, from 1.

    known: names of the values that are there. A task is left out if nothing that is to run reads a
    value of it that isn't there.
    """
    left: list[int] = []
    wanted = set(tasks[-1].outputs)
    for index in range(len(tasks), 0, -1):
        task = tasks[index - 1]
        if any(name in wanted and name not in known for name in task.outputs):
            left.append(index)
            wanted.update(task.inputs)
    return left[::-1]


def tasks_to_keep(tasks: Sequence[Task], waiting: Iterable[int], last: int) -> set[int]:
    """Return the indices of the tasks, counted from 1, whose values are worth keeping.

    waiting: indices of the tasks that are still to run. last: the one that was done just now, of
    several at once not always the highest. What is kept is that one, and what it or a waiting one
    reads. So these are enough to go on with, even if the values of that last one turn out to be
    damaged.
    """
    waiting = set(waiting)
    read = {name for index in (last, *waiting) for name in tasks[index - 1].inputs}
    done = (item for item in enumerate(tasks, start=1) if item[0] not in waiting)
    return {i for i, task in done if i == last or read.intersection(task.outputs)}
