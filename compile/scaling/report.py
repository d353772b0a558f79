"""Both halves for readers: CSV, Markdown, and the page docs/scaling.md."""

from __future__ import annotations

import csv
from pathlib import Path

from compile.scaling.plot import plot_scaling, plot_simulated
from compile.scaling.results import (
    MEASURED,
    MEASURED_BY,
    SIMULATED,
    SIMULATED_BY,
    ScalingPoint,
    ScalingResults,
    SimulatedPoint,
    SimulatedResults,
    write_results,
)
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.files import read_results
from fhe_inhibitor.system.pages import decimal_size, markdown_table

PAGE = "scaling.md"
HEAD = """# One sentence over many cores

Made by `fhe-inhibitor benchmark report` from what `benchmark scaling` measured and what
`benchmark scaling --simulate` computed. `compile --split N` cuts the stages of each layer into
tasks for N workers: projection and feed-forward by block of tokens, attention by head and block of
queries. The results are the same integers, whatever the split.
"""
NOT_MEASURED = f"""## Measured

Not taken yet: `fhe-inhibitor {MEASURED_BY}` wants a machine that does nothing else.
"""
NOT_SIMULATED = f"""## Simulated

Not computed yet: `fhe-inhibitor {SIMULATED_BY}`.
"""
MODEL = """What is simulated: a machine runs one task, or several, at a time, each on its share of
the cores. A task's loops run one after the other, as Concrete runs them, and a loop of c lookups on
p cores takes ceil(c / p) times the time of one lookup. A value moves once to a machine that needs
it; a machine sends one value at a time and receives one at a time. What is not: memory bandwidth
that cores share, packing and unpacking of ciphertexts, and the time of a scheduler. The cost
model's seconds are those of single lookups, and whole sentences take longer. So all seconds here
are rather too low than too high.

*Limited by* says what keeps a row from being faster. *Lookups*: all cores are busy nearly all the
time. *Chain of stages*: each stage waits for the one before, and loops have too few lookups for so
many cores. *Network*: without one it would be a quarter faster, or more. *Uneven tasks*: some
machines wait for others to finish a stage.
"""


def write_scaling(results: ScalingResults, out: Path) -> list[Path]:
    """Write scaling_measured.json, .csv, .md, .png and .svg to a folder; return their paths."""
    write_results(results, out)
    with (out / f"{MEASURED}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["series", "cores", "median_s", "low_s", "high_s", "efficiency", "lookups_per_s"]
        )
        for point in results.points:
            s = point.summary
            if s is not None:
                efficiency = results.efficiency(point)
                per_s = point.lookups / s.median
                writer.writerow(
                    [point.series, point.cores, s.median, s.low, s.high, efficiency, per_s]
                )
    (out / f"{MEASURED}.md").write_text(scaling_markdown(results), encoding="utf-8")
    plot_scaling(results, out)
    return [out / f"{MEASURED}.{suffix}" for suffix in ("json", "csv", "md", "png", "svg")]


def write_simulated(results: SimulatedResults, out: Path) -> list[Path]:
    """Write scaling_simulated.json, .csv, .md, .png and .svg to a folder; return their paths."""
    write_results(results, out)
    with (out / f"{SIMULATED}.csv").open("w", newline="", encoding="utf-8") as file:
        names = [*SimulatedPoint.model_fields, "efficiency"]
        writer = csv.writer(file)
        writer.writerow([f"simulated_{name}" if name == "seconds" else name for name in names])
        writer.writerows([getattr(point, name) for name in names] for point in results.points)
    (out / f"{SIMULATED}.md").write_text(simulated_markdown(results), encoding="utf-8")
    plot_simulated(results, out)
    return [out / f"{SIMULATED}.{suffix}" for suffix in ("json", "csv", "md", "png", "svg")]


def scaling_markdown(results: ScalingResults) -> str:
    """Return the section of what was measured."""
    options, machine = results.options, results.machine
    what = "one sentence" if options.layers is None else f"the first {options.layers} layers"
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    rows = [_measured_row(results, point) for point in results.points if point.summary]
    head = (
        "series",
        "cores",
        "seconds",
        "efficiency",
        "lookups per second",
        "largest difference",
        "simulated",
    )
    return "\n".join(
        [
            "## Measured",
            "",
            f"{options.model}, {options.tokens} tokens, {what}, split for {options.split}: "
            f"{machine.hardware}, {versions}, "
            f"commit {machine.commit}, {machine.date}, load average {machine.load_average} at the "
            "start. Medians with 95% intervals (the whole range below 6 repetitions); numbers of "
            "threads in turn, each in a process of its own. *Difference*: of a decrypted logit "
            "from exact integers, in steps; encrypted rounding makes some. Workers are Dask's, of "
            "one thread each, on this machine; *simulated* is what the simulator of the next "
            "section makes of the seconds of each task on one thread, and how far off it is.",
            "",
            *markdown_table(head, rows),
            "",
            f"![seconds and efficiency over cores]({MEASURED}.png)",
            "",
        ]
    )


