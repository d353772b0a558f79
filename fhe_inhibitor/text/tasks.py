"""GLUE's tasks and IMDb by name: columns, labels, metrics, and loading them.

To `data`, which reads sentences with a class, this adds pairs of sentences and regression. Texts
with classes of a user's own are a task too, `own_task`, which no hub has. Any other one comes from
the hub, or from a folder of tab-separated files: train.tsv and dev.tsv (MNLI has two
development sets, dev_matched.tsv and dev_mismatched.tsv), with a header that names the column
`label` and those of the texts as the hub does. Classes are integers in the hub's order: RTE's
entailment is 0.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.text.data import (
    LabelledText,
    OnInvalid,
    hold_out,
    is_visible,
    left_out,
    load_from_hub,
    read_columns,
    read_label,
)

TRAIN = "train"
OWN = "own"  # what the task of a user's own labels is called
UNKNOWN = float("nan")  # the label of a text that nobody labelled


class Example(NamedTuple):
    """One text, or a pair, and its label: a class, or a value if the task is a regression."""

    texts: tuple[str, ...]
    label: float


Splits = dict[str, list[Example]]


@dataclass(frozen=True)
class Task:
    """What a task is called, what its examples look like, how it is measured.

    columns: of the texts. labels: names of the classes in order, one for a regression.
    largest: the largest value of a regression, whose smallest is 0. development: the hub's name
    of each development split, and the file that holds it in a folder. hub_columns: where the
    hub's differ.
    """

    name: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    largest: float = 0.0
    development: tuple[tuple[str, str], ...] = (("validation", "dev.tsv"),)
    hub: str = "nyu-mll/glue"
    hub_columns: tuple[str, ...] = ()

    @property
    def n_labels(self) -> int:
        return len(self.labels)

    @property
    def is_regression(self) -> bool:
        return self.n_labels == 1

    @property
    def hub_name(self) -> str:
        return f"{self.hub}:{self.name}" if self.hub == Task.hub else self.hub


PAIR = ("sentence1", "sentence2")
SENTIMENT = ("negative", "positive")
ENTAILMENT = ("entailment", "not_entailment")
TASKS = {
    task.name: task
    for task in (
        Task("sst2", ("sentence",), SENTIMENT),
        Task("cola", ("sentence",), ("unacceptable", "acceptable"), ("matthews",)),
        Task("rte", PAIR, ENTAILMENT),
        Task("wnli", PAIR, ("not_entailment", "entailment")),
        Task("mrpc", PAIR, ("not_equivalent", "equivalent"), ("accuracy", "f1")),
        Task("stsb", PAIR, ("similarity",), ("pearson", "spearman"), largest=5.0),
        Task("qnli", ("question", "sentence"), ENTAILMENT),
        Task("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), ("accuracy", "f1")),
        Task(
            "mnli",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            development=(
                ("validation_matched", "dev_matched.tsv"),
                ("validation_mismatched", "dev_mismatched.tsv"),
            ),
        ),
        Task(
            "imdb",
            ("sentence",),
            SENTIMENT,
            development=(("test", "dev.tsv"),),
            hub="stanfordnlp/imdb",
            hub_columns=("text",),
        ),
    )
}


def find_task(name: str) -> Task:
    """Return a task by name. Raises InputError for an unknown one."""
    if name not in TASKS:
        raise InputError(f"no task {name!r}; wanted one of {', '.join(TASKS)}")
    return TASKS[name]


def check_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Return names of classes. Raises InputError for fewer than two, or one that is no name."""
    named = tuple(label.strip() for label in labels)
    if len(named) < 2 or len(set(named)) < len(named) or not all(named):
        raise InputError(
            f"labels {','.join(labels)!r} name no classes: pass two or more, each once, such as "
            "negative,neutral,positive"
        )
    return named


def own_task(labels: Sequence[str]) -> Task:
    """Return the task of single texts, in the column `sentence`, with classes of a user's own.

    labels: names of the classes 0, 1, ... in the data. Raises InputError as `check_labels` does.
    """
    return Task(OWN, ("sentence",), check_labels(labels))


