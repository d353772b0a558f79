"""How logits come about: encrypted between a client and a server, or simulated.

Both run the same tasks of the same circuits, so they cost the same lookups. Both have `manifest`,
`setup` (what preparing them took) and `evaluation_keys_bytes` (0 without keys).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compile.local.circuits_cache import compile_model
from compile.local.prepared import prepare
from compile.lookup_times import measure_lookups
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.runtime.costs import StageCost, stage_name, total_by_name
from fhe_inhibitor.runtime.manifest import Task
from fhe_inhibitor.runtime.messages import Request, Response
from fhe_inhibitor.runtime.server import TaskDone
from fhe_inhibitor.system.progress import Observer


@dataclass(frozen=True)
class Answer:
    """Logits of one text, int64 `[n_labels]`, and what they took; nothing is sent in simulation."""

    logits: np.ndarray
    stages: tuple[StageCost, ...]
    request_bytes: int = 0
    response_bytes: int = 0


class Execution:
    """Real encryption; client and server exchange nothing but bytes.

    Raises InputError if circuits and keys are not in the cache and it cannot be written.
    """

    def __init__(
        self, model: IntegerModel, cache_dir: str | Path | None, observer: Observer
    ) -> None:
        self._model = model
        prepared = prepare(model, cache_dir, observer)
        self._client, self._server = prepared.client, prepared.server
        self._evaluation_keys = prepared.evaluation_keys
        self.manifest = self._server.manifest
        self.setup = prepared.setup
        self.evaluation_keys_bytes = prepared.evaluation_keys_bytes

    def answer(self, x: np.ndarray, padding: np.ndarray, observer: Observer) -> Answer:
        """Encrypt, run every task on ciphertexts, decrypt."""
        start = time.perf_counter()
        observer.begin("encrypt")
        request = self._client.encrypt(x, padding, self._model.projections(x)).to_bytes()
        stages = [StageCost("encrypt", time.perf_counter() - start)]
        tasks = self._server.tasks(len(x))
        observer.begin(tasks[0].stage)

        def on_task(done: TaskDone) -> None:
            stages.append(_task_cost(done.task, done.seconds))
            observer.finish(done.task.n_lookups)
            observer.begin(tasks[done.index].stage if done.index < done.total else "decrypt")

        response = self._server.run(Request.from_bytes(request), self._evaluation_keys, on_task)
        received = response.to_bytes()
        start = time.perf_counter()
        logits = self._client.decrypt(Response.from_bytes(received))
        stages.append(StageCost("decrypt", time.perf_counter() - start))
        return Answer(logits, total_by_name(stages), len(request), len(received))

    def measure_lookups(self) -> dict[int, float]:
        """Return the seconds of one lookup by bit width, with the same keys."""
        return measure_lookups(self._client, self._server, self._evaluation_keys)


class Simulation:
    """Concrete's simulation of the same circuits: its noise and rounding, no keys, no secrecy."""

    def __init__(self, model: IntegerModel, observer: Observer) -> None:
        self._model = model
        compiled = compile_model(model, observer)
        self._functions = compiled.module.functions()
        self.manifest = compiled.manifest
        self.setup = (StageCost("compile", compiled.compile_s),)
        self.evaluation_keys_bytes = 0

    def answer(self, x: np.ndarray, padding: np.ndarray, observer: Observer) -> Answer:
        """Simulate every task on clear integers."""
        program = self.manifest.program(len(x))
        given = {"x": x, "padding": padding, **self._model.projections(x)}
        values = {encryption.name: given[encryption.value] for encryption in program.encryptions}
        stages = []
        for task in program.tasks:
            observer.begin(task.stage)
            start = time.perf_counter()
            outputs = self._functions[task.function].simulate(*(values[i] for i in task.inputs))
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            values.update(zip(task.outputs, outputs, strict=True))
            stages.append(_task_cost(task, time.perf_counter() - start))
            observer.finish(task.n_lookups)
        (logits,) = (values[name] for name in program.tasks[-1].outputs)
        return Answer(np.asarray(logits, np.int64).reshape(-1), total_by_name(stages))

    def measure_lookups(self) -> dict[int, float]:
        """Return nothing: simulated lookups take no time worth comparing."""
        return {}


Backend = Execution | Simulation


def _task_cost(task: Task, seconds: float) -> StageCost:
    return StageCost(stage_name(task.stage), seconds, task.lookups)
