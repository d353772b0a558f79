"""A simulator: how long a graph of tasks takes on machines that aren't here.

Tasks are placed one after the other, the one with the longest way to the end first, each where it
can begin earliest (list scheduling; Topcuoglu et al. 2002, HEFT). What is modelled:

- A machine runs `workers` tasks at a time, each on its share of the cores. A task's loops run one
  after the other, and a loop of c lookups takes ceil(c / threads) times the time of one.
- A value moves once to a machine that needs it, while others compute. A machine sends one value at
  a time, and receives one at a time, at the network's rate. Workers of one machine share values.
- The request begins on a machine of its own, with the same network.

What isn't: the memory bandwidth that cores share, the time to pack and unpack ciphertexts, and the
time of a scheduler. So seconds are rather too low than too high; compare with what few workers
measure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, inf

import numpy as np


@dataclass(frozen=True)
class TimedTask:
    """One task. loops: of each, the lookups and the seconds of one of them on one core."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    loops: tuple[tuple[int, float], ...]

    def seconds(self, cores: int) -> float:
        """Return the seconds on so many cores.

        >>> TimedTask("", (), (), ((3, 1.0), (4, 0.5))).seconds(2)
        3.0
        """
        return sum(ceil(count / cores) * seconds for count, seconds in self.loops)


@dataclass(frozen=True)
class TaskGraph:
    """Tasks in an order that can run, and the bytes of values by name.

    What no task gives is there from the beginning, on the client's side.
    """

    tasks: tuple[TimedTask, ...]
    value_bytes: Mapping[str, int]

    def one_core_s(self) -> float:
        """Return the seconds of all tasks on one core."""
        return sum(task.seconds(1) for task in self.tasks)

    def ways(self, cores: int) -> dict[str, float]:
        """Return the seconds from the start of each task to the end of all, by the longest way.

        Each task has so many cores, and values move in no time. The largest is the critical path.
        """
        after: dict[str, float] = {}
        ways: dict[str, float] = {}
        for task in reversed(self.tasks):
            way = task.seconds(cores) + max((after.get(x, 0.0) for x in task.outputs), default=0.0)
            ways[task.name] = way
            for name in task.inputs:
                after[name] = max(after.get(name, 0.0), way)
        return ways

    def critical_path_s(self, cores: int) -> float:
        """Return the seconds that no number of machines of so many cores can go below."""
        return max(self.ways(cores).values())


@dataclass(frozen=True)
class Machines:
    """Machines that are alike. workers: tasks that one runs at a time. gbit_per_s: each way."""

    count: int
    cores: int
    gbit_per_s: float = inf
    workers: int = 1

    @property
    def threads(self) -> int:
        """Cores of one task."""
        return self.cores // self.workers


@dataclass(frozen=True)
class Placed:
    """Where a task ran, and when: seconds from the request."""

    task: str
    machine: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Schedule:
    """What came of it. moved_bytes: between machines, and from the client."""

    seconds: float
    moved_bytes: int
    placed: tuple[Placed, ...]


class _Places:
    """Where values are, and when workers and network are free."""

    def __init__(self, graph: TaskGraph, machines: Machines) -> None:
        self._bytes_per_s = machines.gbit_per_s * 1e9 / 8
        self._bytes = graph.value_bytes
        self._n = machines.count
        self.workers = np.zeros((machines.count, machines.workers))
        self._sending, self._receiving = np.zeros(self._n + 1), np.zeros(self._n + 1)
        given = {name for task in graph.tasks for name in task.outputs}
        # When a value is on a machine, the client's being the last; infinite where it is not.
        self._there: dict[str, np.ndarray] = {}
        self._origin: dict[str, int] = {}
        for task in graph.tasks:
            for name in task.inputs:
                if name not in given and name not in self._there:
                    self.add(name, self._n, 0.0)
        self.moved_bytes = 0

    def add(self, name: str, machine: int, time: float) -> None:
        """Say that a value is made on a machine."""
        self._there[name] = np.full(self._n + 1, inf)
        self._there[name][machine] = time
        self._origin[name] = machine

    def best(self, task: TimedTask) -> int:
        """Return the machine on which a task can begin earliest, about; of several, where least
        has to move."""
        free = self.workers.min(axis=1)
        if not task.inputs:
            return int(free.argmin())
        there = np.stack([self._there[name][: self._n] for name in task.inputs])
        origins = [self._origin[name] for name in task.inputs]
        made = [self._there[x][at] for x, at in zip(task.inputs, origins, strict=True)]
        sent = np.maximum(made, self._sending[origins])[:, None]
        takes = np.array([self._takes(name) for name in task.inputs])[:, None]
        missing = np.isinf(there)
        arrives = np.where(missing, sent + takes, there).max(axis=0)
        to_move = (missing * takes).sum(axis=0)
        queue = np.where(to_move > 0, self._receiving[: self._n] + to_move, 0.0)
        begins = np.maximum(np.maximum(free, arrives), queue)
        return int(np.lexsort((to_move, begins))[0])

    def bring(self, task: TimedTask, machine: int) -> float:
        """Move what a task needs to a machine; return when all is there."""
        at = 0.0
        for name in sorted(task.inputs, key=lambda x: self._there[x][self._origin[x]]):
            there, origin = self._there[name], self._origin[name]
            if there[machine] == inf:
                start = max(there[origin], self._sending[origin], self._receiving[machine])
                end = start + self._takes(name)
                self._sending[origin] = self._receiving[machine] = there[machine] = end
                self.moved_bytes += self._bytes[name]
            at = max(at, float(there[machine]))
        return at

    def _takes(self, name: str) -> float:
        return self._bytes[name] / self._bytes_per_s


def simulate(graph: TaskGraph, machines: Machines) -> Schedule:
    """Return when each task of a graph runs, and where."""
    ways = graph.ways(machines.threads)
    order = sorted(
        range(len(graph.tasks)), key=lambda index: (-ways[graph.tasks[index].name], index)
    )
    places, placed = _Places(graph, machines), []
    for task in (graph.tasks[index] for index in order):
        machine = places.best(task)
        worker = int(places.workers[machine].argmin())
        start = max(places.bring(task, machine), float(places.workers[machine, worker]))
        end = start + task.seconds(machines.threads)
        places.workers[machine, worker] = end
        for name in task.outputs:
            places.add(name, machine, end)
        placed.append(Placed(task.name, machine, start, end))
    return Schedule(max(p.end_s for p in placed), places.moved_bytes, tuple(placed))
