"""The one error class of the public edge."""

from __future__ import annotations


class InputError(ValueError):
    """Raised at the public edge: says what came, what was wanted, what to do."""
