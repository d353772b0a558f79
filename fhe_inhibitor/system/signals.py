"""Signals that ask a process to end: here they are an exception, so that cleaning up happens.

SIGINT is Python's own KeyboardInterrupt. Whoever asked for another one to be ignored, as `nohup`
does, is obeyed.
"""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP)
SHELL_BASE = 128  # a shell's exit code of a process that signal n ended is 128 + n
_PR_SET_PDEATHSIG = 1


class Ended(BaseException):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        self.number = signal.Signals(number)
        super().__init__(self.number.name)


def raise_on_signals() -> None:
    """Have the first of `ENDING` raise `Ended` in the main thread; further ones are ignored."""
    for number in ENDING:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _raise)


@contextmanager
def hanging_up(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Have SIGHUP call a handler in the block; what handled it before hears of it afterwards.

    For a server that asyncio runs: the handler ends it in order, where an `Ended` that is raised in
    a callback of asyncio is swallowed. Whoever asked for SIGHUP to be ignored is obeyed.
    """
    before = signal.getsignal(signal.SIGHUP)
    if before in (signal.SIG_IGN, None) or not _in_main_thread():
        yield
        return
    heard = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        heard = True
        handler(number, frame)

    signal.signal(signal.SIGHUP, handle)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGHUP) is handle:  # not after `_raise` has had it ignored
            signal.signal(signal.SIGHUP, before)
    if heard:
        signal.raise_signal(signal.SIGHUP)


def _in_main_thread() -> bool:
    """Whether this thread may choose what handles a signal: the first one alone may."""
    return threading.current_thread() is threading.main_thread()


def end_with_parent() -> None:
    """Have this process killed when its parent ends in whatever way, on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def exit_code_of(number: int) -> int:
    """Return the exit code of a process that a signal ended.

    >>> exit_code_of(signal.SIGTERM)
    143
    """
    return SHELL_BASE + number


def _raise(number: int, frame: FrameType | None) -> None:
    for other in ENDING:
        signal.signal(other, signal.SIG_IGN)
    raise Ended(number)
