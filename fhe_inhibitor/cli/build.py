"""The command `fhe-inhibitor build`: labelled texts of your own to an encrypted classifier."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fhe_inhibitor.cli.options import MAX_SEED, QuietOption, passphrase_in_environment
from fhe_inhibitor.cli.worker import in_worker
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.child import silence_dependencies
from fhe_inhibitor.system.extras import needs
from fhe_inhibitor.system.progress import Observer

if TYPE_CHECKING:
    from compile.building.page import Built


def build(
    data: Annotated[
        str,
        typer.Option(
            metavar="FILE|FOLDER|HUB_NAME",
            help="Labelled texts, 2 to 10 classes: .tsv, .csv or .jsonl, a folder of those.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the model to make.")],
    text_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the texts, if its name is unusual.")
    ] = None,
    label_column: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the classes, if its name is unusual.")
    ] = None,
    teacher: Annotated[
        str,
        typer.Option(
            metavar="NAME|DIR",
            help="A BERT or DistilBERT; fine-tuned first unless it is a classifier.",
        ),
    ] = "minilm",
    size: Annotated[
        str, typer.Option(metavar="nano|small|full-depth|full-size", help="Of the student.")
    ] = "nano",
    sentences: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Unlabelled texts of the same kind, one a line."),
    ] = None,
    encrypted: Annotated[
        int, typer.Option(min=0, help="Validation texts to classify encrypted at the end.")
    ] = 20,
    validation_share: Annotated[
        float,
        typer.Option(metavar="SHARE", help="To measure on, if the data has no set for that."),
    ] = 0.2,
    texts: Annotated[
        int | None,
        typer.Option(
            min=100, help="Number of texts to make from yours; chosen by how many you have."
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Training steps of the student; chosen by the number of texts."),
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(min=0.01, help="Of the teacher; chosen likewise.")
    ] = None,
    bag_of_words: Annotated[
        bool, typer.Option(help="Train this baseline, which needs no lookup, too.")
    ] = True,
    skip_invalid: Annotated[
        bool, typer.Option(help="Leave out lines that can't be read, and name them.")
    ] = False,
    work: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Teacher, corpus, state to go on from; OUT-work if not given.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED)] = 0,
    quiet: QuietOption = False,
) -> None:
    """Make an encrypted classifier of your own labelled texts; goes on where it stopped."""
    from fhe_inhibitor.cli.distill import silence_transformers
    from fhe_inhibitor.cli.view import Display, print_built

    with needs("train"):
        from compile.building.student import make_student
        from fhe_inhibitor.text.labelled import Columns
        from fhe_inhibitor.training.own_texts import Amounts, OwnRecipe

    silence_transformers()
    own = OwnRecipe(
        data=data,
        columns=Columns(text_column, label_column),
        teacher=teacher,
        size=size,
        sentences=str(sentences) if sentences else None,
        share=validation_share,
        amounts=Amounts(texts, steps, epochs),
        baseline=bag_of_words,
        seed=seed,
    )
    if not out.name:
        raise InputError(f"--out {str(out)!r} has no name for the model: name a new folder")
    work = work or out.with_name(f"{out.name}-work")
    with warnings.catch_warnings(), Display(quiet) as display:
        silence_dependencies()
        seconds = make_student(own, out, work, display, skip_invalid)
        encrypting = EncryptStudent(out, work, encrypted, seconds)
        built = in_worker(encrypting, display)
    print_built(built, out)


@dataclass(frozen=True)
class EncryptStudent:
    """Compiles and measures the model `out` that was made with the folder `work`."""

    out: Path
    work: Path
    n_encrypted: int
    seconds: Mapping[str, float]

    def run(self, observer: Observer) -> Built:
        """Do it, and return all results."""
        from compile.building.run import encrypt_student
        from fhe_inhibitor.cli.distill import silence_transformers

        silence_transformers()
        passphrase = passphrase_in_environment()
        return encrypt_student(
            self.out, self.work, observer, self.n_encrypted, self.seconds, passphrase
        )
