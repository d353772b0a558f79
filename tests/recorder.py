"""An observer that keeps what it is told, in order."""

from __future__ import annotations

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
