"""Observers that keep what they are told, all of it or by step, and interrupt where a test asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fhe_inhibitor.system.progress import Observer


class Recorder(Observer):
    """Keeps what it is told, as tuples that begin with the method's name."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def note(self, message: str) -> None:
        self.told.append(("note", message))

    def plan(self, amount: int, unit: str) -> None:
        self.told.append(("plan", amount, unit))

    def begin(self, step: str) -> None:
        self.told.append(("begin", step))

    def finish(self, amount: int) -> None:
        self.told.append(("finish", amount))

    def deliver(self, part: dict[str, Any]) -> None:
        self.told.append(("deliver", part))

    def cross(self, what: str, n_bytes: int, first: bytes) -> None:
        self.told.append(("cross", what, n_bytes, first))

    @property
    def notes(self) -> list[str]:
        return [content[0] for kind, *content in self.told if kind == "note"]

    @property
    def steps(self) -> list[str]:
        """The steps begun, each once for each time that it began after another one."""
        steps = [content[0] for kind, *content in self.told if kind == "begin"]
        return [step for i, step in enumerate(steps) if i == 0 or steps[i - 1] != step]

    def planned(self, unit: str) -> int:
        """Units that were planned, all plans together."""
        return sum(
            content[0] for kind, *content in self.told if kind == "plan" and content[1] == unit
        )

    def finished(self, unit: str) -> int:
        """Units that were finished while the last plan was in that unit."""
        total, current = 0, ""
        for kind, *content in self.told:
            if kind == "plan":
                current = content[1]
            elif kind == "finish" and current == unit:
                total += content[0]
        return total


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
