"""What the pages that are made from results share: tables in Markdown, counts, sizes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a table.

    >>> markdown_table(["n", "seconds"], [[2, "0.5"], [4, ""]])
    ['| n | seconds |', '|---|---|', '| 2 | 0.5 |', '| 4 |  |']
    """
    return [_row(head), "|---" * len(head) + "|", *(_row(row) for row in rows)]


def _row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def counted(number: int, what: str) -> str:
    """Return a number and what there are so many of.

    >>> counted(1, "core"), counted(2, "core")
    ('1 core', '2 cores')
    """
    return f"{number} {what}{'s' * (number != 1)}"


def decimal_size(n_bytes: int) -> str:
    """Return a size in the largest unit that leaves 1 or more; decimal, as limits are stated.

    >>> decimal_size(999), decimal_size(32_150_000)
    ('999 bytes', '32.1 MB')
    """
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.3g} {unit}"
    return f"{n_bytes} bytes"
