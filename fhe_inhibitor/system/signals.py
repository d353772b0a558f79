"""Signals that ask a process to end: here they are an exception, so that cleaning up happens.

SIGINT is Python's own KeyboardInterrupt. Whoever asked for another one to be ignored, as `nohup`
does, is obeyed.
"""

from __future__ import annotations

import ctypes
import signal
import sys
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
