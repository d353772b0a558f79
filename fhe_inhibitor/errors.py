"""The one error class of the public edge, and what it takes over of another error."""

from __future__ import annotations


class InputError(ValueError):
    """Raised at the public edge: says what came, what was wanted, what to do."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text: libraries put a page after it.

    >>> first_line(OSError("no such file\\nsee the manual"))
    'no such file'
    """
    return str(error).strip().partition("\n")[0]
