"""The command: train, compile and encrypt what the results lack, then write the page.

python -m demos.digits --images 0      # accuracies and lookups, on any machine
python -m demos.digits                 # on a quiet one: decrypts 20 images
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from demos.digits.measure import encrypt_images, make_model, measure_student
from demos.digits.page import to_markdown
from demos.digits.results import KINDS, NAME, KeptResults, Results
from fhe_inhibitor.images.data import load_digits
from fhe_inhibitor.system.files import make_folder, write_atomically
from fhe_inhibitor.system.huge_pages import restart_with_huge_pages
from fhe_inhibitor.system.progress import Printed
from fhe_inhibitor.training.images import ImageTraining


def main(
    out: Annotated[Path, typer.Option(help="Where the JSON and the page go.")] = Path("docs"),
    work: Annotated[Path, typer.Option(help="Students, and images to go on with.")] = Path(
        f"build/{NAME}"
    ),
    images: Annotated[int, typer.Option(min=0, help="Images to decrypt of each student.")] = 20,
) -> None:
    """Measure what is missing in the JSON, then write the page."""
    run(out, work, images, ImageTraining())


def run(out: Path, work: Path, images: int, training: ImageTraining) -> None:
    """Do what the command does, with a training of one's own."""
    make_folder(out)
    make_folder(work)
    observer, splits = Printed(), load_digits()
    height, width = splits.train.images.shape[1:]
    results = KeptResults(
        out,
        Results(
            source=splits.source,
            n_train=len(splits.train),
            n_test=len(splits.test),
            image_size=(height, width),
            patch=training.patch,
        ),
    )
    models = {}
    for kind in KINDS:
        folder = work / f"{NAME}-{kind.replace('_', '-')}"
        model = models[kind] = make_model(
            splits, replace(training, attention_kind=kind), folder, observer
        )
        kept = results.found.students.get(kind)
        if kept is None or kept.model_hash != model.hash:
            results.add(kind, measure_student(model, splits, folder, observer))
    if images:
        encrypt_images(models, splits, images, results, work, observer)
    write_atomically(out / f"{NAME}.md", to_markdown(results.found))


if __name__ == "__main__":
    restart_with_huge_pages()
    typer.run(main)
