"""The command `fhe-inhibitor distill`: one experiment from options, a YAML or a JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from fhe_inhibitor.cli.options import (
    MAX_SEED,
    JsonOption,
    LabelsOption,
    QuietOption,
    print_now,
)
from fhe_inhibitor.cli.view import Page
from fhe_inhibitor.system.extras import needs


def distill(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the student to make.")],
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="teacher|task-agnostic|task-specific|aligned|converted|retrained",
            help="What to do.",
        ),
    ] = None,
    task: Annotated[str | None, typer.Option(help="A GLUE task such as sst2, or imdb.")] = None,
    labels: LabelsOption = None,
    teacher: Annotated[
        str | None, typer.Option(metavar="NAME|DIR", help="minilm if not given.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder of train.tsv, dev.tsv; the hub if not given."),
    ] = None,
    text: Annotated[
        str | None, typer.Option(metavar="FILE", help="Unlabelled texts, one a line.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=MAX_SEED, help="0 if not given.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="YAML or JSON; options given here come before it."),
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Distil a DistilBERT of full depth to inhibitor attention; goes on where it stopped.

    What it makes can't be compiled into circuits; `build` and `train` make models that can.
    """
    from fhe_inhibitor.cli.view import Display

    with needs("train"):
        from fhe_inhibitor.experiments.run import run
        from fhe_inhibitor.experiments.settings import read_experiment

    silence_transformers()
    options = {
        "recipe": recipe,
        "task": task,
        "labels": None if labels is None else labels.split(","),
        "teacher": teacher,
        "data": data,
        "text": text,
        "seed": seed,
    }
    experiment = read_experiment(config, options)
    with Display(quiet) as display:
        result = run(experiment, out, display)
    if as_json:
        print_now(result.model_dump_json(indent=1))
    else:
        print_rows([row.model_dump() for row in result.rows])


def silence_transformers() -> None:
    """Keep its bars for loading and writing weights out of ours, and the hub's repeated calls."""
    import huggingface_hub.utils.logging as hub_logging
    from transformers.utils import logging

    hub_logging.set_verbosity_error()

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Print measured rows as a table, in percent."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("recipe", "task", "split", "metric"):
        table.add_column(column)
    table.add_column("percent", justify="right")
    for row in rows:
        cells = (str(row[name]) for name in ("recipe", "task", "split", "metric"))
        table.add_row(*cells, f"{100 * row['value']:.2f}")
    Page().print(table)
