"""What the command line shows: live progress on stderr, results and tables on stdout.

Progress counts finished tasks of the server, each weighted by its lookups, so that the remaining
time follows from work done and not from a clock.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from textwrap import shorten
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from fhe_inhibitor.runtime.classifier import Classification, DocumentClassification
from fhe_inhibitor.runtime.costs import SessionCost, StageCost, total, total_by_name
from fhe_inhibitor.system.diagnosis import Finding
from fhe_inhibitor.system.pages import decimal_size
from fhe_inhibitor.system.progress import Observer, printable, remaining_s

if TYPE_CHECKING:
    from compile.building.page import Built

# Text as it is: a server's label may look like rich's markup.
STATE_STYLES = {"ok": "green", "warning": "yellow", "failure": "bold red"}
BEGINNING = 100  # characters of a long text that are shown
PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}


class Display(Observer):
    """A progress line on stderr while it is entered; notes are printed above it.

    Only a terminal gets the line, anything else the notes alone, as a terminal does if `quiet`.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(**PLAIN, stderr=True, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            _DoneColumn(),
            TimeElapsedColumn(),
            _RemainingColumn(),
            console=self._console,
            transient=True,
            disable=quiet or not self._console.is_terminal,
        )
        self._task = self._progress.add_task("loading", total=None, unit="", began=0.0, last=0.0)

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def note(self, message: str) -> None:
        self._console.print(f"note: {printable(message)}")

    def plan(self, amount: int, unit: str) -> None:
        now = time.monotonic()
        self._progress.update(self._task, total=amount, completed=0, unit=unit, began=now, last=now)

    def begin(self, step: str) -> None:
        self._progress.update(self._task, description=printable(step), refresh=True)

    def finish(self, amount: int) -> None:
        self._progress.update(self._task, advance=amount, last=time.monotonic())


class Page(Console):
    """What goes to stdout. Whoever read it may be gone: that is for `main` to say."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class _DoneColumn(ProgressColumn):
    """Finished and planned units."""

    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text("")
        return Text(f"{task.completed:,.0f} of {task.total:,.0f} {task.fields['unit']}")


class _RemainingColumn(ProgressColumn):
    """Time left at the rate of the finished work; nothing before any is finished."""

    def render(self, task: Task) -> Text:
        began, last = task.fields["began"], task.fields["last"]
        left = remaining_s(task.completed, task.total or 0, began, last, time.monotonic())
        return Text("" if left is None else f"about {left:.0f} s left")


def print_classifications(
    results: Sequence[Classification], labels: Sequence[str], cost: SessionCost
) -> None:
    """Print each text's label, probability and logits, then what all of it cost."""
    console = Page(**PLAIN)
    for result in results:
        _print_classification(console, result, labels)
    if any(result.stages for result in results):
        _print_stages(console, cost, results)
        _print_sizes(console, cost, results)
    if cost.lookup_s:
        _print_prediction(console, cost.lookup_s, results)


def print_built(built: Built, out: Path) -> None:
    """Print what came of a build: texts, accuracies, costs, and what to be warned of."""
    from compile.building.page import accuracies, costs, warnings

    console = Page(**PLAIN, soft_wrap=True)
    prepared = built.prepared
    texts = Table("class", box=None, padding=(0, 2, 0, 0))
    for column in ("to train on", "to measure on"):
        texts.add_column(column, justify="right")
    counts = zip(prepared.labels, prepared.train, prepared.validation, strict=True)
    for label, train, validation in counts:
        texts.add_row(printable(label), f"{train:,}", f"{validation:,}")
    console.print(texts)
    table = Table("", box=None, padding=(0, 2, 0, 0))
    for column in ("accuracy", "95% interval", "texts"):
        table.add_column(column, justify="right")
    for what, share in accuracies(built):
        interval = f"{share.low:.1%} to {share.high:.1%}"
        table.add_row(what, f"{share.value:.1%}", interval, f"{share.n:,}")
    console.print(table)
    for line in costs(built):
        console.print(line)
    for line in warnings(built):
        console.print(Text(f"warning: {printable(line)}", style=STATE_STYLES["warning"]))
    console.print(f"classify with it: fhe-inhibitor classify --model {out} TEXT")


