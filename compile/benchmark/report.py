"""The encrypted benchmark's results for readers: CSV and a Markdown section."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from compile.benchmark.plot import plot_attention
from compile.benchmark.results import (
    CALLS,
    NAME,
    PHASES,
    AttentionPoint,
    AttentionRatio,
    AttentionResults,
    Quality,
    write_results,
)
from fhe_inhibitor.system.pages import markdown_table
from fhe_inhibitor.system.statistics import Summary

# Brännvall 2023, table 2: seconds of one encrypted head of this width, by n.
PUBLISHED_DIM = 2
PUBLISHED = {
    "dot_product_exact": {2: 2.68, 4: 22.4, 8: 107.0, 16: 828.0},
    "inhibitor_exact": {2: 0.749, 4: 8.56, 8: 23.8, 16: 127.0},
}
TITLES = {
    "inhibitor_exact": "inhibitor, exact",
    "inhibitor_rounded": "inhibitor, rounded",
    "inhibitor_signed": "inhibitor, signed",
    "dot_product_exact": "dot product, exact",
    "dot_product_rounded": "dot product, rounded",
}
FORMULAS = {
    "inhibitor_exact": "n² (2 d + 1)",
    "inhibitor_rounded": "n² (2 d + 1)",
    "inhibitor_signed": "n² (3 d + 1)",
    "dot_product_exact": "n² (2 m d + 2) + n",
    "dot_product_rounded": "n² (2 d + 3) + n (3 d + 1)",
}
POINT_COLUMNS = (
    "circuit", "n", "run", "published", "predicted", "run / predicted", "lookups", "by width",
    "formula", "complexity", "correlation", "error", "equal to exact rounding", "in bounds",
)  # fmt: skip
REPEATED = "n² (2 d + 3) + n (d + 1) + 2 n d for each block"  # of the rounded dot product, cut
PHASE_COLUMNS = (
    "circuit", "n", "compile", "keygen", "encrypt", "decrypt", "evaluation keys",
    "bootstrap, keyswitch keys", "request", "response", "peak memory", "one lookup",
)  # fmt: skip


def write_attention(results: AttentionResults, out: Path) -> list[Path]:
    """Write attention.json, .csv, .md, .png and .svg to a folder; return their paths."""
    write_results(results, out)
    _write_csv(results, out / f"{NAME}.csv")
    (out / f"{NAME}.md").write_text(attention_markdown(results), encoding="utf-8")
    plot_attention(results, _published(results), TITLES, out)
    return [out / f"{NAME}.{suffix}" for suffix in ("json", "csv", "md", "png", "svg")]


def attention_markdown(results: AttentionResults) -> str:
    """Return the section of the report: ratios, then a row for each point, then growth."""
    parts = [
        ["## Encrypted, one head", "", _preamble(results)],
        _ratios(results),
        _points(results),
        _phases(results),
        _growth(results),
        [f"![time, lookups and ratio by length]({NAME}.png)"],
    ]
    return "\n".join("\n".join(part) + "\n" for part in parts if part)


def _published(results: AttentionResults) -> dict[str, dict[int, float]]:
    """Return the paper's seconds, nothing for heads of another width than its."""
    return PUBLISHED if results.parameters.head_dim == PUBLISHED_DIM else {}


def _preamble(results: AttentionResults) -> str:
    machine, asked = results.machine, results.parameters
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    how = {
        "execute": "Medians with 95% intervals (the whole range below 6 repetitions); circuits in "
        "turn, one call each in every round.",
        "simulate": "Simulated: lookups, widths, complexity and quality, no times.",
    }[asked.mode]
    where = _fleets(results) if asked.on_cluster else ""
    return (
        f"Width {asked.head_dim}, operands of {asked.bits} bits, p_error {asked.p_error:.2e} a "
        f"lookup, seeds {', '.join(map(str, asked.seeds))}. {machine.hardware}, load "
        f"{machine.load_average} at the start; {versions}; circuits of version {results.circuits}, "
        f"commit {machine.commit}, {machine.date}. {how}{where} "
        "Complexity is the optimizer's own unit. "
        "Quality is that of the output against the float head on the same Gaussian inputs: "
        "correlation, and root mean square error over standard deviation, of the integer model "
        "with rounding noise drawn; in brackets, of the values that were decrypted."
    )


