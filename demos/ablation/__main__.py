"""The command: train and measure the trials that the results lack, then write the page."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from demos.ablation.measure import Laboratory
from demos.ablation.page import to_markdown
from demos.ablation.results import NAME, TEACHER, WORDS, KeptResults, Results, Row
from demos.ablation.trials import list_trials
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.files import make_folder, write_atomically
from fhe_inhibitor.system.machine import describe_machine
from fhe_inhibitor.system.progress import Printed
from fhe_inhibitor.training.hyperparameters import SIZES, Recipe
from fhe_inhibitor.training.material import make_material

PACKAGES = ("torch", "transformers", "concrete-python")


def main(
    data: Annotated[Path, typer.Option(help="Folder with SST-2's train.tsv and dev.tsv.")],
    sentences: Annotated[
        str | None, typer.Option(help="File of unlabelled texts, as `train` takes it.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the JSON and the page go.")] = Path("docs"),
    work: Annotated[
        Path, typer.Option(help="Teacher and corpus, shared with `train`; students.")
    ] = Path(f"build/{NAME}"),
    size: Annotated[str, typer.Option(help="nano or small: what the trials change.")] = "nano",
    float_steps: Annotated[int, typer.Option(min=1, help="Of each float student.")] = 3000,
    integer_steps: Annotated[int, typer.Option(min=1, help="Of its integers.")] = 2000,
    draws: Annotated[int, typer.Option(min=1, help="Of the noise of rounding.")] = 6,
    only: Annotated[
        list[str] | None, typer.Option(help="A group of trials, such as bits; repeat it.")
    ] = None,
) -> None:
    """Train and measure what is missing in the JSON, one trial after the other; write the page."""
    if size not in ("nano", "small"):
        raise typer.BadParameter(f"{size} can't be changed in these ways: wanted nano or small")
    make_folder(out)
    recipe = Recipe(data=str(data), sentences=sentences, size=SIZES[size])
    name = NAME if size == "nano" else f"{NAME}_{size}"
    fresh = Results(
        size=size,
        tokens=recipe.size.student["default_tokens"],
        float_steps=float_steps,
        integer_steps=integer_steps,
        draws=draws,
        machine=describe_machine(PACKAGES),
    )
    kept = KeptResults(out / f"{name}.json", fresh)
    trials = list_trials(recipe.size)
    if unknown := set(only or ()) - {trial.group for trial in trials}:
        raise typer.BadParameter(f"no trial is of the group {sorted(unknown)[0]}")
    observer = Printed()
    material = make_material(recipe, work, observer=observer)
    lab = Laboratory(recipe, material, work / size, (float_steps, integer_steps), draws, observer)
    steps: dict[str, Callable[[], Row]] = {TEACHER: lab.measure_teacher, WORDS: lab.measure_words}
    for trial in trials:
        if not only or trial.group in ("base", *only):
            steps[trial.name] = partial(lab.measure, trial)
    for key, measure in steps.items():
        if key not in kept.found.rows:
            observer.begin(key)
            kept.add(key, measure())
    write_atomically(out / f"{name}.md", to_markdown(kept.found))


if __name__ == "__main__":
    try:
        typer.run(main)
    except InputError as error:
        raise SystemExit(f"error: {error}") from error
