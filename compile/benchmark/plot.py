"""The encrypted benchmark as three panels over the length: time, lookups, ratio."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compile.benchmark.results import NAME, AttentionResults
from fhe_inhibitor.system.plots import PUBLISHED as HOLLOW
from fhe_inhibitor.system.plots import STYLES, new_axes, over_lengths, save_figure

STYLE_NAMES = {
    "inhibitor_exact": "inhibitor, second form",
    "inhibitor_rounded": "inhibitor",
    "inhibitor_signed": "inhibitor, signed",
    "dot_product_exact": "dot product, second form",
    "dot_product_rounded": "dot product",
}
RATIO_STYLES = ("dot product, second form", "dot product", "inhibitor, second form", "other")

Published = Mapping[str, Mapping[int, float]]


def plot_attention(
    results: AttentionResults, published: Published, titles: Mapping[str, str], out: Path
) -> None:
    """Write the PNG and the SVG; hollow markers are published."""
    figure, (times, lookups, ratios) = new_axes(columns=3)
    lengths = sorted({*results.parameters.lengths, *(n for s in published.values() for n in s)})
    _plot_times(times, results, published, titles)
    for circuit in results.parameters.circuits:
        points = sorted((p for p in results.points if p.circuit == circuit), key=lambda p: p.n)
        counts = {p.n: p.n_lookups for p in points if p.lookups}
        lookups.plot(
            list(counts), list(counts.values()), label=titles[circuit],
            **STYLES[STYLE_NAMES[circuit]],
        )  # fmt: skip
    _plot_ratios(ratios, results, published, titles)
    over_lengths(times, lengths, "seconds of one encrypted head")
    over_lengths(lookups, lengths, "lookups of all widths")
    over_lengths(ratios, lengths, "ratio of run times")
    for axes in (times, lookups, ratios):
        if not axes.get_legend_handles_labels()[0]:
            continue
        axes.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    save_figure(figure, out, NAME)


def _plot_times(
    axes: Any, results: AttentionResults, published: Published, titles: Mapping[str, str]
) -> None:
    for circuit in results.parameters.circuits:
        points = [p for p in results.measured(circuit) if p.lookup_s]
        if points:
            summaries = [p.summaries["run"] for p in points]
            medians = [s.median for s in summaries]
            spread = [[s.median - s.low for s in summaries], [s.high - s.median for s in summaries]]
            style = STYLES[STYLE_NAMES[circuit]]
            axes.errorbar([p.n for p in points], medians, spread, label=titles[circuit], **style)
    for circuit, seconds in published.items():
        style = STYLES[STYLE_NAMES[circuit]] | HOLLOW
        label = f"{titles[circuit].partition(',')[0]}, published"
        axes.plot(list(seconds), list(seconds.values()), label=label, **style)


def _plot_ratios(
    axes: Any, results: AttentionResults, published: Published, titles: Mapping[str, str]
) -> None:
    pairs = dict.fromkeys((ratio.circuit, ratio.other) for ratio in results.ratios)
    for pair, name in zip(pairs, RATIO_STYLES, strict=False):
        found = [r for r in results.ratios if (r.circuit, r.other) == pair]
        axes.plot(
            [r.n for r in found], [r.ratio.median for r in found],
            label=f"{titles[pair[0]]} / {titles[pair[1]]}", **STYLES[name],
        )  # fmt: skip
    if published:
        dot_product, inhibitor = published["dot_product_exact"], published["inhibitor_exact"]
        values = [s / inhibitor[n] for n, s in dot_product.items()]
        label = "dot product / inhibitor, published"
        axes.plot(list(dot_product), values, color="black", marker="P", label=label, **HOLLOW)
    axes.axhline(1, color="black", linewidth=0.8)
