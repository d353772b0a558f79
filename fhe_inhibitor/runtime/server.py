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

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from mlir._mlir_libs._concretelang._compiler import Library, ServerProgram
from mlir._mlir_libs._concretelang._compiler import ServerKeyset as EvaluationKeys
from mlir._mlir_libs._concretelang._compiler import TransportValue as Value

from fhe_inhibitor.errors import InputError, first_line
from fhe_inhibitor.runtime.execution import TaskDone, run_tasks
from fhe_inhibitor.runtime.manifest import SERVER_FOLDER, Task, check_files, read_manifest
from fhe_inhibitor.runtime.messages import Message, Request, Response, unpack_keys, whole_stream
from fhe_inhibitor.system.progress import Observer

__all__ = ["EvaluationKeys", "Server", "Value"]


class Server:
    """Evaluates requests with the circuits of a folder.

    Raises InputError if the folder lacks a file or holds another version or network.
    """

    def __init__(self, folder: str | Path, model_hash: str | None = None) -> None:
        folder = Path(folder)
        self.manifest = read_manifest(folder, model_hash)
        check_files(folder, f"{SERVER_FOLDER}/")
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

    def tasks(self, n: int, pieces: int = 1) -> tuple[Task, ...]:
        """Return the tasks of a request. Raises InputError for a length that no circuit has."""
        return self.manifest.program(n, pieces).tasks

    def run(
        self, request: Request, evaluation_keys: EvaluationKeys, observer: Observer | None = None
    ) -> Response:
        """Evaluate all tasks of a request. Raises InputError as `start` does."""
        *_, last = self.start(request, evaluation_keys, observer)
        return to_response(request.n, last, request.pieces)

    def start(
        self, request: Request, evaluation_keys: EvaluationKeys, observer: Observer | None = None
    ) -> Iterator[TaskDone[Value]]:
        """Evaluate the tasks of a request, one each time that the iterator is asked.

        The outputs of the last one are the response's. Raises InputError for a request that does
        not fit the circuits or the keys.
        """
        return self.go_on(
            self.tasks(request.n, request.pieces),
            self.read_values(request),
            evaluation_keys,
            observer,
        )

    def read_values(self, request: Request) -> dict[str, Value]:
        """Return the ciphertexts of a request, exactly those that its tasks start from.

        Raises InputError for others, for bytes that are none, and for another length.
        """
        program = self.manifest.program(request.n, request.pieces)
        names = {encryption.name for encryption in program.encryptions}
        if set(request.ciphertexts) != names:
            raise InputError(
                f"a request with ciphertexts {sorted(request.ciphertexts)}, wanted {sorted(names)}"
            )
        return {name: read_value(name, data) for name, data in request.ciphertexts.items()}

    def go_on(
        self,
        tasks: Sequence[Task],
        values: Mapping[str, Value],
        evaluation_keys: EvaluationKeys,
        observer: Observer | None = None,
        left: Iterable[int] | None = None,
    ) -> Iterator[TaskDone[Value]]:
        """Evaluate the tasks `left`, indices from 1; outputs of the others are in `values`."""

        def call(function: str, arguments: list[Value]) -> tuple[Value, ...]:
            return self.call(function, arguments, evaluation_keys)

        return run_tasks(tasks, values, call, observer, left)

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


def to_response(n: int, done: TaskDone[Value], pieces: int = 1) -> Response:
    """Return the outputs of a task for n tokens; those of the last one are what the client gets."""
    outputs = {name: value.serialize() for name, value in done.outputs.items()}
    return Response(n, outputs, pieces)


def read_outputs(task: Task, data: bytes) -> dict[str, Value]:
    """Return the outputs of a task, out of the bytes of what `to_response` gave.

    Raises InputError for anything else, damage and the outputs of another task included.
    """
    ciphertexts = Message.from_bytes(data).ciphertexts
    if set(ciphertexts) != set(task.outputs):
        raise InputError(
            f"ciphertexts {sorted(ciphertexts)}, wanted {sorted(task.outputs)}: they are of "
            "another task"
        )
    return {name: read_value(name, content) for name, content in ciphertexts.items()}


def read_value(name: str, data: bytes) -> Value:
    """Return the ciphertext of that name. Raises InputError for bytes that are none."""
    try:
        return Value.deserialize(whole_stream(data))
    except RuntimeError as error:
        raise InputError(f"ciphertext {name!r} can't be read") from error
