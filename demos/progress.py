"""What the demos that take long show while they run."""

from __future__ import annotations

from fhe_inhibitor.system.progress import Observer


class Printed(Observer):
    """Prints each step as it begins."""

    def begin(self, step: str) -> None:
        print(step, flush=True)
