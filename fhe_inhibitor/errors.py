"""The one error class for bad input, and how it quotes the error of a library."""

from __future__ import annotations


class InputError(ValueError):
    """Raised at the public edge: says what came, what was wanted, what to do."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text: libraries put a page after it.

    >>> first_line(OSError("no such file\\nsee the manual"))
    'no such file'
    """
    return str(error).strip().partition("\n")[0]
