"""What a child process does: one sentence's tasks, timed, on the threads that it was given."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from compile.cost.blocks import choose_blocks
from compile.cost.speed import USUAL_CORE
from compile.cost.tasks import estimate_tasks
from compile.local.prepared import prepare_circuits
from compile.scaling.graph import Machines, simulate
from compile.scaling.simulation import task_graph
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.runtime.client import Client
from fhe_inhibitor.runtime.execution import TaskDone
from fhe_inhibitor.runtime.executor import Executor
from fhe_inhibitor.runtime.manifest import Task
from fhe_inhibitor.runtime.messages import Response
from fhe_inhibitor.runtime.server import Server, Value, to_response
from fhe_inhibitor.system.machine import THREADS_VARIABLE
from fhe_inhibitor.system.progress import Observer

# What runs tasks on named ciphertexts, here or elsewhere, and yields each when it is done.
GoOn = Callable[[Sequence[Task], Mapping[str, Value]], Iterator[TaskDone[Value]]]


@dataclass(frozen=True)
class TimedRun:
    """One run. seconds: of all tasks, from the first to the last. task_s: of each, by name.

    difference: largest one of a logit from the integer model's, in steps; None where the run ended
    before the logits.
    """

    seconds: float
    task_s: dict[str, float]
    lookups: int
    difference: int | None


class ScalingProcess:
    """Circuits, keys and an encrypted sentence, ready to run; the keys are nowhere else.

    model: with one length, that of the sentence. layers: how many of the first layers to run, None
    for all stages.
    """

    def __init__(self, model: IntegerModel, split: int, layers: int | None, cache: Path) -> None:
        self._model, self._split, self._layers, self._cache = model, split, layers, cache
        self._executors: dict[str, Executor] = {}

    def prepare(self, observer: Observer) -> int:
        """Compile, or find circuits in the cache, and make keys; return the threads there are."""
        model = self._model
        folder = prepare_circuits(model, self._cache, observer, split=self._split)
        self._folder = folder
        self._client, self._server = Client(folder, model.hash), Server(folder, model.hash)
        observer.begin("keygen")
        self._client.generate_keys()
        self._keys = self._server.read_evaluation_keys(self._client.evaluation_keys())
        observer.begin("unpack keys")  # each function unpacks those that it is the first to use
        self.run(Observer(), seed=0)
        return int(os.environ[THREADS_VARIABLE])

    def join(self, observer: Observer, scheduler: str) -> None:
        """Use the workers of a Dask scheduler too; two runs give each its keys."""
        from fhe_inhibitor.cluster.executor import ClusterExecutor
        from fhe_inhibitor.cluster.options import Cluster

        keys = self._client.evaluation_keys()
        self._executors[scheduler] = ClusterExecutor(Cluster(scheduler), self._folder, keys)
        for seed in range(2):
            self.run_on(observer, seed, scheduler)

    def run_on(self, observer: Observer, seed: int, scheduler: str) -> TimedRun:
        """Do what `run` does on the workers of a scheduler that was joined."""
        return self.run_with(self._executors[scheduler].go_on, seed)

    def simulate(self, observer: Observer, task_s: Mapping[str, float], workers: int) -> float:
        """Return the seconds on so many workers of one core that the simulator finds.

        task_s: measured on one thread. Values move in no time, as on one machine.
        """
        network, p_error = self._model.network, self._model.p_error
        (n,) = self._model.buckets
        (blocks,) = choose_blocks(network, [n], p_error, self._split).values()
        graph = task_graph(estimate_tasks(network, n, p_error, blocks), USUAL_CORE, task_s)
        kept = tuple(task for task in graph.tasks if task.name in task_s)
        return simulate(replace(graph, tasks=kept), Machines(workers, 1)).seconds

    def run(self, observer: Observer, seed: int) -> TimedRun:
        """Encrypt integers drawn with this seed, run the tasks here, and decrypt logits."""

        def go_on(tasks: Sequence[Task], values: Mapping[str, Value]) -> Iterator[TaskDone[Value]]:
            return self._server.go_on(tasks, values, self._keys, observer)

        return self.run_with(go_on, seed)

    def run_with(self, go_on: GoOn, seed: int) -> TimedRun:
        """Do what `run` does with the tasks run by `go_on`."""
        model = self._model
        (n,) = model.buckets
        low, high = model.network.input_range
        x = np.random.default_rng(seed).integers(low, high + 1, (n, model.network.dim))
        padding = np.zeros(n, np.int64)
        request = self._client.encrypt(x, padding, model.projections(x))
        tasks = first_layers(self._server.tasks(n), self._layers)
        seconds, task_s, last = time_tasks(go_on, tasks, self._server.read_values(request))
        difference = None
        if self._layers is None:
            response = Response.from_bytes(to_response(n, last).to_bytes())
            logits = self._client.decrypt(response) - model.integer_logits(x, padding)
            difference = int(np.abs(logits).max())
        return TimedRun(seconds, task_s, sum(task.n_lookups for task in tasks), difference)


def first_layers(tasks: Sequence[Task], layers: int | None) -> Sequence[Task]:
    """Return the tasks of so many of the first layers, all if None."""
    if layers is None:
        return tasks
    prefixes = tuple(f"layer{index}." for index in range(layers))
    return [task for task in tasks if task.stage.startswith(prefixes)]


def time_tasks(
    go_on: GoOn, tasks: Sequence[Task], values: Mapping[str, Value]
) -> tuple[float, dict[str, float], TaskDone[Value]]:
    """Run tasks; return the wall time of all, that of each by name, and the last one."""
    start = time.perf_counter()
    done = [(one.task.stage, one.seconds, one) for one in go_on(tasks, values)]
    seconds = time.perf_counter() - start
    return seconds, {stage: took for stage, took, _ in done}, done[-1][2]
