"""The page of evaluations, decrypted_accuracy.md, with its plots, and every logit as JSON."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compile.evaluation.analysis import (
    DECRYPTED,
    DRAWN,
    FLOAT,
    INTEGERS,
    Analysis,
    LengthTimes,
    Logits,
    Spread,
    analyse,
    sorted_records,
    stack,
)
from compile.evaluation.plots import margin_name, write_plots
from compile.evaluation.records import Evaluation, Header, Sitting, TextRecord, read_evaluation
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.files import write_atomically
from fhe_inhibitor.system.pages import markdown_table
from fhe_inhibitor.system.statistics import Share

NAME = "decrypted_accuracy"
HEAD = """# Accuracy that was decrypted

Made by `fhe-inhibitor evaluate-report` from what `fhe-inhibitor evaluate --out` kept of each text
as soon as its logits were there; no figure was entered by hand. Intervals are Wilson's, of
confidence 95%.

- *decrypted*: every layer ran on ciphertexts, and the logits were decrypted.
- *integers*: the integer model on the same tokens, in the clear, with exact rounding.
- *noise drawn*: the same with the noise of encrypted rounding drawn, a seed for each draw.
- *float student*: the checkpoint's float weights, without rounding and tables. They are as training
  in integers left them, so they are no upper bound for the integers.
