"""`classify --jsonl`: one JSON object a line, each as soon as its text is done.

    {"index": 0, "text": "a good film", "label": "positive", "probability": 0.98, ...}
    {"index": 1, "text": "", "error": "the text is empty: ...", "exit_code": 2}

`index` is the text's place, from 0. A line has the fields of a `Classification`, or an error and
the exit code that it would be alone. Texts that a server runs at once may end in another order.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from fhe_inhibitor.cli.exit_codes import ExitCode
from fhe_inhibitor.cli.options import finite, print_now
from fhe_inhibitor.cli.view import Display
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.classifier import Outcome


def line_of(outcome: Outcome) -> dict[str, Any]:
    """Return what a line says of a text."""
    if outcome.result is not None:
        return {"index": outcome.index, **asdict(outcome.result)}
    error = outcome.error
    refused = isinstance(error, InputError)
    return {
        "index": outcome.index,
        "text": outcome.text,
        "error": " ".join(str(error).split()) or type(error).__name__,
        "exit_code": int(ExitCode.REFUSED if refused else ExitCode.FAILED),
    }


class Lines(Display):
    """Prints each part of a result as a line of JSON on stdout at once.

    Lines in a terminal show the progress themselves; a line of progress would run into them.
    """

    def __init__(self, quiet: bool = False) -> None:
        super().__init__(quiet or sys.stdout.isatty())
        self._out = sys.stdout  # rich shows on stderr what is printed while it shows progress
        self.exit_code = ExitCode.DONE
        self._n_failed = self._n_lines = 0

    def deliver(self, part: dict[str, Any]) -> None:
        print_now(json.dumps(finite(part), allow_nan=False), self._out)
        self._n_lines += 1
        if "error" in part:
            self._n_failed += 1
            self.exit_code = self.exit_code or ExitCode(part["exit_code"])

    def tell_failed(self) -> None:
        """Note how many texts have no label, if any."""
        if self._n_failed:
            self.note(
                f"{self._n_failed} of {self._n_lines} texts have no label; their lines say why"
            )
