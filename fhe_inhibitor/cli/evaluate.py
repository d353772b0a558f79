"""The command `fhe-inhibitor evaluate`: accuracy of integers, encrypted runs and float models."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fhe_inhibitor.cli.options import (
    InsecureClusterOption,
    JsonOption,
    LabelsOption,
    LongOption,
    MaxPiecesOption,
    ModelOption,
    ModeOption,
    QuietOption,
    SchedulerOption,
    SharedOption,
    SplitOption,
    TokensOption,
    cluster_asked,
    passphrase_in_environment,
    pieces_asked,
    print_json,
)
from fhe_inhibitor.cli.worker import in_worker
from fhe_inhibitor.cluster.options import Cluster
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import DEFAULT_MODEL, IntegerModel
from fhe_inhibitor.system.extras import needs
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.text.data import LabelledText, read_tsv

if TYPE_CHECKING:
    from fhe_inhibitor.text.tasks import Task

DRAWS, KEPT_DRAWS = 3, 16


def evaluate(
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.tsv",
            help="Labelled texts; with --task or --labels also a folder, with --task the hub.",
        ),
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
    task: Annotated[
        str | None,
        typer.Option(help="Measure a float model by this task's metric: sst2, cola, rte, ..."),
    ] = None,
    labels: LabelsOption = None,
    mode: ModeOption = "disable",
    rounding_noise: Annotated[
        bool, typer.Option(help="In mode disable, draw the noise of encrypted rounding.")
    ] = True,
    draws: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How often noise is drawn for each text; 3, with --out 16.",
            show_default=False,
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Read only the first texts.")] = None,
    tokens: TokensOption = None,
    long: LongOption = False,
    max_pieces: MaxPiecesOption = None,
    skip_invalid: Annotated[
        bool, typer.Option(help="Leave out lines that can't be read, and name them.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl", help="Keep each text's logits here; goes on with what is missing."
        ),
    ] = None,
    timed: Annotated[
        bool, typer.Option("--timed", help="With --out: the machine is quiet, so times count.")
    ] = False,
    split: SplitOption = 1,
    scheduler: SchedulerOption = None,
    insecure_cluster: InsecureClusterOption = False,
    shared: SharedOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure accuracy over labelled texts; encrypted, also agreement with the integer model.

    With --out each text's logits are kept as soon as they are decrypted, and a run that was stopped
    goes on. `evaluate-report` makes a page of such files.
    """
    from fhe_inhibitor.cli.view import Display, print_evaluation

    if task is not None or labels is not None:
        given = "--labels" if task is None else "--task"
        if mode != "disable" or tokens is not None or out is not None or long or scheduler:
            raise InputError(
                f"{given} measures a float model, in the clear and on all tokens: "
                "drop --mode, --tokens, --long, --out and --scheduler"
            )
        _evaluate_task(_find_task(task, labels), data, model, limit, skip_invalid, as_json)
        return
    if split != 1 and mode == "disable":
        raise InputError("--split is of circuits: add --mode execute, or simulate")
    cluster = cluster_asked(scheduler, insecure_cluster, shared)
    if cluster is not None and mode != "execute":
        raise InputError("--scheduler runs ciphertexts: add --mode execute")
    if data is None:
        raise InputError("no data: pass --data FILE.tsv, or --task for a float model")
    pieces = pieces_asked(long, max_pieces)
    if timed and (out is None or mode != "execute"):
        raise InputError("--timed is said of an encrypted run that is kept: add --out FILE.jsonl")
    if draws is not None and not rounding_noise:
        raise InputError("--draws is of rounding noise: drop it, or --no-rounding-noise")
    n_draws = (draws or (DRAWS if out is None else KEPT_DRAWS)) if rounding_noise else 0
    with Display(quiet) as display:
        if out is not None:
            kept = EvaluateInto(
                data, model, tokens, limit, skip_invalid, mode, out, n_draws, timed, pieces,
                cluster, split,
            )  # fmt: skip
            waits = cluster is not None
            done = kept.run(display) if mode == "disable" else in_worker(kept, display, waits)
        elif mode == "disable":
            integers = EvaluateIntegers(data, model, tokens, limit, skip_invalid, n_draws, pieces)
            done = integers.run(display)
        else:
            encrypted = EvaluateEncrypted(
                data, model, mode, tokens, limit, skip_invalid, pieces, cluster, split
            )
            done = in_worker(encrypted, display, may_wait=cluster is not None)
    done = {"model": model, "data": str(data), "mode": mode, **done}
    if as_json:
        print_json(done)
    else:
        print_evaluation(done)


@dataclass(frozen=True)
class EvaluateIntegers:
    """Measures the integer model; n_draws 0 rounds exactly."""

    data: Path
    model: str
    max_tokens: int | None
    limit: int | None
    skip_invalid: bool
    n_draws: int
    max_pieces: int | None = None

    def run(self, observer: Observer) -> dict[str, Any]:
        """Return the accuracy, and whether noise was drawn."""
        from fhe_inhibitor.integer import evaluation

        model = IntegerModel.load(self.model)
        rows, left_out = _read(self, len(model.labels), observer)
        rows = rows[: self.limit]
        accuracy = evaluation.evaluate(
            model, rows, self.max_tokens, self.n_draws, observer, self.max_pieces
        )
        return {"accuracy": asdict(accuracy), "rounding_noise": self.n_draws > 0, **left_out}