def _fleets(results: AttentionResults) -> str:
    """Say what ran the heads, and what their times are."""
    split = results.parameters.split
    cut = f"Each was cut into {split} blocks of queries, or one for each. " if split > 1 else ""
    fleets = "; at other times ".join(
        " and ".join(kind.describe() for kind in fleet) or "none" for fleet in results.fleets
    )
    return (
        f" Workers of a Dask cluster ran the heads, one head at a time: {fleets or 'none'}. {cut}"
        "A run is from sending its tasks to having all outputs; calls are the seconds of its tasks "
        "on workers, added up. Predicted is the time of all lookups one after the other in one "
        "task, by the time of single lookups there. All else is of this machine."
    )


def _ratios(results: AttentionResults) -> list[str]:
    if not results.ratios:
        return []
    lengths = results.parameters.lengths
    rows = []
    pairs = dict.fromkeys((ratio.circuit, ratio.other) for ratio in results.ratios)
    for pair in pairs:
        found = {r.n: r for r in results.ratios if (r.circuit, r.other) == pair}
        cells = [_ratio(found[n]) if n in found else "-" for n in lengths]
        rows.append([f"{TITLES[pair[0]]} / {TITLES[pair[1]]}", *cells])
    if published := _published(results):
        dot_product, inhibitor = published["dot_product_exact"], published["inhibitor_exact"]
        ratios = {n: f"{seconds / inhibitor[n]:.2f}" for n, seconds in dot_product.items()}
        rows.append(["dot product / inhibitor, published", *(ratios.get(n, "-") for n in lengths)])
    return [
        *markdown_table(["ratio of median run times, n =", *lengths], rows),
        "",
        "In brackets the interval, then the ratio of the optimizer's complexities.",
    ]


def _ratio(ratio: AttentionRatio) -> str:
    r = ratio.ratio
    return f"{r.median:.2f} ({r.low:.2f}-{r.high:.2f}; {ratio.complexity_ratio:.2f})"


def _points(results: AttentionResults) -> list[str]:
    published = _published(results)
    rows = [_cells(p, published.get(p.circuit, {}).get(p.n)) for p in _sorted(results)]
    cut = {"dot_product_rounded": REPEATED} if results.parameters.split > 1 else {}
    of_heads = FORMULAS | cut
    formulas = "; ".join(f"{TITLES[c]} {of_heads[c]}" for c in results.parameters.circuits)
    return [
        *markdown_table(POINT_COLUMNS, rows),
        "",
        f"Formulas: {formulas}; a product takes m = 2 lookups, 1 where both operands together have "
        "at most 5 bits.",
    ]


def _cells(point: AttentionPoint, published: float | None) -> list[str]:
    title = [TITLES[point.circuit], str(point.n)]
    if point.status in ("not_compiled", "failed"):
        return [*title, f"{point.status.replace('_', ' ')}: {_plain(point.reason)}", *[""] * 11]
    run = point.summaries.get("run")
    timed = run if point.lookup_s else None
    ratio = timed.median / point.predicted_s if timed and point.predicted_s else None
    left_out = f"left out: {_plain(point.reason)}" if point.status == "left_out" else "-"
    agrees = "agrees" if point.lookups == point.formula else "**differs**"
    return [
        *title,
        left_out if timed is None else _seconds(timed),
        "-" if published is None else f"{published:g} s",
        "-" if point.predicted_s is None else f"{point.predicted_s:.3g} s",
        "-" if ratio is None else f"{ratio:.2f}",
        f"{point.n_lookups:,}",
        ", ".join(f"{count:,} of {bits}" for bits, count in sorted(point.lookups.items())),
        f"{sum(point.formula.values()):,}, {agrees}",
        "-" if point.complexity is None else f"{point.complexity:.2e}",
        _quality(point, lambda quality: quality.correlation),
        _quality(point, lambda quality: quality.normalised_error),
        f"{sum(point.equal) / len(point.equal):.1%}" if point.equal else "-",
        {None: "-", True: "yes", False: "**no**"}[point.inside],
    ]


