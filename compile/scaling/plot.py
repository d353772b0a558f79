"""Both halves as plots: seconds and efficiency over cores, and seconds over simulated machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compile.scaling.results import MEASURED, SIMULATED, ScalingResults, SimulatedResults
from fhe_inhibitor.system.plots import STYLES, new_axes, save_figure

SERIES = {"threads": "inhibitor", "workers": "dot product"}  # whose colours they have


def plot_scaling(results: ScalingResults, out: Path) -> None:
    """Write the PNG and the SVG of what was measured."""
    figure, (times, shares) = new_axes(columns=2)
    for series, style in SERIES.items():
        points = [p for p in results.points if p.series == series and p.summary is not None]
        if not points:
            continue
        cores = [p.cores for p in points]
        summaries = [p.summary for p in points if p.summary is not None]
        medians = [s.median for s in summaries]
        spread = [[s.median - s.low for s in summaries], [s.high - s.median for s in summaries]]
        times.errorbar(cores, medians, spread, label=f"{series}, measured", **STYLES[style])
        ideal = [medians[0] * cores[0] / number for number in cores]
        times.plot(cores, ideal, color="black", linewidth=0.6, label=f"{series}, shared perfectly")
        shares.plot(
            cores, [results.efficiency(p) or float("nan") for p in points], label=series,
            **STYLES[style],
        )  # fmt: skip
    _over(times, "cores", "seconds of one run", sorted({p.cores for p in results.points}))
    _over(shares, "cores", "efficiency, T(1) / (p T(p))", sorted({p.cores for p in results.points}))
    shares.set_yscale("linear")
    shares.set_ylim(0, 1.1)
    save_figure(figure, out, MEASURED)


def plot_simulated(results: SimulatedResults, out: Path) -> None:
    """Write the PNG and the SVG of what was simulated, one panel for each network."""
    rates = sorted({p.gbit_per_s for p in results.points})
    figure, panels = new_axes(columns=len(rates))
    for rate, axes in zip(rates, [panels] if len(rates) == 1 else panels, strict=True):
        sizes = sorted({p.cores for p in results.points if p.gbit_per_s == rate})
        for cores, style in zip(sizes, _cycled(len(sizes)), strict=True):
            points = [p for p in results.points if (p.cores, p.gbit_per_s) == (cores, rate)]
            axes.plot(
                [p.machines for p in points], [p.seconds for p in points],
                label=f"cores of each: {cores}", **style,
            )  # fmt: skip
        goal = results.goal
        axes.axhline(goal.limit_s, color="black", linewidth=0.6, linestyle=":")
        counts = sorted({p.machines for p in results.points})
        _over(axes, "machines", "seconds of one sentence, SIMULATED", counts)
        axes.set_title(f"simulated, {rate:g} Gbit/s")
    save_figure(figure, out, SIMULATED)


def _cycled(number: int) -> list[dict[str, Any]]:
    styles = list(STYLES.values())
    return [styles[index % len(styles)] for index in range(number)]


def _over(axes: Any, xlabel: str, ylabel: str, ticks: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.set_tick_params(which="minor", bottom=False)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(True, which="major", linewidth=0.3)
    axes.legend(fontsize=7)
