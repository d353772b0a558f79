"""Modules that are run as programs of their own."""

from __future__ import annotations

import sys

# As -P: a program takes no module from the folder in which it happens to be started.
SAFE_PATH = {"PYTHONSAFEPATH": "1"}


def program(module: str) -> list[str]:
    """Return the command that runs a module, which is found where it is installed."""
    return [sys.executable, "-P", "-m", module]
