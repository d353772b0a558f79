"""The plaintext benchmark's results as files: JSON, CSV, a Markdown section and a plot."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fhe_inhibitor.benchmark.kernels import KEYS, QUERIES
from fhe_inhibitor.benchmark.operations import COUNTS, count_operations
from fhe_inhibitor.benchmark.run import (
    RATIOS,
    STAGES,
    KernelStage,
    PlaintextResults,
)
from fhe_inhibitor.system.pages import markdown_table
from fhe_inhibitor.system.plots import PUBLISHED as HOLLOW
from fhe_inhibitor.system.plots import STYLES, new_axes, over_lengths, save_figure

NAME = "plaintext"
# Brännvall 2023, table 3: seconds of one head, int16, by n.
PUBLISHED = {
    "dot_product": {32: 98.6e-6, 64: 330e-6, 128: 1.2e-3, 256: 4.48e-3},
    "inhibitor": {32: 63.1e-6, 64: 178e-6, 128: 577e-6, 256: 2.5e-3},
}
TITLES = {
    "inhibitor": "inhibitor",
    "inhibitor_lean": "inhibitor, memory-saving",
    "inhibitor_maximum": "inhibitor, by maxima",
    "dot_product": "dot product",
    "dot_product_scalar": "dot product, scalar exp",
    "torch_float32": "torch float32",
}
STYLE_NAMES = {
    "inhibitor": "inhibitor",
    "inhibitor_lean": "inhibitor, second form",
    "inhibitor_maximum": "inhibitor, signed",
    "dot_product": "dot product",
    "dot_product_scalar": "dot product, second form",
    "torch_float32": "other",
}


def write_plaintext(results: PlaintextResults, out: Path) -> list[Path]:
    """Write plaintext.json, .csv, .md, .png and .svg to a folder; return their paths."""
    json = results.model_dump_json(indent=1) + "\n"
    (out / f"{NAME}.json").write_text(json, encoding="utf-8")
    (out / f"{NAME}.md").write_text(plaintext_markdown(results), encoding="utf-8")
    _write_csv(results, out / f"{NAME}.csv")
    save_figure(_figure(results), out, NAME)
    return [out / f"{NAME}.{suffix}" for suffix in ("json", "csv", "md", "png", "svg")]


def plaintext_markdown(results: PlaintextResults) -> str:
    """Return the section of the report: times, ratios, growth, and where the time goes."""
    return "\n".join(
        [
            "## In the clear, one head of width 64, int16",
            "",
            _preamble(results),
            "",
            *_times(results),
            "",
            *_ratios(results),
            "",
            *_growth(results),
            "",
            *_explanation(results),
            "",
            *_ablations(results),
            _energy(results),
            "",
            *_operations(results),
            "",
            f"![plaintext times and ratios]({NAME}.png)",
            "",
        ]
    )


def _preamble(results: PlaintextResults) -> str:
    machine, asked = results.machine, results.parameters
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    repetitions = f"{asked.repetitions} repetitions, {asked.threads} thread, seed {asked.seed}"
    wrong = [f"{p.kernel} at {p.n}" for p in results.points if p.equals_reference is False]
    return (
        f"{machine.processor}, {machine.cores} cores, load {machine.load_average} at the start; "
        f"{versions}; commit {machine.commit}, {machine.date}. Processor time of the thread, "
        f"median and 95% interval of {repetitions}; kernels in turn, in an order drawn for each "
        "repetition. Packing of keys and values and a call of "
        f"{1e6 * results.call_s:.1f} µs are included. "
        + (
            f"**Different from the NumPy reference: {', '.join(wrong)}.**"
            if wrong
            else "Each kernel's result equals the NumPy reference exactly."
        )
    )


def _times(results: PlaintextResults) -> list[str]:
    lengths = results.parameters.lengths
    rows = []
    for kernel in results.parameters.kernels:
        cells = []
        for point in _of(results.points, kernel=kernel):
            s = point.seconds
            cells.append(f"{_us(s.median)} ({_us(s.low)}-{_us(s.high)})")
        rows.append([TITLES[kernel], *cells])
    for kernel, seconds in PUBLISHED.items():
        cells = [_us(seconds[n]) if n in seconds else "" for n in lengths]
        rows.append([f"{TITLES[kernel]}, published", *cells])
    return markdown_table(["microseconds, n =", *lengths], rows)


def _ratios(results: PlaintextResults) -> list[str]:
    lengths = results.parameters.lengths
    rows = []
    for kernel, other in RATIOS:
        found = _of(results.ratios, kernel=kernel, other=other)
        if found:
            cells = [f"{r.ratio.median:.2f} ({r.ratio.low:.2f}-{r.ratio.high:.2f})" for r in found]
            rows.append([f"{TITLES[kernel]} / {TITLES[other]}", *cells])
    published = _published_ratios()
    cells = [f"{published[n]:.2f}" if n in published else "" for n in lengths]
    rows.append(["dot product / inhibitor, published", *cells])
    return [
        *markdown_table(["ratio of medians, n =", *lengths], rows),
        "",
        "Above 1 the inhibitor is faster; a saving of 30-50% is 1.43 to 2.",
    ]


def _growth(results: PlaintextResults) -> list[str]:
    parts = []
    for kernel, fit in results.growth.items():
        interval = "" if fit.low is None else f" ({fit.low:.2f} to {fit.high:.2f})"
        parts.append(f"{TITLES[kernel]} {fit.exponent:.2f}{interval}")
    return [f"Growth, exponent of n with its 95% interval: {'; '.join(parts)}."] if parts else []


def _explanation(results: PlaintextResults) -> list[str]:
    """Where the time goes, from the stages' times and the assembly."""
    if not results.stages:
        return []
    n = results.stages[0].n
    rows = []
    for kernel in dict.fromkeys(stage.kernel for stage in results.stages):
        stages = {stage.stage: stage for stage in _of(results.stages, kernel=kernel)}
        loops = [cell for name in ("score", "mix") for cell in _loop(stages[name])]
        rows.append([TITLES[kernel], *(_us(stages[name].seconds) for name in STAGES), *loops])
    head = ["kernel", *STAGES, "score: instructions", "ps", "mix: instructions", "ps"]
    return [
        f"Where the time goes at n = {n}, stage by stage: µs; for the two inner loops also the "
        f"arithmetic instructions for one vector of {results.int16_lanes} lanes, and the "
        "picoseconds that it took.",
        "",
        *markdown_table(head, rows),
        "",
        *_why(results),
    ]


