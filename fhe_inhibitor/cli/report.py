"""The command `fhe-inhibitor report`: a page of figures for a paper, each with its command."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fhe_inhibitor.cli.compile import CompileCircuits
from fhe_inhibitor.cli.evaluate import DRAWS, EvaluateIntegers
from fhe_inhibitor.cli.options import (
    JsonOption,
    ModelOption,
    PErrorOption,
    QuietOption,
    TokensOption,
    print_now,
)
from fhe_inhibitor.cli.worker import in_worker
from fhe_inhibitor.integer.model import DEFAULT_MODEL, IntegerModel, checkpoint_folder
from fhe_inhibitor.system.extras import needs
from fhe_inhibitor.system.progress import Observer

if TYPE_CHECKING:
    from compile.paper.inputs import IntegerAccuracy
    from compile.paper.prices import ErrorPrice

# Longer than the shipped models read, so that it fills their circuits.
TEXT = (
    "a gripping , funny film that never loses its way , with a fine cast , a clever script and an "
    "ending that most other directors would not have dared to show"
)


def report(
    model: ModelOption = DEFAULT_MODEL,
    text: Annotated[
        str,
        typer.Option(help="What is classified; as long as the model reads, else it costs less."),
    ] = TEXT,
    tokens: TokensOption = None,
    repeat: Annotated[
        int, typer.Option(min=1, help="Encrypted classifications of it, with the same keys.")
    ] = 3,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE.tsv", help="Labelled texts, for the integer model's accuracy."),
    ] = None,
    draws: Annotated[
        int, typer.Option(min=1, help="With --data: how often rounding noise is drawn for a text.")
    ] = DRAWS,
    limit: Annotated[
        int | None, typer.Option(min=1, help="With --data: read only the first texts.")
    ] = None,
    evaluation: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE.jsonl", help="What evaluate --mode execute --out kept; repeat it."
        ),
    ] = None,
    time_lookups: Annotated[
        bool, typer.Option(help="Time one lookup of each width, to predict seconds of here.")
    ] = True,
    price: Annotated[
        str | None,
        typer.Option(metavar="'NUMBER CURRENCY'", help="Of one core for an hour: '0.05 EUR'."),
    ] = None,
    p_error: PErrorOption = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="Name of the data in the benchmarking suite's JSON; else the file's."),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of page, JSON and plots.")
    ] = Path("build/report"),
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure a model and write report.md, .html and .json, with plots for print.

    It compiles circuits, makes keys, and classifies one text encrypted, a few times, with client
    and worker in processes of their own; circuits and keys are dropped. Nothing else should run
    meanwhile. What takes hours comes from files of other commands. The JSON is also written in the
    form of the homomorphic-encryption benchmarking suite.
    """
    with needs("benchmark"):
        from compile.paper.page import write_report
    from compile.evaluation.run import PACKAGES
    from compile.local.p_error import with_p_error
    from compile.paper.inputs import Inputs, parse_price, read_compiled, read_decrypted
    from compile.paper.measure import measure
    from compile.paper.prices import predict
    from compile.paper.trained import read_trained
    from fhe_inhibitor.cli.view import Display
    from fhe_inhibitor.system.files import make_folder
    from fhe_inhibitor.system.machine import describe_machine

    machine = describe_machine(PACKAGES, in_children=True)  # before our own work adds to its load
    loaded = with_p_error(IntegerModel.load(model), p_error)
    read = loaded.tokenize(text, tokens)  # whatever is wrong is said before anything is compiled
    max_tokens, n = loaded.token_limit(tokens), len(loaded.encode(read)[0])
    core_price = None if price is None else parse_price(price)
    evaluations = tuple(read_decrypted(path, loaded.name, loaded.hash) for path in evaluation or ())
    make_folder(out)
    command = _command(
        {
            "--model": loaded.name,
            "--text": None if text == TEXT else text,
            "--tokens": tokens,
            "--repeat": repeat,
            "--data": data and data.name,
            "--draws": draws if data else None,
            "--limit": limit if data else None,
            **{f"--evaluation {shlex.quote(path.name)}": "" for path in evaluation or ()},
            "--no-time-lookups": None if time_lookups else "",
            "--price": price,
            "--p-error": p_error,
            "--dataset": dataset,
        }
    )
    with Display(quiet) as display, tempfile.TemporaryDirectory(prefix="fhe-inhibitor-") as folder:
        accuracy = None
        if data is not None:
            accuracy = _measure_accuracy(data, model, tokens, limit, draws, display)
        circuits = Path(folder, "circuits")
        compiled, errors = in_worker(CompileAndPrice(model, circuits, p_error, n), display)
        loaded.write_public(circuits)
        measured = measure(loaded, circuits, text, tokens, repeat, display, time_lookups)
        predictions = predict(errors, n, compiled, measured.lookup_s)
        inputs = Inputs(
            model=loaded.name,
            model_hash=loaded.hash,
            max_tokens=max_tokens,
            p_error=p_error,
            machine=machine,
            command=command,
            compiled=read_compiled(compiled),
            measured=measured,
            predictions=predictions,
            accuracy=accuracy,
            evaluations=evaluations,
            trained=read_trained(checkpoint_folder(model), max_tokens),
            price=core_price,
        )
        display.begin("write")
        written = write_report(inputs, dataset or (data.stem if data else "text"), out)
    print_now(written.model_dump_json(indent=1) if as_json else str(out / "report.md"))


@dataclass(frozen=True)
class CompileAndPrice:
    """Writes circuits to a new folder, and predicts what each probability of errors costs."""

    model: str
    out: Path
    p_error: str | None
    n: int

    def run(self, observer: Observer) -> tuple[str, tuple[ErrorPrice, ...]]:
        """Return the JSON of `compile`, and the prices at n tokens."""
        from compile.local.p_error import with_p_error
        from compile.paper.prices import price_errors

        report = CompileCircuits(self.model, None, self.out, False, self.p_error).run(observer)
        observer.begin("choose parameters")
        model = with_p_error(IntegerModel.load(self.model), self.p_error)
        return report.json, price_errors(model.network, model.buckets, self.n, model.p_error)


def _measure_accuracy(
    data: Path, model: str, tokens: int | None, limit: int | None, draws: int, observer: Observer
) -> IntegerAccuracy:
    from compile.paper.inputs import IntegerAccuracy
    from fhe_inhibitor.integer.evaluation import Accuracy

    found = EvaluateIntegers(data, model, tokens, limit, False, draws).run(observer)
    return IntegerAccuracy(data.name, limit, Accuracy(**found["accuracy"]))


def _command(given: Mapping[str, object]) -> str:
    """Return the command line, with names of files instead of where they are."""
    words = ["fhe-inhibitor report"]
    for option, value in given.items():
        if value is not None:
            words.append(f"{option} {shlex.quote(str(value))}" if value != "" else option)
    return " ".join(words)
