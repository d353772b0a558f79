"""How each kind of number is shown, and goes into a `Cell` of the page."""

from __future__ import annotations

from collections.abc import Sequence

from compile.paper.records import Cell, Row, Table
from fhe_inhibitor.system.pages import decimal_size
from fhe_inhibitor.system.statistics import Share, Summary

NOT_MEASURED = "not measured"


def words(text: object) -> Cell:
    """Return a cell without a number."""
    return Cell(text=str(text))


def missing() -> Cell:
    """Return what stands where nothing was measured; the row's source says what would."""
    return words(NOT_MEASURED)


def number(value: float, text: str | None = None, unit: str = "") -> Cell:
    """Return a cell of a plain number.

    >>> number(1480).text, number(0.5, "50%").value
    ('1,480', 0.5)
    """
    return Cell(text=f"{value:,}" if text is None else text, value=value, unit=unit)


def seconds(value: float) -> Cell:
    """Return a cell of seconds.

    >>> seconds(12.345).text, seconds(0.0123456).text
    ('12.3 s', '0.0123 s')
    """
    return Cell(text=f"{_digits(value)} s", value=value, unit="s")


def milliseconds(value_s: float) -> Cell:
    """Return a cell of seconds that is shown in thousandths."""
    return Cell(text=f"{1e3 * value_s:.2f} ms", value=value_s, unit="s")


def core_seconds(value: float) -> Cell:
    """Return a cell of seconds times processors."""
    return Cell(text=f"{value:,.0f} core-seconds", value=value, unit="core-seconds")


def ratio(value: float) -> Cell:
    """Return a cell of a part of a whole, in percent."""
    return Cell(text=f"{value:.0%}", value=value)


def size(n_bytes: int) -> Cell:
    """Return a cell of bytes, in decimal units."""
    return Cell(text=decimal_size(n_bytes), value=n_bytes, unit="bytes")


def median(summary: Summary, unit: str = "s") -> Cell:
    """Return a cell of a median, with its range or interval in brackets."""
    text = f"{_digits(summary.median)} {unit} ({_digits(summary.low)} to {_digits(summary.high)})"
    return Cell(
        text=text,
        value=summary.median,
        unit=unit,
        low=summary.low,
        high=summary.high,
        n=summary.repetitions,
    )


def percent(share: Share) -> Cell:
    """Return a cell of a share, with its 95% interval in brackets."""
    text = f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})"
    return Cell(text=text, value=share.value, low=share.low, high=share.high, n=share.n)


def pairs(entries: Sequence[tuple[str, Cell, str]]) -> Table:
    """Return a table of names and values; each entry is a name, a value, a source."""
    rows = tuple(Row(cells=(words(name), cell), source=source) for name, cell, source in entries)
    return Table(head=("", "value"), rows=rows)


def sentence(text: str) -> str:
    """Return words as a sentence of their own.

    >>> sentence("there is none")
    'There is none.'
    """
    return f"{text[0].upper()}{text[1:]}."


def _digits(value: float) -> str:
    """Three digits, and all of those before the point."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
