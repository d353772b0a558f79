"""An observer that remembers what it heard, and interrupts a run where a test asks for it."""

from __future__ import annotations

from collections.abc import Callable

from fhe_inhibitor.system.progress import Observer


class Recording(Observer):
    """Counts the finished units of each step that was begun.

    steps: names in the order they were begun. planned, finished: units of each, by its name.
    interrupt: called with the step's name and its finished units after each report.
    """

    def __init__(self, interrupt: Callable[[str, int], None] = lambda step, n: None) -> None:
        self.steps: list[str] = []
        self.notes: list[str] = []
        self.planned: dict[str, int] = {}
        self.finished: dict[str, int] = {}
        self.interrupt = interrupt

    def note(self, message: str) -> None:
        self.notes.append(message)

    def begin(self, step: str) -> None:
        self.steps.append(step)
        self.finished[step] = 0

    def plan(self, amount: int, unit: str) -> None:
        self.planned[self.steps[-1]] = amount

    def finish(self, amount: int) -> None:
        step = self.steps[-1]
        self.finished[step] += amount
        self.interrupt(step, self.finished[step])


def interrupt_at(step: str, n: int) -> Recording:
    """Return an observer that raises KeyboardInterrupt once n units of a step are finished."""

    def interrupt(name: str, finished: int) -> None:
        if (name, finished) == (step, n):
            raise KeyboardInterrupt

    return Recording(interrupt)
