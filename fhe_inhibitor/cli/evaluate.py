"""The command `fhe-inhibitor evaluate`: accuracy of integers, encrypted runs and float models."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from fhe_inhibitor.cli.options import (
    JsonOption,
    ModelOption,
    ModeOption,
    TokensOption,
    passphrase_in_environment,
    print_json,
)
from fhe_inhibitor.cli.worker import in_worker
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import DEFAULT_MODEL, IntegerModel
from fhe_inhibitor.system.extras import needs
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.text.data import LabelledText, read_tsv


def evaluate(
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.tsv", help="Labelled texts; with --task also a folder, or the hub."
        ),
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
    task: Annotated[
        str | None,
        typer.Option(help="Measure a float model by this task's metric: sst2, cola, rte, ..."),
    ] = None,
    mode: ModeOption = "disable",
    rounding_noise: Annotated[
        bool, typer.Option(help="In mode disable, draw the noise of encrypted rounding.")
    ] = True,
    draws: Annotated[int, typer.Option(min=1, help="Passes over the texts, a seed each.")] = 3,
    limit: Annotated[int | None, typer.Option(min=1, help="Read only the first texts.")] = None,
    tokens: TokensOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure accuracy over labelled texts; encrypted, also agreement with the integer model."""
    from fhe_inhibitor.cli.view import Display, print_evaluation

    if task is not None:
        if mode != "disable" or tokens is not None:
            raise InputError(
                "--task measures a float model, in the clear and on all tokens: "
                "drop --mode and --tokens"
            )
        _evaluate_task(task, data, model, limit, as_json)
        return
    if data is None:
        raise InputError("no data: pass --data FILE.tsv, or --task for a float model")
    with Display() as display:
        if mode == "disable":
            integers = EvaluateIntegers(data, model, tokens, limit, draws if rounding_noise else 0)
            done = integers.run(display)
        else:
            done = in_worker(EvaluateEncrypted(data, model, mode, tokens, limit), display)
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
    n_draws: int

    def run(self, observer: Observer) -> dict[str, Any]:
        """Return the accuracy, and whether noise was drawn."""
        from fhe_inhibitor.integer import evaluation

        model, rows = _load(self.model, self.data, self.limit)
        accuracy = evaluation.evaluate(model, rows, self.max_tokens, self.n_draws, observer)
        return {"accuracy": asdict(accuracy), "rounding_noise": self.n_draws > 0}


@dataclass(frozen=True)
class EvaluateEncrypted:
    """Measures encrypted, or simulated, classification."""

    data: Path
    model: str
    mode: str
    max_tokens: int | None
    limit: int | None

    def run(self, observer: Observer) -> dict[str, Any]:
        """Return accuracy, agreement with the integer model, and times."""
        from compile.local.evaluation import evaluate_encrypted
        from compile.local.session import Session

        model, rows = _load(self.model, self.data, self.limit)
        passphrase = passphrase_in_environment()
        with Session(model, self.mode, observer=observer, passphrase=passphrase) as session:
            return asdict(evaluate_encrypted(session, rows, self.max_tokens))


def _evaluate_task(
    name: str, data: Path | None, model: str, limit: int | None, as_json: bool
) -> None:
    from fhe_inhibitor.cli.distill import print_rows

    rows = _measure_task(name, data, model, limit)
    if as_json:
        print_json({"model": model, "task": name, "rows": rows})
    else:
        print_rows(rows)


def _measure_task(
    name: str, data: Path | None, model: str, limit: int | None
) -> list[dict[str, Any]]:
    """Measure a float model by a task's metrics on a file, or on its development sets."""
    # Here, because the other commands can spare torch.
    with needs("train"):
        from fhe_inhibitor.cli.distill import silence_transformers
        from fhe_inhibitor.text.tasks import TRAIN, find_task, load_task, read_examples
        from fhe_inhibitor.training.rows import encode_examples, load_classifier, measure_rows

    silence_transformers()
    task = find_task(name)
    if data is not None and data.is_file():
        splits = {data.name: read_examples(task, data)}
    else:
        splits = load_task(task, data)
    classifier, tokenizer = load_classifier(model, task)
    return [
        {"recipe": model, "task": name, "split": split, "metric": metric, "value": value}
        for split, examples in splits.items()
        if split != TRAIN
        for metric, value in measure_rows(
            classifier, task, encode_examples(tokenizer, examples[:limit])
        ).items()
    ]


def _load(model: str, data: Path, limit: int | None) -> tuple[IntegerModel, list[LabelledText]]:
    loaded = IntegerModel.load(model)
    return loaded, read_tsv(data, len(loaded.labels))[:limit]
