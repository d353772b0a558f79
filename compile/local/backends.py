"""How logits come about: encrypted between a client and a server, or simulated.

Both run the same tasks of the same circuits, so they cost the same lookups.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from concrete import fhe
from concrete.compiler import Library

from compile.local.prepared import Encryptable, Prepared, prepare_circuits
from compile.local.resumption import KeptRun, RunOwner, kept_run
from compile.lookup_times import measure_lookups
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.costs import StageCost, stage_name, total_by_name
from fhe_inhibitor.runtime.execution import run_tasks, tasks_left
from fhe_inhibitor.runtime.executor import Executor, InProcess
from fhe_inhibitor.runtime.manifest import SERVER_FOLDER, Manifest, Task, read_manifest
from fhe_inhibitor.runtime.messages import Request, Response
from fhe_inhibitor.runtime.server import to_response
from fhe_inhibitor.system.progress import Observer, Stopwatch, tell_crossing

Encoded = tuple[np.ndarray, np.ndarray]  # x and padding of a text, or of a piece of one


@dataclass(frozen=True)
class Answer:
    """Logits of one text, int64 `[n_labels]`, and what they took; nothing is sent in simulation."""

    logits: np.ndarray
    stages: tuple[StageCost, ...]
    request_bytes: int = 0
    response_bytes: int = 0


class Backend(Protocol):
    """What answers for a session.

    circuits_hash: None where nothing is encrypted. setup: what preparing it took.
    evaluation_keys_bytes: as sent, 0 without keys.
    """

    manifest: Manifest
    setup: tuple[StageCost, ...]
    evaluation_keys_bytes: int

    @property
    def circuits_hash(self) -> str | None: ...

    def answer(self, pieces: Sequence[Encoded], observer: Observer) -> Answer:
        """Return the logits of a text: of one piece, or summed over several of one length.

        pieces: x int `[n, dim]` and padding int `[n]` of each.
        """
        ...

    def measure_lookups(self) -> dict[int, float]:
        """Return the seconds of one lookup by bit width."""
        ...


class Execution:
    """Real encryption; client and server exchange nothing but bytes.

    executor: runs the tasks, with the circuits and keys that were prepared; this process if None.
    """

    def __init__(
        self, model: Encryptable, prepared: Prepared, executor: Executor | None = None
    ) -> None:
        self._model = model
        self._client, self._server = prepared.client, prepared.server
        self._evaluation_keys = prepared.evaluation_keys
        self._executor = executor or InProcess(self._server, self._evaluation_keys)
        self.manifest = self._server.manifest
        self.circuits_hash = prepared.circuits_hash
        self.setup = prepared.setup
        self.evaluation_keys_bytes = prepared.evaluation_keys_bytes

    def answer(self, pieces: Sequence[Encoded], observer: Observer) -> Answer:
        """Encrypt, run every task on ciphertexts, decrypt."""
        data, encrypt = self._encrypt(pieces, observer)
        request = Request.from_bytes(data)
        costs = [encrypt]
        tasks = self._server.tasks(request.n, request.pieces)
        values = self._server.read_values(request)
        for done in self._executor.go_on(tasks, values, observer):
            costs.append(done.cost)
        received = to_response(request.n, done, request.pieces).to_bytes()
        logits, decrypt = self._decrypt(received, observer)
        return Answer(logits, total_by_name([*costs, decrypt]), len(data), len(received))

    def resume(self, pieces: Sequence[Encoded], observer: Observer, folder: str | Path) -> Answer:
        """Do what `answer` does, after the last task that a folder keeps; keep each one there.

        Costs are those of all tasks, whenever they ran. The folder's files are removed once the
        logits are there. Raises InputError as `kept_run` does.
        """
        with kept_run(folder, self._owner(pieces), observer) as run:
            answer = self._go_on(pieces, observer, run)
            run.remove()
        return answer

    def _go_on(self, pieces: Sequence[Encoded], observer: Observer, run: KeptRun) -> Answer:
        request = run.request()
        if request is None:
            data, encrypt = self._encrypt(pieces, observer)
            run.keep_request(data, encrypt.seconds)
            request = Request.from_bytes(data)
        tasks = self._server.tasks(request.n, request.pieces)
        values = self._server.read_values(request)
        values |= run.read_values(tasks)
        left = tasks_left(tasks, values)
        seconds = {index: run.seconds(index) for index in range(1, len(tasks) + 1)}
        waiting = set(left)
        _tell_what_is_left(tasks, left, observer, run.folder)
        for done in self._executor.go_on(tasks, values, observer, left, keep=True):
            seconds[done.index] = done.seconds
            waiting.discard(done.index)
            run.keep(tasks, request.n, done, waiting)
        received = to_response(request.n, done, request.pieces).to_bytes()
        try:
            logits, decrypt = self._decrypt(received, observer)
        except InputError as error:
            raise InputError(f"{error}. Remove {run.folder}, and run it anew") from error
        costs = [
            StageCost("encrypt", run.encrypt_s),
            *(
                StageCost(stage_name(task.stage), seconds[index], task.lookups)
                for index, task in enumerate(tasks, start=1)
            ),
            decrypt,
        ]
        return Answer(logits, total_by_name(costs), len(request.to_bytes()), len(received))

    def _encrypt(self, pieces: Sequence[Encoded], observer: Observer) -> tuple[bytes, StageCost]:
        observer.begin("encrypt")
        start = time.perf_counter()
        given = [(x, padding, self._model.projections(x)) for x, padding in pieces]
        request = self._client.encrypt_document(given).to_bytes()
        encrypt = StageCost("encrypt", time.perf_counter() - start)
        tell_crossing(observer, "request", request)
        return request, encrypt

    def _decrypt(self, received: bytes, observer: Observer) -> tuple[np.ndarray, StageCost]:
        tell_crossing(observer, "response", received)
        observer.begin("decrypt")
        start = time.perf_counter()
        logits = self._client.decrypt(Response.from_bytes(received))
        return logits, StageCost("decrypt", time.perf_counter() - start)

    def _owner(self, pieces: Sequence[Encoded]) -> RunOwner:
        """Return what a run belongs to; the text is known by what the model reads of it."""
        read = b"".join(
            part
            for x, padding in pieces
            for part in (
                str(x.shape).encode(),
                *(array.astype("<i8").tobytes() for array in (x, padding)),
            )
        )
        return RunOwner(
            circuits_hash=self.circuits_hash,
            evaluation_keys=hashlib.sha256(self._client.evaluation_keys()).hexdigest(),
            text=self._client.keyed_digest(read),
        )

    def measure_lookups(self) -> dict[int, float]:
        """Return the seconds of one lookup by bit width, with the same keys."""
        return measure_lookups(self._client, self._server, self._evaluation_keys)


class Simulation:
    """Concrete's simulation of the same circuits: its noise and rounding, no keys, no secrecy."""

    def __init__(
        self,
        model: Encryptable,
        cache_dir: str | Path | None,
        observer: Observer,
        documents: bool = False,
        split: int = 1,
    ) -> None:
        self._model = model
        steps = Stopwatch(observer)
        folder = prepare_circuits(
            model, cache_dir, steps, simulated=True, documents=documents, split=split
        )
        self.manifest = read_manifest(folder, model.hash)
        self._server = fhe.Server(Library(str(folder / SERVER_FOLDER)), True, None)
        self._client = fhe.Client(self._server.client_specs, is_simulated=True)
        self.circuits_hash = None
        self.setup = tuple(StageCost(step, seconds) for step, seconds in steps.stop().items())
        self.evaluation_keys_bytes = 0

    def answer(self, pieces: Sequence[Encoded], observer: Observer) -> Answer:
        """Simulate every task on clear integers."""
        program = self.manifest.program(len(pieces[0][0]), len(pieces))
        given = [
            {"x": x, "padding": padding, **self._model.projections(x)} for x, padding in pieces
        ]
        # A program encrypts as much for one piece as for another, one piece after the other.
        each = len(program.encryptions) // len(pieces)
        values = {
            encryption.name: encryption.take(given[index // each])
            for index, encryption in enumerate(program.encryptions)
        }
        costs = []
        for done in run_tasks(program.tasks, values, self._simulate, observer):
            costs.append(done.cost)
        (logits,) = done.outputs.values()
        return Answer(np.asarray(logits, np.int64).reshape(-1), total_by_name(costs))

    def measure_lookups(self) -> dict[int, float]:
        """Return nothing: simulated lookups take no time worth comparing."""
        return {}

    def _simulate(self, function: str, arguments: list[Any]) -> tuple[Any, ...]:
        given = self._client.simulate_encrypt(*arguments, function_name=function)
        results = self._server.run(given, function_name=function)
        outputs: Any = self._client.simulate_decrypt(results, function_name=function)
        return outputs if isinstance(outputs, tuple) else (outputs,)


def _tell_what_is_left(
    tasks: Sequence[Task], left: Sequence[int], observer: Observer, folder: Path
) -> None:
    """Count the lookups of tasks that need not run, and say how many those are."""
    if len(left) < len(tasks):
        done = [task for index, task in enumerate(tasks, start=1) if index not in left]
        observer.finish(sum(task.n_lookups for task in done))
        observer.note(f"{folder} keeps {len(done)} of {len(tasks)} tasks: going on after them")
