"""How the project's figures look: colours of Okabe and Ito, and a marker and a line for print."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  (the backend comes first)

# Told apart by colour-blind readers, and by marker and line in grey.
STYLES: dict[str, dict[str, Any]] = {
    "inhibitor": {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    "dot product": {"color": "#D55E00", "marker": "s", "linestyle": "--"},
    "inhibitor, signed": {"color": "#009E73", "marker": "^", "linestyle": "-."},
    "inhibitor, second form": {"color": "#56B4E9", "marker": "v", "linestyle": "-."},
    "dot product, second form": {"color": "#E69F00", "marker": "D", "linestyle": ":"},
    "other": {"color": "#555555", "marker": "x", "linestyle": (0, (1, 2))},
}
PUBLISHED = {"markerfacecolor": "white", "linewidth": 0.8}  # beside a style: hollow markers
DPI = 160
# For a paper: the width of one column, letters as large as its captions', fonts embedded whole.
COLUMN_INCHES, PRINT_DPI = 3.3, 300
PRINT: dict[Any, Any] = {
    "font.size": 7.0,
    "axes.labelsize": 7.0,
    "axes.titlesize": 7.0,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "lines.markersize": 4.0,
    "lines.linewidth": 1.0,
    "axes.linewidth": 0.6,
    "pdf.fonttype": 42,  # TrueType: Type 3 is refused by many publishers
    "ps.fonttype": 42,
}


def new_axes(rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    """Return a figure and its axes, a single one or an array, each 5 by 4 inches."""
    return plt.subplots(rows, columns, figsize=(5.0 * columns, 4.0 * rows), layout="constrained")


def over_lengths(axes: Any, lengths: list[int], ylabel: str, log: bool = True) -> None:
    """Label axes whose x are sequence lengths, powers of two."""
    axes.set_xscale("log", base=2)
    if log:
        axes.set_yscale("log")
    axes.set_xticks(lengths, [str(n) for n in lengths])
    axes.xaxis.set_tick_params(which="minor", bottom=False)
    axes.set_xlabel("sequence length n, tokens")
    axes.set_ylabel(ylabel)
    axes.grid(True, which="major", linewidth=0.3)


def save_figure(figure: Any, out: Path, name: str) -> None:
    """Write the figure as PNG and SVG, the same bytes for the same figure, and forget it."""
    with plt.rc_context({"svg.hashsalt": name}):
        figure.savefig(out / f"{name}.png", dpi=DPI)
        figure.savefig(out / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


@contextmanager
def for_print() -> Iterator[None]:
    """Draw in the block as a paper needs it: small letters, thin lines, fonts that are embedded."""
    with plt.rc_context(PRINT):
        yield


def new_column(height_inches: float) -> tuple[Any, Any]:
    """Return a figure as wide as one column of a paper, and its axes; to be used in `for_print`."""
    return plt.subplots(figsize=(COLUMN_INCHES, height_inches), layout="constrained")


def save_for_print(figure: Any, out: Path, name: str) -> None:
    """Write the figure as PDF and PNG, the same bytes for the same figure, and forget it."""
    figure.savefig(out / f"{name}.pdf", metadata={"CreationDate": None})
    figure.savefig(out / f"{name}.png", dpi=PRINT_DPI)
    plt.close(figure)
