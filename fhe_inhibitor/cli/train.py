"""The command `fhe-inhibitor train`: a checkpoint by the recipe that made the shipped one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fhe_inhibitor.cli.options import MAX_SEED, QuietOption, print_json
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.extras import needs


def train(
    data: Annotated[
        str,
        typer.Option(metavar="NAME|DIR", help="Folder with train.tsv and dev.tsv, or a hub name."),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the checkpoint to write.")],
    teacher: Annotated[
        str,
        typer.Option(
            metavar="NAME|DIR",
            help="Fine-tuned first unless it is a classifier.",
        ),
    ] = "minilm",
    labels: Annotated[
        str,
        typer.Option(metavar="NAME,NAME,...", help="Of the classes 0, 1, ... in the data."),
    ] = "negative,positive",
    sentences: Annotated[
        Path | None, typer.Option(help="File of unlabelled texts, one a line.")
    ] = None,
    work: Annotated[
        Path, typer.Option(metavar="DIR", help="Teacher, corpus, state to go on from.")
    ] = Path("build/train"),
    baselines: Annotated[
        bool, typer.Option(help="Train the bag of words and the dot-product student too.")
    ] = True,
    size: Annotated[
        str, typer.Option(metavar="nano|small|full-depth|full-size", help="Of the student.")
    ] = "nano",
    held_out: Annotated[
        int, typer.Option(min=1, help="Full sentences to keep out of train, to choose by.")
    ] = 1000,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of the students.")] = 0,
    material_seed: Annotated[
        int,
        typer.Option(
            min=0,
            max=MAX_SEED,
            help="Of teacher, corpus and what is held out; several seeds share them.",
        ),
    ] = 0,
    quiet: QuietOption = False,
) -> None:
    """Make a checkpoint by the recipe that made the shipped one; goes on where it stopped."""
    from fhe_inhibitor.cli.distill import silence_transformers
    from fhe_inhibitor.cli.view import Display

    with needs("train"):
        from fhe_inhibitor.training import recipe
        from fhe_inhibitor.training.hyperparameters import SIZES, Recipe

    from fhe_inhibitor.text.tasks import check_labels

    silence_transformers()
    if size not in SIZES:
        raise InputError(f"no size {size!r}; wanted one of {', '.join(SIZES)}")
    chosen = Recipe(
        data=data,
        teacher=teacher,
        sentences=str(sentences) if sentences else None,
        labels=check_labels(labels.split(",")),
        held_out=held_out,
        size=SIZES[size],
        seed=seed,
        material_seed=material_seed,
    )
    with Display(quiet) as display:
        results = recipe.train(chosen, out, work, recipe.BASELINES if baselines else (), display)
    print_json(results)
