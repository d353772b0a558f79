"""An object in a process of its own: its memory is its own, and its crash is an error here.

child = Child(HeadProcess, head)    # made there
child.call("compile", 3)            # a method of the object, with what it returns
child.close()

SIGINT is blocked there, because Concrete's native code answers it by killing the process: Ctrl-C
interrupts the caller, who closes the child.
"""

from __future__ import annotations

import multiprocessing
import signal
import warnings
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.machine import peak_memory_bytes


class ChildError(RuntimeError):
    """What failed in the child; says how."""


class Child:
    """Calls methods of `make(*arguments)`, which lives in another process.

    Raises what they raise if it is an InputError, ChildError for all else, a crash included.
    """

    def __init__(self, make: Callable[..., Any], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        start_deaf(self._process)
        theirs.close()

    def call(self, method: str, *arguments: Any) -> Any:
        """Return what a method returns."""
        try:
            self._connection.send((method, arguments))
            result, error = self._connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join()
            raise ChildError(
                f"its process ended unexpectedly, exit code {self._process.exitcode}"
            ) from None
        if error is not None:
            raise error
        return result

    def peak_memory_bytes(self) -> int:
        """Return the largest memory that the child held at once."""
        return self.call(peak_memory_bytes.__name__)

    def close(self) -> None:
        """End the child."""
        self._process.kill()
        self._process.join()
        self._connection.close()


def start_deaf(process: SpawnProcess) -> None:
    """Start a process for which SIGINT is blocked."""
    # Starting the tracker unblocks SIGINT, and the first process to start would start it.
    resource_tracker.ensure_running()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the child inherits it
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def silence_dependencies() -> None:
    """Hide a warning that is no user's business: concrete-python imports pkg_resources."""
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")


def _serve(connection: Connection, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """What the child does, until the caller is gone."""
    silence_dependencies()
    made: list[Any] = []
    while True:
        try:
            method, given = connection.recv()
        except (EOFError, OSError):
            return
        answer: tuple[Any, Exception | None]
        try:
            if method == peak_memory_bytes.__name__:
                answer = (peak_memory_bytes(), None)
            else:
                made = made or [make(*arguments)]
                answer = (getattr(made[0], method)(*given), None)
        except InputError as error:
            answer = (None, error)
        except Exception as error:
            answer = (None, ChildError(f"{type(error).__name__}: {' '.join(str(error).split())}"))
        connection.send(answer)
