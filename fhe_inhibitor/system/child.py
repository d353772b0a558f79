"""An object in a process of its own: its memory is its own, and its crash is an error here.

child = Child(HeadProcess, head)    # made there
child.call("compile", 3)            # a method of the object, with what it returns
child.close()

SIGINT is blocked there, because Concrete's native code answers it by killing the process: Ctrl-C
interrupts the caller, who ends the child.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.machine import peak_memory_bytes
from fhe_inhibitor.system.progress import Observer

TRACEBACK = "FHE_INHIBITOR_TRACEBACK"
# Ends a process unless it is handled, and is none of those that Concrete's native code handles.
STOP, STOP_S = signal.SIGALRM, 6.0


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
        _start_without_interrupts(self._process)
        theirs.close()

    def call(self, method: str, *arguments: Any, observer: Observer | None = None) -> Any:
        """Return what a method returns.

        observer: is told what the method tells its own one, which it gets as its first argument.
        """
        try:
            self._connection.send((method, arguments, observer is not None))
            while True:
                kind, content = self._connection.recv()
                if kind == "result":
                    return content
                if kind == "error":
                    raise content
                getattr(observer, kind)(*content)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join()
            raise ChildError(
                f"the working process ended unexpectedly, exit code {self._process.exitcode}"
            ) from None

    def peak_memory_bytes(self) -> int:
        """Return the largest memory that the child held at once."""
        return self.call(peak_memory_bytes.__name__)

    def stop(self) -> None:
        """End the child, which has `STOP_S` seconds to take back what it has elsewhere."""
        assert self._process.pid is not None
        os.kill(self._process.pid, STOP)
        self._process.join(STOP_S)
        self.close()

    def close(self) -> None:
        """End the child at once."""
        self._process.kill()
        self._process.join()
        self._connection.close()


def ends_on_request() -> None:
    """Have `Child.stop` raise SystemExit in the method that calls this."""
    signal.signal(STOP, lambda number, frame: sys.exit(number))


def silence_dependencies() -> None:
    """Hide a warning that is no user's business: concrete-python imports pkg_resources."""
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")


def _start_without_interrupts(process: SpawnProcess) -> None:
    # Starting the tracker unblocks SIGINT, and the first process to start would start it.
    resource_tracker.ensure_running()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the child inherits it
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _serve(connection: Connection, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """What the child does, until the caller is gone."""
    silence_dependencies()
    made: list[Any] = []
    while True:
        try:
            method, given, observed = connection.recv()
        except (EOFError, OSError):
            return
        answer: tuple[str, Any]
        try:
            if method == peak_memory_bytes.__name__:
                answer = ("result", peak_memory_bytes())
            else:
                made = made or [make(*arguments)]
                observer = (_Sender(connection),) if observed else ()
                answer = ("result", getattr(made[0], method)(*observer, *given))
        except InputError as error:
            answer = ("error", error)
        except BrokenPipeError:
            return  # the caller is gone: nobody wants the result
        except Exception as error:
            if os.environ.get(TRACEBACK):
                traceback.print_exc()
            answer = (
                "error",
                ChildError(f"{type(error).__name__}: {' '.join(str(error).split())}"),
            )
        connection.send(answer)


class _Sender(Observer):
    """Sends what it is told to the caller."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def note(self, message: str) -> None:
        self._connection.send(("note", (message,)))

    def plan(self, amount: int, unit: str) -> None:
        self._connection.send(("plan", (amount, unit)))

    def begin(self, step: str) -> None:
        self._connection.send(("begin", (step,)))

    def finish(self, amount: int) -> None:
        self._connection.send(("finish", (amount,)))