def simulated_markdown(results: SimulatedResults) -> str:
    """Return the section of what was simulated; it says so in every part."""
    head = (
        "machines", "cores each", "Gbit/s", "workers each", "simulated seconds", "efficiency",
        "moved", "limited by",
    )  # fmt: skip
    rows = [
        [
            p.machines,
            p.cores,
            f"{p.gbit_per_s:g}",
            p.workers,
            f"{p.seconds:,.1f}",
            f"{p.efficiency:.0%}",
            decimal_size(p.moved_bytes),
            p.limit,
        ]
        for p in results.points
    ]
    return "\n".join(
        [
            "## Simulated",
            "",
            f"**Simulated, not measured.** {results.model}, {results.tokens} tokens, split for "
            f"{results.split}: {results.tasks} tasks of {results.lookups:,} lookups, "
            f"{results.one_core_s:,.0f} s on one core; all values together "
            f"{decimal_size(results.value_bytes)}. Seconds of a lookup are those of "
            f"{results.seconds_from}. Commit {results.commit}, {results.date}.",
            "",
            goal_line(results),
            "",
            MODEL,
            *markdown_table(head, rows),
            "",
            f"![simulated seconds over machines]({SIMULATED}.png)",
            "",
        ]
    )


def goal_line(results: SimulatedResults) -> str:
    """Return whether the simulation meets the goal, and what limits it."""
    goal = results.goal
    what = f"on {goal.machines} machines of {goal.cores} cores with {goal.gbit_per_s:g} Gbit/s"
    point = results.find(goal.machines, goal.cores, goal.gbit_per_s)
    assert point is not None
    verdict = "met" if point.seconds <= goal.limit_s else "missed"
    return (
        f"Our goal is at most {goal.limit_s:g} s {what}: {verdict} in this simulation, which has "
        f"{point.seconds:.1f} s. What limits it: {point.limit}. Lookups shared out evenly "
        f"would take {point.even_s:.1f} s, the chain of stages takes {point.chain_s:.1f} s, and "
        f"without a network it would be {point.no_network_s:.1f} s; "
        f"{decimal_size(point.moved_bytes)} move."
    )


def has_results(results: Path) -> bool:
    """Whether a folder has something measured or simulated."""
    return any((results / f"{name}.json").exists() for name in (MEASURED, SIMULATED))


def write_page(results: Path, out: Path) -> Path:
    """Write scaling.md with what it shows to `out`; return its path.

    results: folder with scaling_measured.json, scaling_simulated.json or both. Raises InputError if
    it has neither, or one that can't be read.
    """
    measured, simulated = (results / f"{name}.json" for name in (MEASURED, SIMULATED))
    if not has_results(results):
        raise InputError(f"{results} has neither {measured.name} nor {simulated.name}")
    parts = [HEAD]
    if measured.exists():
        found = read_results(measured, ScalingResults, MEASURED_BY)
        write_scaling(found, out)
        parts.append(scaling_markdown(found))
    else:
        parts.append(NOT_MEASURED)
    if simulated.exists():
        computed = read_results(simulated, SimulatedResults, SIMULATED_BY)
        write_simulated(computed, out)
        parts.append(simulated_markdown(computed))
    else:
        parts.append(NOT_SIMULATED)
    (out / PAGE).write_text("\n".join(parts), encoding="utf-8")
    return out / PAGE


def _measured_row(results: ScalingResults, point: ScalingPoint) -> list[object]:
    s = point.summary
    assert s is not None
    efficiency = results.efficiency(point)
    return [
        point.series,
        point.cores,
        f"{s.median:.2f} ({s.low:.2f} to {s.high:.2f}, {s.repetitions} runs)",
        "-" if efficiency is None else f"{efficiency:.0%}",
        f"{point.lookups / s.median:,.0f}",
        "-" if point.difference is None else point.difference,
        "-" if point.simulated_s is None else _simulated(point.simulated_s, s.median),
    ]


def _simulated(seconds: float, measured_s: float) -> str:
    return f"{seconds:.2f} ({seconds / measured_s - 1:+.0%})"
