"""The plots of an evaluation: accuracy, changed labels, differences, calibration, time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from compile.evaluation.analysis import (
    DECRYPTED,
    DRAWN,
    FLOAT,
    INTEGERS,
    REST,
    Analysis,
    Logits,
    Times,
)
from fhe_inhibitor.system.plots import STYLES, new_axes, save_figure
from fhe_inhibitor.system.statistics import Share

COLOURS = {
    DECRYPTED: STYLES["inhibitor"]["color"],
    INTEGERS: "black",
    DRAWN: STYLES["dot product"]["color"],
    FLOAT: STYLES["inhibitor, signed"]["color"],
}
MARKERS = {DECRYPTED: "o", INTEGERS: "s", DRAWN: "D", FLOAT: "^"}
# By kind of stage, the last part of its name.
STAGE_COLOURS = {
    "project": "#0072B2",
    "attend": "#E69F00",
    "feed_forward": "#009E73",
    "classify": "#CC79A7",
    "encrypt": "#56B4E9",
    "decrypt": "#F0E442",
    REST: "#BBBBBB",
}
OTHER_COLOUR = "#D55E00"
MAX_COLUMNS = 40  # of a histogram


def write_plots(analysis: Analysis, logits: Logits, labels: tuple[str, ...], out: Path) -> None:
    """Write each plot as PNG and SVG to a folder: accuracy, margins, ..., stages if timed."""
    save_figure(plot_accuracy(analysis), out, "accuracy")
    save_figure(plot_margins(analysis), out, "margins")
    save_figure(plot_differences(logits, labels), out, "differences")
    save_figure(plot_calibration(analysis), out, "calibration")
    if analysis.times is not None:
        save_figure(plot_stages(analysis.times), out, "stages")


def plot_accuracy(analysis: Analysis) -> Any:
    """Return accuracies with their intervals, one below the other; small marks are draws."""
    figure, axes = new_axes()
    draw_accuracy(axes, analysis, above=0.18, size=8, capsize=3)
    axes.set_xlabel(f"accuracy over {analysis.n_texts} texts, %, with 95% interval")
    return figure


def draw_accuracy(axes: Any, analysis: Analysis, above: float, size: float, capsize: float) -> None:
    """Draw accuracies with their intervals, a row each.

    Small marks are draws: so far from their row, and so large. capsize: of the intervals' ends.
    """
    for y, (name, accuracy) in enumerate(analysis.accuracy.items()):
        if name == DRAWN:
            draws = [100 * value for value in analysis.accuracy_of_draws]
            axes.plot(draws, [y + above] * len(draws), "|", color=COLOURS[name], markersize=size)
        axes.errorbar(
            [100 * accuracy.value], [y], xerr=_spread([accuracy]), capsize=capsize, linestyle="",
            color=COLOURS[name], marker=MARKERS[name],
        )  # fmt: skip
    names = list(analysis.accuracy)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(True, axis="x", linewidth=0.3)


def plot_margins(analysis: Analysis) -> Any:
    """Return the share of changed labels by margin; above each bar how many texts it is of."""
    figure, axes = new_axes()
    bins = analysis.margins
    shares, x = [margin.changed for margin in bins], range(len(bins))
    axes.bar(x, [100 * s.value for s in shares], color=COLOURS[DECRYPTED], label=DECRYPTED)
    axes.errorbar(
        x, [100 * s.value for s in shares], _spread(shares),
        linestyle="", color="black", capsize=3, linewidth=0.8,
    )  # fmt: skip
    expected = [(i, 100 * m.expected) for i, m in enumerate(bins) if m.expected is not None]
    if expected:
        axes.plot(
            *zip(*expected, strict=True), linestyle="", marker=MARKERS[DRAWN],
            markeredgecolor="white", color=COLOURS[DRAWN], label=f"{DRAWN}, mean of draws",
            clip_on=False,
        )  # fmt: skip
    for i, margin in enumerate(bins):
        top = 100 * max(margin.changed.high, margin.expected or 0.0)
        axes.annotate(
            f"n = {margin.changed.n}", (i, top), textcoords="offset points", xytext=(0, 5),
            ha="center", fontsize=7,
        )  # fmt: skip
    axes.set_xticks(x, [margin_name(margin.low, margin.high) for margin in bins])
    axes.set_ylim(0, 110)
    axes.set_xlabel("margin of the exact integers, steps")
    axes.set_ylabel("labels changed, %, with 95% interval")
    axes.legend()
    return figure


def plot_differences(logits: Logits, labels: tuple[str, ...]) -> Any:
    """Return a histogram for each label: decrypted less exact logit, against drawn less exact."""
    figure, grid = new_axes(columns=len(labels))
    decrypted, drawn = logits.decrypted - logits.clear, logits.drawn - logits.clear[:, None]
    reach = int(max(np.abs(decrypted).max(), np.abs(drawn).max(initial=0)))
    width = -(-(2 * reach + 1) // MAX_COLUMNS)  # whole steps
    n_columns = -(-(2 * reach + 1) // width)
    edges = np.arange(n_columns + 1) * width - reach - 0.5
    for index, (label, axes) in enumerate(zip(labels, np.atleast_1d(grid), strict=True)):
        _histogram(axes, decrypted[:, index], edges, DECRYPTED, fill=True)
        if drawn.size:
            _histogram(axes, drawn[:, :, index].ravel(), edges, DRAWN, fill=False)
        axes.set_title(label, fontsize=9)
        axes.set_xlabel("logit less that of exact rounding, steps")
        axes.set_ylabel("share, %")
        axes.legend()
    return figure


def plot_calibration(analysis: Analysis) -> Any:
    """Return the reliability diagram, and beside it how many texts there are of each confidence."""
    figure, (reliability, counts) = new_axes(columns=2)
    calibration = analysis.calibration[DECRYPTED]
    lowest = 100 * min(b.low for b in calibration.bins)
    for name, measured in analysis.calibration.items():
        style = {"color": COLOURS[name], "marker": MARKERS[name]}
        x = [100 * b.confidence for b in measured.bins]
        y = [100 * b.right.value for b in measured.bins]
        label = f"{name}, error {100 * measured.error:.1f}%"
        if name == DECRYPTED:
            spread = _spread([b.right for b in measured.bins])
            reliability.errorbar(x, y, spread, label=label, capsize=3, **style)
        else:
            reliability.plot(x, y, label=label, linestyle=":", markersize=4, **style)
    reliability.plot([lowest, 100], [lowest, 100], color="#555555", linewidth=0.8)
    reliability.set_xlabel("confidence: probability of the label, %")
    reliability.set_ylabel("labels that are right, %")
    reliability.legend(fontsize=8)
    for b in calibration.bins:
        counts.bar(
            50 * (b.low + b.high), b.right.n, width=100 * (b.high - b.low),
            color=COLOURS[DECRYPTED], edgecolor="white",
        )  # fmt: skip
    counts.set_xlabel("confidence of the decrypted label, %")
    counts.set_ylabel("texts")
    return figure


def plot_stages(times: Times) -> Any:
    """Return one bar for each length, of mean seconds by stage; a colour is a kind of stage."""
    figure, axes = new_axes()
    shown: dict[str, Any] = {}  # a bar of each kind, for the legend
    for y, length in enumerate(times.lengths):
        left = 0.0
        for name, seconds in length.means.items():
            kind = name.rpartition(".")[2]
            colour = STAGE_COLOURS.get(kind, OTHER_COLOUR)
            bar = axes.barh(y, seconds, left=left, color=colour, edgecolor="white", height=0.5)
            shown.setdefault(kind, bar)
            left += seconds
    axes.set_yticks(
        range(len(times.lengths)),
        [f"{length.n_positions} positions" for length in times.lengths],
    )
    axes.set_ylim(-1, len(times.lengths))
    axes.set_xlabel("mean seconds of a text, stage after stage")
    axes.legend(
        list(shown.values()), list(shown), fontsize=8, ncols=4,
        loc="lower center", bbox_to_anchor=(0.5, 1),
    )  # fmt: skip
    return figure


def margin_name(low: int, high: int) -> str:
    """Return how a bin of margins is called.

    >>> margin_name(1, 1), margin_name(4, 7)
    ('1', '4-7')
    """
    return str(low) if low == high else f"{low}-{high}"


def _histogram(axes: Any, values: np.ndarray, edges: np.ndarray, name: str, fill: bool) -> None:
    weights = np.full(len(values), 100 / len(values))
    style: dict[str, Any] = {"histtype": "stepfilled", "alpha": 0.6}
    if not fill:
        style = {"histtype": "step", "linewidth": 1.4}
    axes.hist(values, edges, weights=weights, color=COLOURS[name], label=name, **style)


def _spread(shares: list[Share]) -> list[list[float]]:
    """Return the distances to both ends of the intervals, in percent."""
    return [
        [100 * (s.value - s.low) for s in shares],
        [100 * (s.high - s.value) for s in shares],
    ]