"""
SIMULATED = (
    "**Simulated**: Concrete simulated the circuits, and nothing was encrypted. What is called "
    "decrypted here was simulated."
)


@dataclass(frozen=True)
class Run:
    """One file with its figures. slug: of its folder of plots."""

    slug: str
    header: Header
    found: Evaluation
    logits: Logits
    analysis: Analysis


def write_page(files: Sequence[Path], out: Path) -> Path:
    """Write decrypted_accuracy.md, its JSON and a folder of plots; return the page's path.

    files: of `evaluate --out`, a section each, in their order. Raises InputError for one that
    can't be read or has no decrypted logits, and for two evaluations of the same thing.
    """
    runs = _told_apart([_read(path) for path in files])
    for index, run in enumerate(runs):
        if run.slug in [other.slug for other in runs[:index]]:
            raise InputError(
                f"{files[index]} is a second evaluation of {run.header.model} on "
                f"{run.header.max_tokens} tokens of {run.header.data}: pass one of them"
            )
    for run in runs:
        figures = out / NAME / run.slug
        figures.mkdir(parents=True, exist_ok=True)
        write_plots(run.analysis, run.logits, run.header.labels, figures)
    write_atomically(out / f"{NAME}.json", _to_json(runs))
    page = out / f"{NAME}.md"
    write_atomically(page, to_markdown(runs))
    return page


def to_markdown(runs: Sequence[Run]) -> str:
    """Return the page: a table of all runs, then a section for each."""
    lines = [HEAD, *_overview(runs)]
    for run in runs:
        lines += ["", *_section(run)]
    return "\n".join([*lines, ""])


def _read(path: Path) -> Run:
    header, found = read_evaluation(path)
    analysis = analyse(header, found)
    parts = [header.model, Path(header.data).stem, str(header.max_tokens)]
    parts += ["simulated"] if header.mode == "simulate" else []
    slug = re.sub(r"[^a-z0-9-]+", "-", "-".join(parts).lower())
    return Run(slug, header, found, stack(header, found), analysis)


def _told_apart(runs: Sequence[Run]) -> list[Run]:
    """Return runs, whose slugs have digits of the data where their names alone are the same.

    A slug keeps letters of ASCII alone, so two sets of data may have the same.
    """
    counts = Counter(run.slug for run in runs)
    return [
        run
        if counts[run.slug] == 1
        else replace(run, slug=f"{run.slug}-{run.header.data_sha256[:8]}")
        for run in runs
    ]


def _overview(runs: Sequence[Run]) -> list[str]:
    head = [
        "model", "tokens", "texts", DECRYPTED, INTEGERS, DRAWN, FLOAT, "labels changed",
        "texts an hour",
    ]  # fmt: skip
    rows = []
    for run in runs:
        found = run.analysis
        cells = [_percent(found.accuracy.get(name)) for name in (DECRYPTED, INTEGERS, DRAWN, FLOAT)]
        changed = f"{found.changes.total} of {found.n_texts}"
        cells += [changed, f"{found.times.per_hour:,.0f}" if found.times else ""]
        rows.append([run.header.model, run.header.max_tokens, _texts(run), *cells])
    return markdown_table(head, rows)


def _section(run: Run) -> Iterator[str]:
    title = f"## {run.header.model}, {run.header.max_tokens} tokens"
    yield from [title, "", _about(run), ""]
    if run.header.mode == "simulate":
        yield from [SIMULATED, ""]
    yield from [f"    {_command(run)}", "", *_sittings(run), ""]
    yield from [*_accuracy(run), "", *_changes(run), "", *_differences(run), ""]
    yield from [*_calibration(run), "", *_times(run)]


def _about(run: Run) -> str:
    header = run.header
    circuits = f", circuits {header.circuits_hash[:12]}" if header.circuits_hash else ""
    return (
        f"{_texts(run)} texts of {header.data} (SHA-256 {header.data_sha256[:12]}), the "
        f"{header.max_tokens} most important tokens of each. Model {header.model_hash[:12]}"
        f"{circuits}, p_error {header.p_error:.2e} a lookup; {header.n_draws} draws of noise, of "
        f"standard deviation {header.noise_std:g} rounding steps. A logit's step is "
        f"{header.logit_scale:.4g}."
    )


def _texts(run: Run) -> str:
    n, of = run.analysis.n_texts, run.header.n_texts
    return f"all {n}" if n == of else f"{n} of {of}"


def _command(run: Run) -> str:
    header = run.header
    timed = " --timed" if any(sitting.timed for sitting in run.found.sittings) else ""
    noise = f"--draws {header.n_draws}" if header.n_draws else "--no-rounding-noise"
    return (
        f"fhe-inhibitor evaluate --mode {header.mode} --model {header.model} --data {header.data} "
        f"--tokens {header.max_tokens} {noise} --out FILE.jsonl{timed}"
    )


def _sittings(run: Run) -> list[str]:
    """Where and when the texts were done; sittings on the same machine and versions are one row."""
    rows: dict[str, list[int]] = {}
    counts = [0] * len(run.found.sittings)
    for record in run.found.texts.values():
        counts[record.sitting] += 1
    for sitting, n_texts in zip(run.found.sittings, counts, strict=True):
        row = rows.setdefault(_machine(sitting), [0, 0, 0])
        row[0] += n_texts
        row[1] += 1
        row[2] += n_texts if sitting.timed else 0
    table = [[machine, sittings, n, timed] for machine, (n, sittings, timed) in rows.items() if n]
    return markdown_table(["machine, versions, commit, date", "sittings", "texts", "timed"], table)


def _machine(sitting: Sitting) -> str:
    machine = sitting.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return f"{machine.hardware}; {versions}; commit {machine.commit}; {machine.date}"


def _accuracy(run: Run) -> list[str]:
    found, rows = run.analysis, []
    for name, accuracy in found.accuracy.items():
        about = ""
        if name == DRAWN:
            low, high = min(found.accuracy_of_draws), max(found.accuracy_of_draws)
            about = f"mean of {len(found.accuracy_of_draws)} draws, {low:.1%} to {high:.1%}"
        rows.append([name, f"{accuracy.value:.1%}", f"{accuracy.low:.1%} to {accuracy.high:.1%}"])
        rows[-1].append(about)
    return [
        "### Accuracy",
        "",
        *markdown_table(["logits", "accuracy", "95% interval", ""], rows),
        "",
        _image(run, "accuracy"),
    ]


def _changes(run: Run) -> list[str]:
    found, changes = run.analysis, run.analysis.changes
    p_value = (
        "" if changes.p_value is None else f" (McNemar's exact test: p = {changes.p_value:.2g})"
    )
    lines = [
        "### Labels that encryption changed",
        "",
        f"{changes.total} of {found.n_texts} labels are others than those of the exact integers; "
        f"from right to wrong {changes.right_to_wrong}, from wrong to right "
        f"{changes.wrong_to_right}{p_value}.",
    ]
    if changes.of_draws:
        mean = sum(changes.of_draws) / len(changes.of_draws)
        lines[-1] += (
            f" Drawn noise changes {mean:.1f} on average, {min(changes.of_draws)} to "
            f"{max(changes.of_draws)} in {len(changes.of_draws)} draws."
        )
    rows = [
        [
            margin_name(margin.low, margin.high),
            margin.changed.n,
            round(margin.changed.value * margin.changed.n),
            _percent(margin.changed),
            "" if margin.expected is None else f"{margin.expected:.1%}",
        ]
        for margin in found.margins
    ]
    head = ["margin, steps", "texts", "changed", "share", "noise drawn"]
    return [
        *lines,
        "The margin is the largest logit less the next one, of the exact integers.",
        "",
        *markdown_table(head, rows),
        "",
        _image(run, "margins"),
    ]


def _differences(run: Run) -> list[str]:
    rows = []
    for differences in run.analysis.differences:
        inside = _percent(differences.inside)
        rows.append([differences.label, DECRYPTED, *_cells(differences.decrypted), "", inside])
        if differences.drawn is not None:
            low, high = min(differences.stds_of_draws), max(differences.stds_of_draws)
            share = differences.inside_of_draws
            inside = "" if share is None else f"{share:.1%}"
            cells = [*_cells(differences.drawn), f"{low:.2f} to {high:.2f}", inside]
            rows.append([differences.label, DRAWN, *cells])
    head = [
        "label", "logits", "values", "mean", "standard deviation", "5% to 95%", "largest",
        "standard deviation, by draw", "inside",
    ]  # fmt: skip
    return [
        "### Logits against exact rounding",
        "",
        "Each logit less the exact integers' one, in integer steps. Inside: how many lie between "
        "the least and the largest of all draws but one, for the same text. For noise drawn, it is "
        "the draw left out that is looked for: if encryption is as noisy as what is drawn, both "
        "shares are equal but for chance.",
        "",
        *markdown_table(head, rows),
        "",
        _image(run, "differences"),
    ]


def _cells(spread: Spread) -> list[str]:
    return [
        f"{spread.n:,}",
        f"{spread.mean:+.2f}",
        f"{spread.std:.2f}",
        f"{spread.low:g} to {spread.high:g}",
        str(spread.largest),
    ]


def _calibration(run: Run) -> list[str]:
    calibration = run.analysis.calibration
    errors = [
        [name, f"{measured.error:.1%}", f"{measured.by_chance:.1%}"]
        for name, measured in calibration.items()
    ]
    bins = [
        [f"{b.low:.0%} to {b.high:.0%}", b.right.n, f"{b.confidence:.1%}", _percent(b.right)]
        for b in calibration[DECRYPTED].bins
    ]
    return [
        "### Calibration of the decrypted probabilities",
        "",
        "The expected calibration error is the mean distance between confidence and share of right "
        "labels, over bins of equal width. By chance: what probabilities that are exactly true "
        "would show over so many texts.",
        "",
        *markdown_table(["probabilities", "expected calibration error", "by chance"], errors),
        "",
        *markdown_table(["confidence", "texts", "mean confidence", "right"], bins),
        "",
        _image(run, "calibration"),
    ]


def _times(run: Run) -> list[str]:
    times = run.analysis.times
    if times is None:
        return [
            "### Time",
            "",
            "No times are told: of no sitting it was said, by `--timed`, that the machine had "
            "nothing else to do.",
        ]
    lengths = times.lengths
    stages = dict.fromkeys(name for length in lengths for name in length.stages)
    head = ["stage", *(f"{length.n_positions} positions" for length in lengths)]
    rows = [[name, *(_stage(length, name) for length in lengths)] for name in stages]
    rows.append(["**from encryption to logits**", *(_total(length) for length in lengths)])
    rows.append(["texts", *(str(length.seconds.repetitions) for length in lengths)])
    return [
        "### Time",
        "",
        f"{times.n_texts} texts, of sittings that were said to have the machine for themselves, "
        f"one after the other: **{times.per_hour:,.0f} texts an hour**. {_quiet(run)}"
        "Median seconds; in brackets the share of the mean, then the median's interval.",
        "",
        *markdown_table(head, rows),
        "",
        _image(run, "stages"),
    ]


def _stage(length: LengthTimes, name: str) -> str:
    if name not in length.stages:
        return ""
    share = length.means[name] / sum(length.means.values())
    return f"{length.stages[name].median:.3g} ({share:.0%})"


def _total(length: LengthTimes) -> str:
    seconds = length.seconds
    interval = f"{seconds.low:.3g} to {seconds.high:.3g}"
    return f"{seconds.median:.3g} ({interval}, confidence {seconds.confidence:.0%})"


def _quiet(run: Run) -> str:
    """Say how quiet the machine was when timed sittings began, and what one lookup took."""
    timed = [sitting for sitting in run.found.sittings if sitting.timed]
    loads = sorted({sitting.machine.load_average for sitting in timed})
    told = f"Load average when they began: {', '.join(f'{load:g}' for load in loads)}. "
    if lookup_s := timed[-1].lookup_s:
        times = ", ".join(f"{bits} bits {1e3 * s:.2f} ms" for bits, s in sorted(lookup_s.items()))
        told += f"One lookup, in the last of them: {times}. "
    return told


def _percent(share: Share | None) -> str:
    if share is None:
        return ""
    return f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})"


def _image(run: Run, plot: str) -> str:
    return f"![{plot} of {run.header.model}]({NAME}/{run.slug}/{plot}.png)"


def _to_json(runs: Sequence[Run]) -> str:
    """Return all figures, and a line for each text: index and logits, seconds where timed."""
    parts = []
    for run in runs:
        content = {
            "header": run.header.model_dump(mode="json"),
            "sittings": [sitting.model_dump(mode="json") for sitting in run.found.sittings],
            "analysis": run.analysis.model_dump(mode="json"),
        }
        texts = [
            json.dumps(_text(record, run.found.sittings[record.sitting].timed))
            for record in sorted_records(run.found)
        ]
        head = json.dumps(content, indent=1).removesuffix("\n}")
        parts.append(head + ',\n "texts": [\n  ' + ",\n  ".join(texts) + "\n ]\n}")
    return '{"runs": [\n' + ",\n".join(parts) + "\n]}\n"


def _text(record: TextRecord, timed: bool) -> dict[str, Any]:
    names = ["index", "label", "logits", "clear_logits", "drawn_logits", "float_logits"]
    names += ["n_tokens", "n_read", "n_positions"]
    names += ["stages", "seconds"] if timed else []
    return record.model_dump(mode="json", include=set(names))