def _loop(stage: KernelStage) -> tuple[str, str]:
    """The instructions of an inner loop, and its picoseconds."""
    if stage.loop is None or stage.steps is None:
        return "not counted", ""
    names = [
        f"{name} {count / stage.loop.steps:.2g}"
        for name, count in stage.loop.instructions.items()
        if not name.startswith("vzero")
    ]
    return (
        f"{stage.loop.arithmetic:.2g} on {stage.loop.registers} ({', '.join(names)})",
        f"{1e12 * stage.seconds / stage.steps:.0f}",
    )


def _why(results: PlaintextResults) -> list[str]:
    """The reading of the tables above, with their figures."""
    found = {(stage.kernel, stage.stage): stage for stage in results.stages}
    arithmetic, picoseconds = {}, {}
    for kernel in ("inhibitor", "inhibitor_maximum", "dot_product"):
        stage = found.get((kernel, "score"))
        if stage is None or stage.loop is None or stage.steps is None:
            return []
        count = f"{stage.loop.arithmetic:.2g}"
        arithmetic[kernel] = "1 instruction" if count == "1" else f"{count} instructions"
        picoseconds[kernel] = f"{1e12 * stage.seconds / stage.steps:.0f} ps"
    shares = ", ".join(
        f"{TITLES[kernel]} {found[kernel, 'weigh'].seconds / total:.0%}"
        for kernel in ("dot_product", "dot_product_scalar")
        if (total := sum(stage.seconds for stage in _of(results.stages, kernel=kernel)))
    )
    gaps = [
        1e9 * (PUBLISHED["dot_product"][n] - seconds) / n**2
        for n, seconds in PUBLISHED["inhibitor"].items()
    ]
    return [
        "- Products are not dearer than what replaces them. Per vector, to multiply and add up "
        f"takes {arithmetic['dot_product']} ({picoseconds['dot_product']}); |q - k| takes "
        f"{arithmetic['inhibitor']}: subtract, absolute value, add ({picoseconds['inhibitor']}), "
        "and (v - Z)+ as many. The inhibitor's sums fit int16 lanes; the products' don't, but "
        "pairs are added as they widen, so that both mechanisms fill a vector alike.",
        "- The memory-saving form saves no instruction, |v - Z| costs what (v - Z)+ does, and no "
        "memory: fused loops never hold the tensor of n n d values that it avoids.",
        "- By maxima, |a - b| = 2 max(a, b) - a - b and (v - Z)+ = max(v, Z) - Z, the inhibitor "
        f"takes {arithmetic['inhibitor_maximum']} "
        f"({picoseconds['inhibitor_maximum']}), since what is subtracted needs one sum per row.",
        f"- What the inhibitor does save is softmax, whose share of the time is: {shares}. It is "
        "small where the exponentials are looked up a vector at a time, and large where they are "
        "looked up one by one, which is what the compiler makes of the plain loop.",
        f"- The published times differ by {min(gaps):.0f} to {max(gaps):.0f} ns per pair of query "
        "and key at every n, many times what a whole pair takes here. Code that is not "
        "vectorised, or that computes an exponential and a division per pair, would show that; "
        "the paper does not say which.",
        "- Memory traffic is nearly the same for all. Keys and values are 256 bytes per key and "
        f"block of {QUERIES} queries, {256 // QUERIES} bytes per pair, read {KEYS} keys at a time; "
        "scores and weights are 4 bytes per pair for the inhibitor, 6 for the dot product, and "
        "stay in cache.",
    ]


