"""The page: from the teacher down to the encrypted student, and what each change is worth."""

from __future__ import annotations

from demos.ablation.results import ALL_TOKENS, TEACHER, WORDS, Measured, Results
from demos.ablation.trials import BASE, BASE_INTEGERS, TOKENS
from fhe_inhibitor.system.pages import markdown_table

SPLITS = ("validation", "held_out")
GROUPS = {
    "capacity": "Capacity: float students of other shapes",
    "texts": "Texts: the same float student learns from fewer",
    "steps": "Steps: longer training",
    "bits": "Bits: integers of other widths, from the same float student",
    "noise": "Noise: what integers are trained for; all are measured with the same noise",
}
COMPARED_WITH = {
    "bits": (BASE_INTEGERS,), "noise": (BASE_INTEGERS,), "steps": (BASE, BASE_INTEGERS)
}  # fmt: skip
HEAD = (
    "", "validation, %", "held out, %", "KL, validation", "KL, held out", "units"
)  # fmt: skip


def to_markdown(results: Results) -> str:
    """Return the page, all of whose figures are the results'."""
    machine = results.machine
    rows = results.rows
    lines = [
        f"# What limits a {results.size} student",
        "",
        "Made by `python -m demos.ablation --data FOLDER --sentences FILE"
        f"{'' if results.size == 'nano' else f' --size {results.size}'}`; no figure was "
        f"entered by hand. {machine.processor}, {machine.cores} cores, "
        f"torch {machine.versions.get('torch', '?')}, "
        f"commit {', '.join(_commits(results))}, {machine.date}.",
        "",
        f"Each row changes one thing of the size {results.size}. Float students learn for "
        f"{results.float_steps:,} steps, integers for {results.integer_steps:,} more from the "
        "float student of the size itself: shorter than `train`, so that rows are compared with "
        "each other and not with the shipped model. SST-2, 872 validation sentences and 1,000 "
        "held out from train. *KL* is the mean Kullback-Leibler divergence of the student from "
        "the teacher that read the whole text, in nats. It is the figure to compare by: an "
        "accuracy has a standard error of 1.2 points, a divergence tells rows apart that give "
        "the same labels. Integers are measured with the noise of encrypted rounding drawn "
        f"{results.draws} times. *Units* are the optimizer's complexity of one sentence at "
        f"{results.tokens} tokens, once quantized.",
        "",
        f"## From the teacher to the integers, at {results.tokens} tokens",
        "",
        *_table(_chain(results)),
        "",
        "## Tokens: the same readers, of more or fewer",
        "",
        *_tokens(results),
        "",
    ]
    for group, title in GROUPS.items():
        names = [name for name, row in rows.items() if row.group == group]
        compared = [name for name in COMPARED_WITH.get(group, (BASE,)) if name in rows]
        if names:
            lines += [f"## {title}", "", *_table(_at(results, [*compared, *names])), ""]
    return "\n".join(lines)


def _commits(results: Results) -> dict[str, None]:
    """Return the commits that measured the rows, the first one first."""
    return dict.fromkeys(row.commit or results.machine.commit for row in results.rows.values())


def _chain(results: Results) -> list[list[str]]:
    rows, n = results.rows, results.tokens
    lines = []
    if teacher := rows.get(TEACHER):
        lines += [
            _line("teacher, all tokens", teacher.measured[ALL_TOKENS], None),
            _line("teacher, the tokens that the student reads", teacher.measured[n], None),
        ]
    if base := rows.get(BASE):
        lines.append(_line("student, in float", base.measured[n], None))
    if integers := rows.get(BASE_INTEGERS):
        lines.append(_line("its integers, rounded exactly", integers.exact[n], None))
        lines.append(_line("with the noise of encryption", integers.measured[n], integers.units))
    if words := rows.get(WORDS):
        lines.append(_line("bag of words, no encrypted layer", words.measured[n], words.units))
    return lines


def _tokens(results: Results) -> list[str]:
    named = {TEACHER: "teacher", BASE: "student, in float", BASE_INTEGERS: "its integers"}
    rows = []
    for name, title in named.items():
        for split in SPLITS:
            if name in results.rows:
                of = results.rows[name].measured
                cells = (f"{_percent(of[n][split])} ({_kl(of[n][split])})" for n in TOKENS)
                rows.append([title, split.replace("_", " "), *cells])
    return markdown_table(["accuracy, % (KL)", "", *(f"{n} tokens" for n in TOKENS)], rows)


def _at(results: Results, names: list[str]) -> list[list[str]]:
    named = ((name, results.rows[name]) for name in names)
    return [_line(name, row.measured[results.tokens], row.units) for name, row in named]


def _line(name: str, measured: dict[str, Measured], units: float | None) -> list[str]:
    of = [measured[split] for split in SPLITS]
    cost = "" if units is None else f"{units:.2e}"
    return [name, *map(_percent, of), *map(_kl, of), cost]


def _table(rows: list[list[str]]) -> list[str]:
    return markdown_table(HEAD, rows)


def _percent(measured: Measured) -> str:
    return f"{100 * measured.accuracy.value:.1f}"


def _kl(measured: Measured) -> str:
    return f"{measured.divergence:.3f}"
