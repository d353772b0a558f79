"""What the pages that are made from results share: tables in Markdown."""

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
