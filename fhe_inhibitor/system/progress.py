"""What a session tells whoever watches it: steps begun, work finished, and things to know."""

from __future__ import annotations


class Observer:
    """Hears of progress and shows nothing; override what you want to see."""

    def note(self, message: str) -> None:
        """Something a user should know: a cache rebuilt and why, tokens left out."""

    def plan(self, amount: int, unit: str) -> None:
        """From here on, `amount` units of work (lookups, texts) are to be done."""

    def begin(self, step: str) -> None:
        """A step begins, for example `keygen` or `layer0.attend.head1`."""

    def finish(self, amount: int) -> None:
        """So many of the planned units are done."""