@dataclass(frozen=True)
class EvaluateEncrypted:
    """Measures encrypted, or simulated, classification."""

    data: Path
    model: str
    mode: str
    max_tokens: int | None
    limit: int | None
    skip_invalid: bool
    max_pieces: int | None = None
    cluster: Cluster | None = None
    split: int = 1

    def run(self, observer: Observer) -> dict[str, Any]:
        """Return accuracy, agreement with the integer model, and times."""
        from compile.evaluation.run import evaluate_encrypted
        from compile.local.session import Session

        model = IntegerModel.load(self.model)
        rows, left_out = _read(self, len(model.labels), observer)
        rows = rows[: self.limit]
        passphrase = passphrase_in_environment()
        with Session(
            model,
            self.mode,
            observer=observer,
            passphrase=passphrase,
            cluster=self.cluster,
            split=self.split,
        ) as session:
            done = evaluate_encrypted(session, rows, self.max_tokens, self.max_pieces)
            return {**asdict(done), **left_out}


@dataclass(frozen=True)
class EvaluateInto:
    """Measures in any mode, and keeps each text's logits in the file `out`.

    n_draws: of rounding noise, for each text. timed: whether the machine is quiet. max_pieces: as
    in `Asked`.
    """

    data: Path
    model: str
    max_tokens: int | None
    limit: int | None
    skip_invalid: bool
    mode: str
    out: Path
    n_draws: int
    timed: bool
    max_pieces: int | None
    cluster: Cluster | None = None
    split: int = 1

    def run(self, observer: Observer) -> dict[str, Any]:
        """Return what the file says of the texts that were asked for, old and new."""
        from compile.evaluation.run import Asked, evaluate_into, summarize
        from compile.local.session import Session

        with suppress(ImportError):
            from fhe_inhibitor.cli.distill import silence_transformers

            silence_transformers()
        model = IntegerModel.load(self.model)
        rows, left_out = _read(self, len(model.labels), observer)
        how = self.max_tokens, self.n_draws, self.timed, self.max_pieces
        asked = Asked(self.data, len(rows), self.model, *how)
        rows = rows[: self.limit]
        passphrase = passphrase_in_environment()
        with Session(
            model,
            self.mode,
            observer=observer,
            passphrase=passphrase,
            benchmark=self.timed,
            cluster=self.cluster,
            split=self.split,
        ) as session:
            found = evaluate_into(self.out, session, rows, asked, observer)
        return {"out": str(self.out), **summarize(found, rows), **left_out}


class Skipped:
    """Collects what is wrong with the lines that are left out; nothing if they are not to be."""

    def __init__(self, wanted: bool) -> None:
        self.reasons: list[str] = []
        self.on_invalid = (lambda error: self.reasons.append(str(error))) if wanted else None

    def tell(self, observer: Observer) -> dict[str, Any]:
        """Tell of each line; return them for the results, if they were asked for."""
        for reason in self.reasons:
            observer.note(f"left out: {reason}")
        if self.reasons:
            observer.note(f"{len(self.reasons)} lines were left out")
        return {} if self.on_invalid is None else {"left_out": self.reasons}


def _find_task(name: str | None, labels: str | None) -> Task:
    """Return the task of that name, or the one of texts with these labels."""
    from fhe_inhibitor.text.tasks import find_task, own_task

    if name is not None and labels is not None:
        raise InputError(f"the task {name} has labels of its own: drop --labels, or --task")
    return find_task(name) if name is not None else own_task((labels or "").split(","))


def _evaluate_task(
    task: Task,
    data: Path | None,
    model: str,
    limit: int | None,
    skip_invalid: bool,
    as_json: bool,
) -> None:
    from fhe_inhibitor.cli.distill import print_rows
    from fhe_inhibitor.cli.view import Display

    skipped = Skipped(skip_invalid)
    rows = _measure_task(task, data, model, limit, skipped)
    left_out = skipped.tell(Display())
    if as_json:
        print_json({"model": model, "task": task.name, "rows": rows, **left_out})
    else:
        print_rows(rows)


def _measure_task(
    task: Task, data: Path | None, model: str, limit: int | None, skipped: Skipped
) -> list[dict[str, Any]]:
    """Measure a float model by a task's metrics on a file, or on its development sets."""
    # Here, because the other commands can spare torch.
    with needs("train"):
        from fhe_inhibitor.cli.distill import silence_transformers
        from fhe_inhibitor.text.tasks import TRAIN, load_task, read_examples
        from fhe_inhibitor.training.rows import encode_examples, load_classifier, measure_rows

    silence_transformers()
    if data is not None and data.is_file():
        splits = {data.name: read_examples(task, data, skipped.on_invalid)}
    else:
        splits = load_task(task, data, skipped.on_invalid)
    for split, examples in splits.items():
        if not examples:
            raise InputError(f"{split}: no line can be read; {skipped.reasons[0]}")
    classifier, tokenizer = load_classifier(model, task)
    return [
        {"recipe": model, "task": task.name, "split": split, "metric": metric, "value": value}
        for split, examples in splits.items()
        if split != TRAIN
        for metric, value in measure_rows(
            classifier, task, encode_examples(tokenizer, examples[:limit])
        ).items()
    ]


def _read(
    asked: EvaluateIntegers | EvaluateEncrypted | EvaluateInto, n_labels: int, observer: Observer
) -> tuple[list[LabelledText], dict[str, Any]]:
    """Return all texts of the file, and what is to be said of lines that were left out."""
    skipped = Skipped(asked.skip_invalid)
    rows = read_tsv(asked.data, n_labels, skipped.on_invalid)
    if not rows:
        raise InputError(f"{asked.data}: no line can be read; {skipped.reasons[0]}")
    return rows, skipped.tell(observer)
