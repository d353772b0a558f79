"""How every library reports what it does: steps begun, work finished, and things to know."""

from __future__ import annotations

import time
from typing import Any

FIRST_BYTES = 256  # of what crosses, shown to who wants to see it


class Observer:
    """Is told of progress and shows nothing; override what you want to see."""

    def note(self, message: str) -> None:
        """Something a user should know: a cache rebuilt and why, tokens left out."""

    def plan(self, amount: int, unit: str) -> None:
        """From here on, `amount` units of work (lookups, bytes, texts) are to be done."""

    def begin(self, step: str) -> None:
        """A step begins, for example `keygen` or `layer0.attend.head1`."""

    def finish(self, amount: int) -> None:
        """`amount` more of the planned units are done."""

    def cross(self, what: str, n_bytes: int, first: bytes) -> None:
        """Bytes go to the server, the `evaluation keys` or a `request`, or a `response` back.

        first: up to `FIRST_BYTES` of them.
        """

    def deliver(self, part: dict[str, Any]) -> None:
        """A part of the result is there, such as one text's of many: what JSON can hold."""


class Printed(Observer):
    """Prints each step as it begins."""

    def begin(self, step: str) -> None:
        print(step, flush=True)


class Stopwatch(Observer):
    """Passes everything on to another observer, and takes the time of each step.

    What stands behind a colon is a part of the step before it: `compile: trace` counts as
    `compile`.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._seconds: dict[str, float] = {}
        self._step: tuple[str, float] | None = None

    def note(self, message: str) -> None:
        self._observer.note(message)

    def plan(self, amount: int, unit: str) -> None:
        self._observer.plan(amount, unit)

    def finish(self, amount: int) -> None:
        self._observer.finish(amount)

    def cross(self, what: str, n_bytes: int, first: bytes) -> None:
        self._observer.cross(what, n_bytes, first)

    def deliver(self, part: dict[str, Any]) -> None:
        self._observer.deliver(part)

    def begin(self, step: str) -> None:
        self.stop()
        self._step = (step.partition(":")[0], time.perf_counter())
        self._observer.begin(step)

    def stop(self) -> dict[str, float]:
        """End the step that runs; return the seconds of all steps so far, in their order."""
        if self._step is not None:
            name, start = self._step
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start
            self._step = None
        return dict(self._seconds)


def tell_crossing(observer: Observer, what: str, data: bytes) -> None:
    """Tell an observer of bytes that go over to the other side."""
    observer.cross(what, len(data), data[:FIRST_BYTES])


def remaining_s(done: float, total: float, began: float, last: float, now: float) -> float | None:
    """Return the seconds left at the rate of the finished work; None before any is finished.

    done: of `total` units, since `began`; the last of them at `last`.

    >>> remaining_s(50, 100, began=0.0, last=10.0, now=12.0)
    8.0
    """
    if not total or not done:
        return None
    rate = done / max(last - began, 1e-9)
    return max((total - done) / rate - (now - last), 0.0)


def printable(text: str) -> str:
    """Return text without what is none: what others wrote must not reach a terminal's controls.

    >>> printable("dull\\x1b[2J")
    'dull[2J'
    """
    return "".join(character for character in text if character.isprintable())