def load_task(
    task: Task, source: str | Path | None = None, on_invalid: OnInvalid | None = None
) -> Splits:
    """Return the splits: "train", then the development sets under the hub's names.

    source: a folder of TSV files, or None for the hub, which has no texts of a user's own.
    on_invalid: see `read_examples`. Raises InputError for a folder that doesn't exist, files that
    aren't this task's, and where the hub can't be reached.
    """
    if source is None and task.name == OWN:
        raise InputError(
            f"labels {', '.join(task.labels)} are of texts of your own: pass their folder as --data"
        )
    if source is None:
        return _load_from_hub(task)
    folder = Path(source)
    if not folder.is_dir():
        raise InputError(
            f"{folder} is no folder; wanted one that holds train.tsv and "
            f"{' and '.join(file for _, file in task.development)}, or no --data for the hub"
        )
    files = ((TRAIN, "train.tsv"), *task.development)
    return {split: read_examples(task, folder / file, on_invalid) for split, file in files}


def read_examples(
    task: Task, path: str | Path, on_invalid: OnInvalid | None = None
) -> list[Example]:
    """Read a tab-separated file of the task's examples.

    on_invalid: is told what is wrong with a line, which is left out then, instead of raising that.

    Raises InputError, with file and line, for a file without the task's columns, an empty text,
    or a label that is none of the task's.
    """
    try:
        rows = list(read_columns(path, ("label", *task.columns), on_invalid))
    except InputError as error:
        raise InputError(f"not a TSV of the task {task.name}: {error}") from None
    examples = []
    for where, (label, *texts) in rows:
        with left_out(on_invalid):
            if not all(map(is_visible, texts)):
                raise InputError(f"{where}: a text is empty; remove the line")
            examples.append(Example(tuple(texts), _read_label(task, label, where)))
    return examples


def hold_out_examples(
    task: Task, train: list[Example], n: int, seed: int = 0
) -> tuple[list[Example], list[Example]]:
    """Split `n` examples off a train set, to stop early by or to choose between recipes.

    SST-2's are full sentences, whose phrases leave the train set as well (see `data.hold_out`).
    Returns (kept, held_out). Raises InputError if nothing would be left.
    """
    if not 0 < n < len(train):
        raise InputError(
            f"asked to hold out {n} of {len(train)} examples; wanted 1 or more, "
            "and some left to train on"
        )
    if task.name == "sst2":
        rows = [LabelledText(example.texts[0], int(example.label)) for example in train]
        kept, held_out = (
            [Example((row.text,), row.label) for row in part] for part in hold_out(rows, n, seed)
        )
        return kept, held_out
    drawn = set(random.Random(seed).sample(range(len(train)), n))
    return (
        [example for index, example in enumerate(train) if index not in drawn],
        [train[index] for index in sorted(drawn)],
    )


def _read_label(task: Task, cell: str, where: str) -> float:
    if not task.is_regression:
        return read_label(cell, task.n_labels, where)
    # float() would take the digits of any script, and "1_0".
    value = float(cell) if re.fullmatch(r"[0-9]+(\.[0-9]*)?", cell) else -1.0
    if not 0 <= value <= task.largest:
        raise InputError(f"{where}: label {cell!r}; wanted a number from 0 to {task.largest}")
    return value


def _load_from_hub(task: Task) -> Splits:
    loaded = load_from_hub(task.hub_name)
    columns = ("label", *(task.hub_columns or task.columns))
    return {
        split: [_from_hub(task, [row[column] for column in columns]) for row in loaded[split]]
        for split in (TRAIN, *(split for split, _ in task.development))
    }


def _from_hub(task: Task, cells: Sequence[Any]) -> Example:
    label, *texts = cells
    return Example(
        tuple(text.strip() for text in texts), _read_label(task, str(label), task.hub_name)
    )
