"""What is known of one text on its way: heard in one thread, followed in another."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from fhe_inhibitor.runtime.classifier import Classification
from fhe_inhibitor.runtime.costs import stage_name
from fhe_inhibitor.system.progress import Observer, remaining_s

LOOKUPS = "lookups"


@dataclass
class Step:
    """A step on the way, a stage of the network or what is before and after; heads together."""

    name: str
    began: float
    lookups: int = 0
    seconds: float | None = None


@dataclass(frozen=True)
class Crossing:
    """Bytes between client and server: how many, and the first of them."""

    n_bytes: int
    first: bytes


@dataclass
class Progress:
    """All that is known: it waits until it began; it has ended with a result or an error."""

    has_begun: bool = False
    steps: dict[str, Step] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    crossings: dict[str, Crossing] = field(default_factory=dict)
    result: Classification | None = None
    error: str | None = None
    current: Step | None = None
    total: int = 0
    done: int = 0
    unit: str = ""
    planned_at: float = 0.0
    done_at: float = 0.0

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come."""
        return self.result is not None or self.error is not None

    @property
    def share(self) -> float:
        """The share of the lookups that are done."""
        if self.result is not None:
            return 1.0
        return self.done / self.total if self.total and self.unit == LOOKUPS else 0.0

    def remaining_s(self) -> float | None:
        """Return the seconds left at the rate of the lookups so far, None before the first."""
        if self.has_ended or self.unit != LOOKUPS:
            return None
        now = time.monotonic()
        return remaining_s(self.done, self.total, self.planned_at, self.done_at, now)

    def begin(self, now: float, step: str) -> None:
        """A step begins, and the one before is over."""
        name = stage_name(step.partition(":")[0])
        if self.current is not None and self.current.name == name:
            return
        self.stop(now)
        self.current = self.steps[name] = Step(name, now)

    def stop(self, now: float) -> None:
        """The step that runs is over."""
        if self.current is not None:
            self.current.seconds = now - self.current.began
            self.current = None

    def plan(self, now: float, amount: int, unit: str) -> None:
        """Work is to be done."""
        self.total, self.unit, self.done = amount, unit, 0
        self.planned_at = self.done_at = now

    def finish(self, now: float, amount: int) -> None:
        """Some of it is done."""
        self.done, self.done_at = self.done + amount, now
        if self.current is not None and self.unit == LOOKUPS:
            self.current.lookups += amount


Change = Callable[[Progress], None]


class Run(Observer):
    """Hears of one text, and lets one thread follow it."""

    def __init__(self) -> None:
        self._changes: queue.SimpleQueue[Change] = queue.SimpleQueue()

    def follow(self, period_s: float = 0.5) -> Iterator[Progress]:
        """Yield what is known whenever there is news, and each period, until it has ended."""
        progress = Progress()
        while True:
            yield progress
            if progress.has_ended:
                return
            try:
                self._changes.get(timeout=period_s)(progress)
                while True:
                    self._changes.get_nowait()(progress)
            except queue.Empty:
                continue

    def start(self) -> None:
        """Its turn has come."""
        self._changes.put(lambda progress: setattr(progress, "has_begun", True))

    def end(self, result: Classification | None, error: str | None) -> None:
        """It is over: with a result, or with what went wrong."""
        now = time.monotonic()

        def change(progress: Progress) -> None:
            progress.stop(now)
            progress.result, progress.error = result, error

        self._changes.put(change)

    def note(self, message: str) -> None:
        self._changes.put(lambda progress: progress.notes.append(message))

    def plan(self, amount: int, unit: str) -> None:
        now = time.monotonic()
        self._changes.put(lambda progress: progress.plan(now, amount, unit))

    def begin(self, step: str) -> None:
        now = time.monotonic()
        self._changes.put(lambda progress: progress.begin(now, step))

    def finish(self, amount: int) -> None:
        now = time.monotonic()
        self._changes.put(lambda progress: progress.finish(now, amount))

    def cross(self, what: str, n_bytes: int, first: bytes) -> None:
        crossing = Crossing(n_bytes, first)
        self._changes.put(lambda progress: progress.crossings.update({what: crossing}))
