"""The server: runs a network on ciphertexts, holds nothing that decrypts.

    server = Server(folder)
    keys = server.read_evaluation_keys(data)          # once per client
    response = server.run(Request.from_bytes(data), keys)

Of Concrete, this file imports the native classes that evaluate and nothing else: not the package
`concrete`, so that no class of Concrete's client or key generation is loaded with it. The native
library itself comes in one piece, so that is a guard against a slip, no security boundary: what
the server cannot decrypt it cannot because it never gets a secret key. A folder of circuits holds
native code: load only what you compiled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlir._mlir_libs._concretelang._compiler import Library, ServerProgram
from mlir._mlir_libs._concretelang._compiler import ServerKeyset as EvaluationKeys
from mlir._mlir_libs._concretelang._compiler import TransportValue as Value

from fhe_inhibitor.errors import InputError, first_line
from fhe_inhibitor.runtime.manifest import SERVER_FOLDER, Task, read_manifest
from fhe_inhibitor.runtime.messages import Request, Response, unpack_keys, whole_stream

__all__ = ["EvaluationKeys", "Server", "TaskDone", "Value"]


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
            self._program = ServerProgram(library, False)
        except RuntimeError as error:
            raise InputError(
                f"{folder / SERVER_FOLDER} can't be loaded ({first_line(error)}); "
                "compile the model again"
            ) from error

    def read_evaluation_keys(self, data: bytes) -> EvaluationKeys:
        """Read a client's evaluation keys; raises InputError for anything else.

        The first run with them unpacks them, in a few seconds: keep them for the next one. Keys
        that were forged to look as if they belonged to these circuits can crash the process.
        """
        keys = unpack_keys(self.manifest.keys_hash, data)
        try:
            return EvaluationKeys.deserialize(whole_stream(keys))
        except RuntimeError as error:
            raise InputError(
                f"{len(data)} bytes are no evaluation keys ({first_line(error)}): send them again"
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
        values = self.read_values(request)
        tasks = self.tasks(request.n)
        for index, task in enumerate(tasks, start=1):
            start = time.perf_counter()
            values.update(self.run_task(task, values, evaluation_keys))
            on_task(TaskDone(task, time.perf_counter() - start, index, len(tasks)))
        return Response(request.n, {name: values[name].serialize() for name in tasks[-1].outputs})

    def read_values(self, request: Request) -> dict[str, Value]:
        """Return the ciphertexts of a request, exactly those that its tasks start from.

        Raises InputError for others, for bytes that are none, and for another length.
        """
        wanted = {encryption.name for encryption in self.manifest.program(request.n).encryptions}
        if set(request.ciphertexts) != wanted:
            raise InputError(
                f"a request with ciphertexts {sorted(request.ciphertexts)}, wanted {sorted(wanted)}"
            )
        return {name: read_value(name, data) for name, data in request.ciphertexts.items()}

    def run_task(
        self, task: Task, values: Mapping[str, Value], evaluation_keys: EvaluationKeys
    ) -> dict[str, Value]:
        """Return the outputs of one task. Raises InputError for what does not fit its circuit."""
        inputs = [values[name] for name in task.inputs]
        outputs = self.call(task.function, inputs, evaluation_keys)
        return dict(zip(task.outputs, outputs, strict=True))

    def call(
        self, function: str, arguments: list[Value], evaluation_keys: EvaluationKeys
    ) -> tuple[Value, ...]:
        """Evaluate one function. Raises InputError for arguments or keys that do not fit it."""
        try:
            circuit = self._program.get_server_circuit(function)
            return tuple(circuit.call(arguments, evaluation_keys))
        except RuntimeError as error:
            raise InputError(
                f"{function} refuses its input ({first_line(error)}); it was not made for these "
                "circuits and keys"
            ) from error


def read_value(name: str, data: bytes) -> Value:
    """Return the ciphertext of that name. Raises InputError for bytes that are none."""
    try:
        return Value.deserialize(whole_stream(data))
    except RuntimeError as error:
        raise InputError(f"ciphertext {name!r} can't be read") from error
