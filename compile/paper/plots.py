"""The page's plots, for print: one column wide, colours told apart by colour-blind readers."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compile.evaluation.plots import OTHER_COLOUR, STAGE_COLOURS, draw_accuracy
from compile.paper.comparison import evaluation_plot
from compile.paper.inputs import DecryptedEvaluation, Inputs
from compile.paper.peers import Peer
from compile.paper.prices import Predictions
from compile.paper.records import Measured
from fhe_inhibitor.system.plots import PUBLISHED, STYLES, for_print, new_column, save_for_print
from fhe_inhibitor.system.statistics import summarize

ROW_INCHES = 0.24
NAME_WIDTH = 28  # letters of a line
HATCHES = {"project": "", "attend": "////", "feed_forward": "....", "classify": "xxxx"}


def write_plots(inputs: Inputs, out: Path) -> None:
    """Write every plot that the page shows, as PDF and PNG, to a folder."""
    with for_print():
        save_for_print(plot_stages(inputs.measured), out, "stages")
        own = inputs.compiled.p_error
        save_for_print(plot_errors(inputs.predictions, own), out, "errors")
        seconds = summarize([run.seconds for run in inputs.measured.sentences]).median
        save_for_print(plot_peers(inputs.model, seconds, inputs.peers), out, "peers")
        for index, evaluation in enumerate(inputs.evaluations):
            save_for_print(plot_accuracy(evaluation), out, evaluation_plot(index))


def plot_stages(measured: Measured) -> Any:
    """Return a bar for each part of a sentence; a colour, and a pattern, is a kind of stage."""
    runs = measured.sentences
    parts = {"encrypt": [run.encrypt_s for run in runs]}
    parts |= {name: [run.stages[name] for run in runs] for name in runs[0].stages}
    parts["decrypt"] = [run.decrypt_s for run in runs]
    figure, axes = new_column(0.6 + ROW_INCHES * len(parts))
    for y, (name, seconds) in enumerate(parts.items()):
        summary, kind = summarize(seconds), name.rpartition(".")[2]
        spread = [[summary.median - summary.low], [summary.high - summary.median]]
        axes.barh(
            y, summary.median, height=0.7, xerr=spread, capsize=2, ecolor="black",
            error_kw={"linewidth": 0.7}, color=STAGE_COLOURS.get(kind, OTHER_COLOUR),
            hatch=HATCHES.get(kind, ""), edgecolor="black", linewidth=0.4,
        )  # fmt: skip
    axes.set_yticks(range(len(parts)), list(parts))
    axes.invert_yaxis()
    axes.set_xlabel(f"seconds, median of {len(runs)}")
    return figure


def plot_errors(predictions: Predictions, own: float) -> Any:
    """Return predicted seconds by how likely a lookup errs; filled: what the circuits have."""
    figure, axes = new_column(1.9)
    prices = predictions.errors
    x, seconds = range(len(prices)), [price.units * predictions.unit_s for price in prices]
    style = STYLES["inhibitor"]
    axes.plot(x, seconds, **{**style, **PUBLISHED})
    chosen = [(i, seconds[i]) for i in x if prices[i].p_error == own]
    axes.plot(*zip(*chosen, strict=True), **{**style, "linestyle": ""})
    axes.set_xticks(x, [_power(price.name) for price in prices])
    axes.set_xlabel("probability that a lookup errs")
    axes.set_ylabel("seconds, predicted")
    axes.margins(x=0.1, y=0.15)
    axes.set_ylim(bottom=0)
    axes.grid(True, axis="y", linewidth=0.3)
    return figure


def plot_peers(model: str, seconds: float, peers: Sequence[Peer]) -> Any:
    """Return seconds of one input on a logarithmic scale, ours first."""
    figure, axes = new_column(0.6 + 1.1 * ROW_INCHES * (1 + len(peers)))
    ours, theirs = STYLES["inhibitor"], {**STYLES["dot product"], **PUBLISHED}
    axes.plot([seconds], [0], **{**ours, "linestyle": ""})
    rows = range(1, 1 + len(peers))
    axes.plot([peer.seconds for peer in peers], rows, **{**theirs, "linestyle": ""})
    names = [textwrap.fill(name, NAME_WIDTH) for name in (model, *(peer.name for peer in peers))]
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("seconds of one input")
    axes.grid(True, axis="x", linewidth=0.3)
    return figure


def plot_accuracy(evaluation: DecryptedEvaluation) -> Any:
    """Return accuracies with their intervals, one below the other; small marks are draws."""
    found = evaluation.analysis
    figure, axes = new_column(0.6 + ROW_INCHES * len(found.accuracy))
    draw_accuracy(axes, found, above=0.25, size=4, capsize=2)
    axes.set_xlabel(f"right labels of {found.n_texts} texts, %, with 95% interval")
    return figure


def _power(name: str) -> str:
    """Return a probability's name as mathematics.

    >>> _power("2^-40"), _power("0.1")
    ('$2^{-40}$', '0.1')
    """
    base, hat, exponent = name.partition("^")
    return f"${base}^{{{exponent}}}$" if hat else name
