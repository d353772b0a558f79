"""The server: runs a network on ciphertexts, holds nothing that decrypts.

    server = Server(folder)
    keys = server.read_evaluation_keys(data)          # once per client
    response = server.run(Request.from_bytes(data), keys)

Of Concrete, this file binds the classes that evaluate: no client, no key generation. That is a
reading aid and a guard against a slip, no security boundary: the package `concrete` loads all of
itself into the process. What the server cannot decrypt it cannot because it never gets a secret
key. A folder of circuits holds native code: load only what you compiled.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from concrete.compiler import Library
from concrete.fhe.compilation.evaluation_keys import EvaluationKeys
from concrete.fhe.compilation.server import Server as CircuitServer
from concrete.fhe.compilation.value import Value

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.manifest import SERVER_FOLDER, Program, Task, read_manifest
from fhe_inhibitor.messages import Request, Response, unpack_keys

__all__ = ["EvaluationKeys", "Server", "TaskDone"]


@dataclass(frozen=True)
class TaskDone:
    """A task that has just finished: the `index`-th of `total`, counted from 1."""

    task: Task
    seconds: float
    index: int
    total: int


class Server:
    """Evaluates requests with the circuits of a folder.

    Raises InputError if the folder lacks a file or holds another version or network.
    """

    def __init__(self, folder: str | Path, network_hash: str | None = None) -> None:
        folder = Path(folder)
        self.manifest = read_manifest(folder, network_hash)
        try:
            library = Library(str(folder / SERVER_FOLDER))
            library.get_program_info()
        except RuntimeError as error:
            raise InputError(
                f"{folder / SERVER_FOLDER} can't be loaded ({_first_line(error)}); "
                "compile the model again"
            ) from error
        self._circuits = CircuitServer(library, is_simulated=False, composition_rules=None)

    def read_evaluation_keys(self, data: bytes) -> EvaluationKeys:
        """Read a client's evaluation keys; raises InputError for anything else.

        The first run with them unpacks them, in a few seconds: keep them for the next one. Keys
        that were forged to look as if they belonged to these circuits can crash the process.
        """
        keys = unpack_keys(self.manifest.keys_hash, data)
        try:
            return EvaluationKeys.deserialize(keys)
        except RuntimeError as error:
            raise InputError(
                f"{len(data)} bytes are no evaluation keys ({_first_line(error)}): send them again"
            ) from error

    def tasks(self, n: int) -> tuple[Task, ...]:
        """Return the tasks of a request of n tokens. Raises InputError for another length."""
        return self.manifest.program(n).tasks

    def run(
        self,
        request: Request,
        evaluation_keys: EvaluationKeys,
        on_task: Callable[[TaskDone], None] = lambda done: None,
    ) -> Response:
        """Evaluate all tasks of a request.

        on_task: called after each task. Raises InputError for a request that does not fit the
        circuits or the keys.
        """
        program = self.manifest.program(request.n)
        values = _read_values(request, program)
        for index, task in enumerate(program.tasks, start=1):
            start = time.perf_counter()
            outputs = self._call(task, values, evaluation_keys)
            values.update(zip(task.outputs, outputs, strict=True))
            on_task(TaskDone(task, time.perf_counter() - start, index, len(program.tasks)))
        last = program.tasks[-1].outputs
        return Response(request.n, {name: values[name].serialize() for name in last})

    def call(
        self, function: str, arguments: list[Value], evaluation_keys: EvaluationKeys
    ) -> tuple[Value, ...]:
        """Evaluate one function. Raises InputError for arguments or keys that do not fit it."""
        try:
            outputs = self._circuits.run(
                *arguments, evaluation_keys=evaluation_keys, function_name=function
            )
        except RuntimeError as error:
            raise InputError(
                f"{function} refuses its input ({_first_line(error)}); it was not made for these "
                "circuits and keys"
            ) from error
        return outputs if isinstance(outputs, tuple) else (outputs,)

    def _call(
        self, task: Task, values: dict[str, Value], evaluation_keys: EvaluationKeys
    ) -> tuple[Value, ...]:
        return self.call(task.function, [values[name] for name in task.inputs], evaluation_keys)


def _read_values(request: Request, program: Program) -> dict[str, Value]:
    """Return the ciphertexts of a request, exactly those that the program asks for."""
    wanted = {encryption.name for encryption in program.encryptions}
    if set(request.ciphertexts) != wanted:
        raise InputError(
            f"a request with ciphertexts {sorted(request.ciphertexts)}, wanted {sorted(wanted)}"
        )
    values = {}
    for name, data in request.ciphertexts.items():
        try:
            values[name] = Value.deserialize(data)
        except RuntimeError as error:
            raise InputError(f"ciphertext {name!r} of a request can't be read") from error
    return values


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
