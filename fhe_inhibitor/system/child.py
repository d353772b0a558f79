"""An object in a process of its own: its memory is its own, and its crash is an error here.

child = Child(HeadProcess, head)    # made there
child.call("compile", 3)            # a method of the object, with what it returns
child.close()

SIGINT, SIGTERM and SIGHUP are blocked there, because Concrete's native code answers them by killing
the process or by a page of stack trace: they interrupt the caller, who ends the child. It ends with
the caller, whatever ends that. Its temporary files lie in a folder of its own, which is removed
after it. Native code can also wait for ever on what never comes: a child that sleeps for `STUCK_S`
and uses no processor is ended. What it writes to stderr is shown once a method is done; a page of
native code's that goes before a crash only if FHE_INHIBITOR_TRACEBACK is set.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import psutil

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.huge_pages import to_ask
from fhe_inhibitor.system.machine import THREADS_VARIABLE, check_threads, peak_memory_bytes
from fhe_inhibitor.system.programs import SAFE_PATH
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.system.signals import ENDING, end_with_parent

TRACEBACK = "FHE_INHIBITOR_TRACEBACK"
# Ends a process unless it is handled, and is none of those that Concrete's native code handles.
STOP, STOP_S = signal.SIGALRM, 6.0
STUCK_S, LOOK_S = 30.0, 2.0
STDERR, STDERR_FILE = 2, "stderr"  # in the child's temporary folder
# What native code dies of, in words; Python raises for all else.
CAUSES = {
    signal.SIGABRT: "native code gave up: too little memory, or settings of threads in the "
    "environment that it refuses",
    signal.SIGBUS: "a file that it reads was cut, or the disk is full",
    signal.SIGILL: "this processor lacks an instruction that it was built with",
    signal.SIGKILL: "somebody killed it: the system does for want of memory",
    signal.SIGSEGV: "native code crashed",
}


class ChildError(RuntimeError):
    """What failed in the child; says how."""


class ChildDied(ChildError):
    """The child ended, or hung and was ended: the same call may work where more memory is free."""


class Child:
    """Calls methods of `make(*arguments)`, which lives in another process.

    threads: of OpenMP there, which reads their number when it is loaded; as here if None.

    Raises what they raise if it is an InputError, ChildError for all else, ChildDied for a crash;
    InputError for an environment in which no such process can work.
    """

    def __init__(
        self, make: Callable[..., Any], *arguments: Any, threads: int | None = None
    ) -> None:
        check_threads()  # which the child inherits
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._temporary = tempfile.TemporaryDirectory(
            prefix="fhe-inhibitor-", ignore_cleanup_errors=True
        )
        self._process = context.Process(
            target=_serve, args=(theirs, self._temporary.name, make, arguments), daemon=True
        )
        own = {} if threads is None else {THREADS_VARIABLE: str(threads)}
        with _environment(to_ask() | own | SAFE_PATH):
            _start_without_interrupts(self._process)
        # At the caller's exit multiprocessing sends SIGTERM, to which the child is deaf, and waits.
        self._at_exit = Finalize(None, self._process.kill, exitpriority=0)
        theirs.close()

    def call(
        self,
        method: str,
        *arguments: Any,
        observer: Observer | None = None,
        may_wait: bool = False,
    ) -> Any:
        """Return what a method returns.

        observer: is told what the method tells its own one, which it gets as its first argument.
        may_wait: whether the method may wait for something elsewhere, as for an answer over the
        network, without the processor.
        """
        try:
            self._connection.send((method, arguments, observer is not None))
            while True:
                if not may_wait:
                    self._wait_for_message()
                kind, content = self._connection.recv()
                if kind in ("result", "error"):
                    self._show_stderr()
                if kind == "result":
                    return content
                if kind == "error":
                    raise content
                getattr(observer, kind)(*content)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join(STOP_S)
            if self._process.is_alive():
                raise  # it was a pipe of our own: nobody reads what we show
            code = self._process.exitcode or 0
            raise ChildDied(
                f"the working process ended unexpectedly, exit code {code}{_cause(-code)}"
            ) from None

    def _show_stderr(self) -> None:
        path = Path(self._temporary.name, STDERR_FILE)
        if path.exists() and (said := path.read_text(errors="replace")):
            path.write_bytes(b"")
            print(said, end="", file=sys.stderr)

    def _wait_for_message(self) -> None:
        """Wait until the child says something. Raises ChildDied, and ends it, if it hangs.

        Looks are counted, not seconds: none is made while this process is stopped.
        """
        activity: object = None
        n_idle = 0
        while not self._connection.poll(LOOK_S):
            before, activity = activity, _activity(self._process.pid)
            n_idle = n_idle + 1 if activity == before else 0
            if n_idle * LOOK_S >= STUCK_S:
                self.close()
                raise ChildDied(
                    f"the working process hung: it slept for {STUCK_S:.0f} s, with no work done. "
                    "Native code does that where it can't get memory: allow more (ulimit -v)"
                )

    def peak_memory_bytes(self) -> int:
        """Return the largest memory that the child held at once."""
        return self.call(peak_memory_bytes.__name__)

    def stop(self) -> None:
        """End the child, which has `STOP_S` seconds to take back what it has elsewhere.

        A child that has ended, or was stopped, may be stopped again.
        """
        if self._process.is_alive():
            assert self._process.pid is not None
            os.kill(self._process.pid, STOP)
            self._process.join(STOP_S)
        self.close()

    def close(self) -> None:
        """End the child at once."""
        self._at_exit.cancel()
        self._process.kill()
        self._process.join()
        self._connection.close()
        self._temporary.cleanup()


def ends_on_request() -> None:
    """Have `Child.stop` raise SystemExit in the method that calls this."""
    signal.signal(STOP, lambda number, frame: sys.exit(number))


def silence_dependencies() -> None:
    """Hide a warning that is no user's business: concrete-python imports pkg_resources."""
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated")


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Let what starts in the block have these variables."""
    before = {name: os.environ[name] for name in variables if name in os.environ}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]
        os.environ.update(before)


def _start_without_interrupts(process: SpawnProcess) -> None:
    # Starting the tracker unblocks SIGINT, and the first process to start would start it.
    resource_tracker.ensure_running()
    # The child inherits the mask.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *ENDING})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _cause(number: int) -> str:
    """Return why a signal ended a process, in brackets; nothing if none did.

    >>> _cause(signal.SIGSEGV), _cause(0)
    (' (SIGSEGV: native code crashed)', '')
    """
    if number <= 0:
        return ""
    ended_by = signal.Signals(number)
    return f" ({ended_by.name}: {CAUSES.get(ended_by, 'somebody ended it')})"


def _activity(pid: int | None) -> object:
    """Return what changes while a process, or one that it started, does anything.

    That is processor time, and how often its main thread fell asleep: who waits for a lock looks at
    it again and again. A process that is stopped, or waits for a disk, gets another value each
    time: it doesn't hang.
    """
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        if all(member.status() == psutil.STATUS_SLEEPING for member in family):
            return [(member.cpu_times()[:2], member.num_ctx_switches()) for member in family]
    return time.monotonic()


def _serve(
    connection: Connection, temporary: str, make: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    """What the child does, until the caller is gone."""
    end_with_parent()
    tempfile.tempdir = os.environ["TMPDIR"] = temporary
    if not os.environ.get(TRACEBACK):
        flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND
        os.dup2(os.open(Path(temporary, STDERR_FILE), flags, 0o600), STDERR)
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
        with suppress(BrokenPipeError):
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

    def deliver(self, part: dict[str, Any]) -> None:
        self._connection.send(("deliver", (part,)))

    def cross(self, what: str, n_bytes: int, first: bytes) -> None:
        self._connection.send(("cross", (what, n_bytes, first)))