def _phases(results: AttentionResults) -> list[str]:
    measured = [point for point in _sorted(results) if point.lookup_s]
    if not measured:
        return []
    rows = []
    for point in measured:
        phases = {phase: point.summaries.get(phase) for phase in PHASES}
        calls = [point.summaries.get(CALLS)] if results.parameters.on_cluster else []
        rows.append(
            [
                TITLES[point.circuit],
                point.n,
                *(_seconds(s) if s else "-" for s in calls),
                *(_seconds(s) if s else "-" for name, s in phases.items() if name != "run"),
                _megabytes(point.evaluation_keys_bytes),
                f"{_megabytes(point.bootstrap_keys_bytes)}, "
                f"{_megabytes(point.keyswitch_keys_bytes)}",
                _megabytes(point.request_bytes),
                _megabytes(point.response_bytes),
                _megabytes(point.peak_memory_bytes),
                _lookup_times(point.lookup_s),
            ]
        )
    circuit, n, *phase_columns = PHASE_COLUMNS
    added = ["calls, added up"] if results.parameters.on_cluster else []
    return markdown_table([circuit, n, *added, *phase_columns], rows)


def _growth(results: AttentionResults) -> list[str]:
    lines = []
    for title, fits in (("run time", results.growth), ("lookups", results.lookup_growth)):
        parts = []
        for circuit, fit in fits.items():
            interval = "" if fit.low is None else f" ({fit.low:.2f} to {fit.high:.2f})"
            parts.append(f"{TITLES[circuit]} {fit.exponent:.2f}{interval}")
        if parts:
            lines.append(
                f"Growth of {title}, exponent of n with its 95% interval: {'; '.join(parts)}."
            )
    return lines


def _write_csv(results: AttentionResults, path: Path) -> None:
    names = [name for name in AttentionPoint.model_fields if name not in ("summaries", "seconds")]
    names = [name for name in names if name not in ("h", "expected", "equal", "fleet")]
    phases = (*PHASES, CALLS) if results.parameters.on_cluster else PHASES
    timings = [
        f"{phase}_{part}" for phase in phases for part in ("median_s", "low_s", "high_s", "n")
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*names, *timings])
        for point in _sorted(results):
            content = point.model_dump(mode="json")
            writer.writerow([*(content[name] for name in names), *_timings(point, phases)])


def _timings(point: AttentionPoint, phases: Sequence[str]) -> list[float | None]:
    cells: list[float | None] = []
    for phase in phases:
        s = point.summaries.get(phase)
        cells += [s.median, s.low, s.high, s.repetitions] if s else [None] * 4
    return cells


def _sorted(results: AttentionResults) -> list[AttentionPoint]:
    order = results.parameters.circuits
    return sorted(results.points, key=lambda point: (order.index(point.circuit), point.n))


def _quality(point: AttentionPoint, read: Callable[[Quality], float]) -> str:
    model = "-" if point.model_quality is None else f"{read(point.model_quality):.3f}"
    return model if point.quality is None else f"{model} ({read(point.quality):.3f})"


def _plain(reason: str) -> str:
    return " ".join(reason.replace("|", "/").split())


def _seconds(s: Summary) -> str:
    return f"{s.median:.3g} s ({s.low:.3g}-{s.high:.3g}, {s.repetitions} times)"


def _megabytes(n_bytes: int | None) -> str:
    if n_bytes is None:
        return "-"
    return f"{n_bytes / 1e6:.3g} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:.3g} kB"


def _lookup_times(lookup_s: Mapping[int, float]) -> str:
    return ", ".join(f"{bits} bits {1e3 * s:.3g} ms" for bits, s in sorted(lookup_s.items()))