def _ablations(results: PlaintextResults) -> list[str]:
    """Times at one length without some of the processor's instructions."""
    if not results.without:
        return []
    n = max(results.parameters.lengths)
    runs = {"all instructions": results} | {
        f"without {feature}": run for feature, run in results.without.items()
    }
    rows = [["int16 lanes", *(str(run.int16_lanes) for run in runs.values())]]
    for kernel in next(iter(results.without.values())).parameters.kernels:
        cells = []
        for run in runs.values():
            (point,) = (p for p in _of(run.points, kernel=kernel) if p.n == n)
            loops = [
                f"{stage.loop.arithmetic:.2g}"
                for stage in _of(run.stages, kernel=kernel)
                if stage.loop
            ]
            cells.append(f"{_us(point.seconds.median)} ({', '.join(loops)})")
        rows.append([TITLES[kernel], *cells])
    for kernel, other in RATIOS:
        found = [
            next((r for r in _of(run.ratios, kernel=kernel, other=other) if r.n == n), None)
            for run in runs.values()
        ]
        if all(found):
            cells = [f"{r.ratio.median:.2f}" for r in found if r]
            rows.append([f"{TITLES[kernel]} / {TITLES[other]}", *cells])
    title = f"microseconds, n = {n} (instructions per vector: score, mix)"
    return [*markdown_table([title, *runs], rows), ""]


def _energy(results: PlaintextResults) -> str:
    used = results.energy
    if used.unreadable:
        return (
            f"Energy per head: not measured; {used.unreadable}. What can be counted instead are "
            "operations and bytes."
        )
    parts = ", ".join(f"{TITLES[name]} {1e6 * j:.0f} µJ" for name, j in used.joules.items())
    return f"Energy per head at n = {results.parameters.lengths[-1]}, whole package: {parts}."


