"""Sections that compare: accuracy of the same texts in several ways, and what others published."""

from __future__ import annotations

from compile.evaluation.analysis import DECRYPTED, DRAWN, FLOAT, INTEGERS
from compile.paper.cells import missing, number, percent, seconds, words
from compile.paper.inputs import DecryptedEvaluation, Inputs
from compile.paper.records import Plot, Row, Section, Table
from compile.paper.runs import summary_of
from compile.paper.sources import EVALUATE, REPORT, TRAIN, decrypted_name, peer_name
from fhe_inhibitor.system.statistics import share

UNSTATED = words("not stated")


def accuracy_section(inputs: Inputs) -> Section:
    """Return accuracies with their intervals; what was not measured, and what would measure it."""
    rows = [_integer_row(inputs)]
    if not inputs.evaluations:
        rows.append(_missing_row("decrypted", decrypted_name(0)))
    for index, evaluation in enumerate(inputs.evaluations):
        rows.extend(_decrypted_rows(evaluation, decrypted_name(index)))
    for row in inputs.trained.rows if inputs.trained else ():
        cells = words(row.name), percent(row.accuracy), number(row.accuracy.n), words(row.data)
        rows.append(Row(cells=cells, source=TRAIN))
    plots = tuple(
        Plot(
            name=evaluation_plot(index),
            caption=f"Accuracy over the same {evaluation.analysis.n_texts} texts of "
            f"{evaluation.header.data}, {evaluation.header.max_tokens} tokens read, with 95% "
            "intervals.",
        )
        for index, evaluation in enumerate(inputs.evaluations)
    )
    return Section(
        title="Accuracy",
        text=(
            "Intervals are Wilson's, of confidence 95%: what other texts of the same kind would "
            "change. Rows of one file are of the same texts, so their differences are surer than "
            "the intervals suggest.",
        ),
        tables=(Table(head=("logits", "right labels", "texts", "data"), rows=tuple(rows)),),
        plots=plots,
    )


def peers_section(inputs: Inputs) -> Section:
    """Return this model's seconds, and below them those of others."""
    measured = inputs.measured
    total = summary_of(measured.sentences, lambda run: run.seconds)
    ours = (
        words(f"this model, {inputs.model}"), words("TFHE, Concrete"), words("see Accuracy"),
        number(measured.n_positions), words(_hardware(inputs)), seconds(total.median),
        words("see Accuracy"), words(""),
    )  # fmt: skip
    rows = [Row(cells=ours, source=REPORT)]
    for index, peer in enumerate(inputs.peers):
        cells = (
            words(f"{peer.name}: {peer.model}"),
            words(peer.scheme),
            words(peer.task),
            UNSTATED if peer.tokens is None else number(peer.tokens),
            words(peer.hardware),
            seconds(peer.seconds),
            UNSTATED if peer.accuracy is None else number(peer.accuracy, f"{peer.accuracy:g}%"),
            words(peer.not_comparable),
        )
        rows.append(Row(cells=cells, source=peer_name(index)))
    head = (
        "what", "scheme", "task", "tokens", "hardware", "seconds", "accuracy", "not comparable",
    )  # fmt: skip
    return Section(
        title="What others published",
        text=(
            "Seconds of different machines, models and tasks can't be divided by each other. The "
            "last column says what differs.",
        ),
        tables=(Table(head=head, rows=tuple(rows)),),
        plots=(
            Plot(
                name="peers",
                caption="Seconds of one input; filled: measured here; hollow: of others, on other "
                "machines, models or tasks.",
            ),
        ),
    )


def evaluation_plot(index: int) -> str:
    """Return the name of the plot of an evaluation's accuracy, counted from 0."""
    return "accuracy" if index == 0 else f"accuracy-{index + 1}"


def _integer_row(inputs: Inputs) -> Row:
    if inputs.accuracy is None:
        return _missing_row("integer model, noise drawn", EVALUATE)
    found = inputs.accuracy.accuracy
    cells = (
        words(f"integer model, noise drawn {found.n_draws} times"),
        percent(share(found.value * found.n_texts, found.n_texts)),
        number(found.n_texts),
        words(inputs.accuracy.data),
    )
    return Row(cells=cells, source=EVALUATE)


def _missing_row(name: str, source: str) -> Row:
    return Row(cells=(words(name), missing(), words(""), words("")), source=source)


def _decrypted_rows(evaluation: DecryptedEvaluation, source: str) -> list[Row]:
    found, header = evaluation.analysis, evaluation.header
    names = {DECRYPTED: "decrypted", INTEGERS: "integer model, exact", FLOAT: "float student"}
    names[DRAWN] = f"integer model, noise drawn {header.n_draws} times"
    data = words(f"{header.data}, {found.n_texts} of {header.n_texts} texts")
    rows = [
        Row(cells=(words(names[name]), percent(of), number(of.n), data), source=source)
        for name, of in found.accuracy.items()
    ]
    changed = found.changes.total
    cells = words("labels that encryption changed"), number(changed), number(found.n_texts), data
    return [*rows, Row(cells=cells, source=source)]


def _hardware(inputs: Inputs) -> str:
    machine = inputs.machine
    return f"{machine.cores} cores of an {machine.processor}, {machine.memory_gb} GB"
