"""A command's work in a process of its own, so that Ctrl-C and progress work at any moment.

Concrete's native code answers Ctrl-C by killing its process or by a page of stack trace, and it
holds Python's interpreter lock while it compiles and makes keys. So the work is done by a child
for which SIGINT is blocked. This process shows its progress; on Ctrl-C it ends the child and
removes what that left unfinished. A crash of native code becomes an ordinary error, too. Work that
has something to take back elsewhere calls `ends_on_request`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.cache import remove_unfinished
from fhe_inhibitor.system.child import silence_dependencies, start_deaf
from fhe_inhibitor.system.progress import Observer

TRACEBACK = "FHE_INHIBITOR_TRACEBACK"
# Ends a process unless it is handled, and is none of those that Concrete's native code handles.
STOP, STOP_S = signal.SIGALRM, 6.0

Result = TypeVar("Result")


class WorkError(RuntimeError):
    """The work failed at run time; says how."""


def in_worker(work: Callable[..., Result], observer: Observer, *arguments: Any) -> Result:
    """Return `work(observer, *arguments)`, called in a child process.

    work: a function of a module, with arguments and result that can be pickled. Raises what it
    raises if that is an InputError, WorkError for all else.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(sender, work, arguments), daemon=True)
    start_deaf(process)
    sender.close()
    try:
        return _listen(receiver, observer)
    except EOFError:
        process.join()
        raise WorkError(
            f"the worker process ended unexpectedly, exit code {process.exitcode}"
        ) from None
    except KeyboardInterrupt:
        assert process.pid is not None
        os.kill(process.pid, STOP)
        process.join(STOP_S)
        process.kill()
        process.join()
        remove_unfinished()
        raise
    finally:
        receiver.close()


def ends_on_request() -> None:
    """Have Ctrl-C raise SystemExit in the work that calls this, which has `STOP_S` to end."""
    signal.signal(STOP, lambda number, frame: sys.exit(number))


def _listen(receiver: Connection, observer: Observer) -> Any:
    """Pass on what the child observes until it sends a result or an error."""
    while True:
        kind, content = receiver.recv()
        if kind == "result":
            return content
        if kind == "error":
            raise content
        getattr(observer, kind)(*content)


def _serve(sender: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """What the child does."""
    silence_dependencies()
    try:
        sender.send(("result", work(_Sender(sender), *arguments)))
    except InputError as error:
        sender.send(("error", error))
    except BrokenPipeError:
        pass  # the parent is gone: nobody wants the result
    except Exception as error:
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        sender.send(("error", WorkError(f"{type(error).__name__}: {error}")))


class _Sender(Observer):
    """Sends what it observes to the parent."""

    def __init__(self, sender: Connection) -> None:
        self._sender = sender

    def note(self, message: str) -> None:
        self._sender.send(("note", (message,)))

    def plan(self, amount: int, unit: str) -> None:
        self._sender.send(("plan", (amount, unit)))

    def begin(self, step: str) -> None:
        self._sender.send(("begin", (step,)))

    def finish(self, amount: int) -> None:
        self._sender.send(("finish", (amount,)))