def _operations(results: PlaintextResults) -> list[str]:
    """Operations and bytes of one head at the longest length, by formula."""
    n = max(results.parameters.lengths)
    counted = {
        kernel: count_operations(kernel, n, results.parameters.dim)
        for kernel in results.parameters.kernels
        if kernel in COUNTS
    }
    if not counted:
        return []
    rows = []
    for kernel, found in counted.items():
        kinds = (
            found.multiplications, found.divisions, found.additions, found.choices, found.lookups,
            found.shifts,
        )  # fmt: skip
        sizes = (found.operand_bytes, found.cache_bytes)
        rows.append([TITLES[kernel], *map(_millions, kinds), *map(_millions, sizes)])
    head = [
        f"millions, one head, n = {n}", "multiplications", "divisions", "additions", "choices",
        "exponentials", "shifts", "bytes of operands", "bytes from cache",
    ]  # fmt: skip
    return [
        *markdown_table(head, rows),
        "",
        "Scalar operations of the equations, by formula (`fhe_inhibitor/benchmark/operations.py`); "
        "a subtraction is an addition, an absolute value, a maximum or a minimum a choice. "
        "Operands are q, k, v and H, each once. From cache come keys and values, once for each "
        f"block of {QUERIES} queries, and scores and weights.",
    ]


def _millions(count: int) -> str:
    return "0" if count == 0 else f"{count / 1e6:.3g}"


def _write_csv(results: PlaintextResults, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["kernel", "n", "median_s", "low_s", "high_s", "repetitions", "equals_reference"]
        )
        for point in results.points:
            s = point.seconds
            equal = "" if point.equals_reference is None else point.equals_reference
            writer.writerow([point.kernel, point.n, s.median, s.low, s.high, s.repetitions, equal])


def _figure(results: PlaintextResults) -> Any:
    """Times on the left, ratios on the right; hollow markers are published."""
    figure, (times, ratios) = new_axes(columns=2)
    lengths = results.parameters.lengths
    for kernel in results.parameters.kernels:
        medians = [1e6 * point.seconds.median for point in _of(results.points, kernel=kernel)]
        times.plot(lengths, medians, label=TITLES[kernel], **STYLES[STYLE_NAMES[kernel]])
    for kernel, seconds in PUBLISHED.items():
        style = STYLES[kernel.replace("_", " ")] | HOLLOW
        values = [1e6 * s for s in seconds.values()]
        times.plot(list(seconds), values, label=f"{TITLES[kernel]}, published", **style)
    over_lengths(times, lengths, "microseconds of one head")
    for (kernel, other), style in zip(RATIOS, STYLES.values(), strict=False):
        found = _of(results.ratios, kernel=kernel, other=other)
        if found and other != "inhibitor_lean":  # as the plain form, within the markers' size
            values = [r.ratio.median for r in found]
            ratios.plot(lengths, values, label=f"{TITLES[kernel]} / {TITLES[other]}", **style)
    published = _published_ratios()
    ratios.plot(
        list(published), list(published.values()), color="black", marker="P", label="published",
        **HOLLOW,
    )  # fmt: skip
    ratios.axhline(1, color="black", linewidth=0.8)
    over_lengths(ratios, lengths, "time of dot product / inhibitor", log=False)
    ratios.set_ylim(bottom=0)
    for axes in (times, ratios):
        axes.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    return figure


def _published_ratios() -> dict[int, float]:
    inhibitor = PUBLISHED["inhibitor"]
    return {n: seconds / inhibitor[n] for n, seconds in PUBLISHED["dot_product"].items()}


def _of(records: Iterable[Any], **fields: str) -> list[Any]:
    """Return the records with these fields."""
    return [r for r in records if all(getattr(r, name) == value for name, value in fields.items())]


def _us(seconds: float) -> str:
    """Microseconds with three digits."""
    return f"{1e6 * seconds:,.0f}" if seconds >= 1e-4 else f"{1e6 * seconds:.3g}"