def print_keys(rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Print keys, as `keys list --json` names their columns."""
    console = Page(**PLAIN)
    if not rows:
        console.print(Text(f"no keys in {folder}"))
        return
    table = Table("keys", "model", "made", "passphrase", "size", box=None, padding=(0, 2, 0, 0))
    for row in rows:
        made = datetime.fromisoformat(row["created"]).astimezone().strftime("%Y-%m-%d %H:%M")
        locked = "yes" if row["locked"] else "no"
        model = printable(row["model"])
        table.add_row(row["circuits_hash"][:12], model, made, locked, decimal_size(row["bytes"]))
    console.print(table)


def print_keys_there(rows: Sequence[Mapping[str, Any]], server: str) -> None:
    """Print evaluation keys on a server, as `keys list --server --json` names their columns."""
    console = Page(**PLAIN)
    if not rows:
        console.print(Text(f"no keys of yours on {server}"))
        return
    columns = ("SHA-256", "circuits", "announced", "size", "complete", "kept until", "here")
    table = Table(*columns, box=None, padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(
            row["sha256"][:12],
            row["circuits_hash"][:12],
            f"{datetime.fromtimestamp(row['created_at']):%Y-%m-%d}",
            decimal_size(row["size"]),
            "yes" if row["complete"] else f"no, {decimal_size(row['received'])}",
            f"{datetime.fromtimestamp(row['expires_at']):%Y-%m-%d}",
            "yes" if row["here"] else "no",
        )
    console.print(table)


def print_findings(findings: Sequence[Finding]) -> None:
    """Print what `doctor` found, and below it what to do."""
    console = Page(**PLAIN, soft_wrap=True)
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        state = Text(f"{finding.state:8}", style=STATE_STYLES[finding.state])
        name = f"{finding.name:{width}}"
        console.print(Text.assemble(state, f" {name}  {printable(finding.found)}"))
        if finding.remedy:
            console.print(Text(f"{'':9}{'':{width}}  {printable(finding.remedy)}", style="italic"))


def print_evaluation(result: dict[str, Any]) -> None:
    """Print the figures of an evaluation, as `evaluate --json` names them."""
    console = Page(**PLAIN)
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_row("model", result["model"])
    table.add_row("data", f"{result['data']}, {result['accuracy']['n_texts']} texts")
    noise = {True: ", rounding noise drawn", False: ", exact rounding", None: ""}
    table.add_row("mode", result["mode"] + noise[result.get("rounding_noise")])
    table.add_row("accuracy", _accuracy(result["accuracy"]))
    if agreement := result.get("agreement"):
        table.add_row("integer model", _accuracy(result["integer_accuracy"]))
        table.add_row("labels equal", f"{agreement['n_equal_labels']} of {agreement['n_texts']}")
        table.add_row(
            "largest logit difference",
            f"{agreement['max_difference']} integer steps, "
            f"{agreement['relative_difference']:.2f} of the mean margin",
        )
        if result["seconds_per_text"] is not None:
            table.add_row(
                "seconds per text",
                f"{result['seconds_per_text']:.2f}, at most {result['max_seconds']:.2f}",
            )
    if "out" in result:
        table.add_row("each text's logits", result["out"])
    console.print(table)


def _accuracy(accuracy: dict[str, Any]) -> str:
    text = f"{accuracy['value']:.2%}, standard error {accuracy['standard_error']:.2%}"
    if accuracy["n_draws"] > 1:
        text += f", over {accuracy['n_draws']} draws +-{accuracy['draws_std']:.2%}"
    return text


def _print_classification(console: Console, result: Classification, labels: Sequence[str]) -> None:
    long = isinstance(result, DocumentClassification)
    text = shorten(result.text, BEGINNING, placeholder=" ...") if long else result.text
    console.print(Text(printable(" ".join(text.split()))))
    label = printable(result.label)
    console.print(f"  {label}, probability {result.probability:.3f}", style="bold")
    read = f"  read {len(result.tokens)} of {result.n_tokens} tokens"
    if isinstance(result, DocumentClassification):
        console.print(f"{read}, {len(result.pieces)} of {result.n_pieces} pieces")
        console.print(f"  {_describe_mean(result, labels)}")
    else:
        tokens = Text(printable(" ".join(result.tokens)), style="italic")
        console.print(Text(f"{read}: ") + tokens)
    table = Table("  logits", box=None, padding=(0, 2, 0, 0))
    logits = {"encrypted": result.logits, "clear": result.clear_logits}
    if result.clear_logits is None:
        del logits["clear"]
    for column in (*logits, *(f"{name} steps" for name in logits)):
        table.add_column(column, justify="right")
    for index, label in enumerate(labels):
        steps = [None if x is None else x[index] for x in logits.values()]
        table.add_row(
            f"  {printable(label)}",
            *("-" if x is None else f"{x * result.logit_scale:+.3f}" for x in steps),
            *("-" if x is None else str(x) for x in steps),
        )
    console.print(table)
    console.print()


def _describe_mean(result: DocumentClassification, labels: Sequence[str]) -> str:
    """Return the logits that say the label: those below are sums."""
    sums = result.clear_logits if result.logits is None else result.logits
    assert sums is not None
    offset = result.offset or (0.0,) * len(sums)
    means = [(x - o) / len(result.pieces) for x, o in zip(sums, offset, strict=True)]
    listed = (
        f"{printable(label)} {mean * result.logit_scale:+.3f}"
        for label, mean in zip(labels, means, strict=True)
    )
    return f"mean of a piece, less neutral logits: {', '.join(listed)}"


def _print_stages(console: Console, cost: SessionCost, results: Sequence[Classification]) -> None:
    """Time and lookups of each stage, summed over the texts."""
    stages = [*cost.setup, *total_by_name(cost for result in results for cost in result.stages)]
    widths = sorted({bits for stage in stages for bits in stage.lookups})
    table = Table(title=f"sum over {len(results)} texts" if len(results) > 1 else None)
    table.add_column("stage")
    for column in ("seconds", "lookups", *(f"{bits}-bit" for bits in widths)):
        table.add_column(column, justify="right")
    for stage in stages:
        table.add_row(*_cells(stage, widths))
    table.add_section()
    table.add_row(*_cells(total("total", stages), widths))
    console.print(table)


def _print_sizes(console: Console, cost: SessionCost, results: Sequence[Classification]) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, n_bytes in (
        ("sent: encrypted text", sum(result.request_bytes for result in results)),
        ("sent once: evaluation keys", cost.evaluation_keys_bytes),
        ("received: encrypted logits", sum(result.response_bytes for result in results)),
        ("peak memory", cost.peak_memory_bytes),
    ):
        table.add_row(name, decimal_size(n_bytes))
    console.print(table)


def _print_prediction(
    console: Console, lookup_s: Mapping[int, float], results: Sequence[Classification]
) -> None:
    """Lookups times the time of one, beside the time that the server took."""
    stages = [stage for result in results for stage in result.stages if stage.lookups]
    taken = total("server", stages)
    predicted = sum(count * lookup_s[bits] for bits, count in taken.lookups.items())
    times = ", ".join(f"{bits}-bit {seconds * 1e3:.2f} ms" for bits, seconds in lookup_s.items())
    console.print(f"one lookup: {times}")
    console.print(
        f"lookups times that: {predicted:.2f} s; the server took {taken.seconds:.2f} s, "
        f"{taken.seconds / predicted:.2f} times as long"
    )


def _cells(stage: StageCost, widths: Sequence[int]) -> list[str]:
    counts = [stage.lookups.get(bits, 0) for bits in widths]
    return [
        printable(stage.name),
        f"{stage.seconds:.2f}",
        *(f"{count:,}" if count else "" for count in (sum(counts), *counts)),
    ]
