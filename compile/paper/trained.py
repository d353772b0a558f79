"""What `train` wrote beside a checkpoint: accuracies of the student, its baselines, its teacher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from fhe_inhibitor.system.files import Record
from fhe_inhibitor.system.machine import Machine
from fhe_inhibitor.system.statistics import Share, share

FILE = "results.json"
SPLITS = {"validation": "validation set", "held_out": "held out from train"}


class TrainedAccuracy(Record):
    """Accuracy of one model on one part of the data."""

    name: str
    data: str
    accuracy: Share


class Trained(Record):
    """All accuracies of one number of tokens, and the command and the machine that they are of."""

    command: str
    machine: Machine
    rows: tuple[TrainedAccuracy, ...]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Recipe(_Part):
    seed: int


class _Accuracy(_Part):
    n_texts: int
    n_draws: int
    value: float


class _Results(_Part):
    """The file; baselines are missing where they weren't trained."""

    recipe: _Recipe
    machine: Machine
    inhibitor: dict[int, dict[str, _Accuracy]]
    dot_product: dict[int, dict[str, _Accuracy]] = {}
    bag_of_words: dict[int, dict[str, float]] = {}
    teacher: dict[str, float]


def read_trained(folder: Path, n: int) -> Trained | None:
    """Return the accuracies at n tokens.

    None for a checkpoint without such a file of `train`, or one that lacks this number of tokens.
    """
    try:
        results = _Results.model_validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError):
        return None
    rows = tuple(_rows(results, n))
    command = f"fhe-inhibitor train --seed {results.recipe.seed}"
    return Trained(command=command, machine=results.machine, rows=rows) if rows else None


def _rows(results: _Results, n: int) -> Iterator[TrainedAccuracy]:
    for split, data in SPLITS.items():
        own = results.inhibitor.get(n, {}).get(split)
        if own is None:
            continue

        found = {f"this student, noise drawn {own.n_draws} times": own.value}
        if other := results.dot_product.get(n, {}).get(split):
            name = f"dot-product student of its size, noise drawn {other.n_draws} times"
            found[name] = other.value
        found |= _named(
            "bag of words of the same tokens, no lookup", results.bag_of_words.get(n), split
        )
        found |= _named("teacher, all tokens, float", results.teacher, split)
        for name, value in found.items():
            accuracy = share(value * own.n_texts, own.n_texts)
            yield TrainedAccuracy(name=name, data=data, accuracy=accuracy)


def _named(name: str, values: Mapping[str, float] | None, split: str) -> dict[str, float]:
    return {name: values[split]} if values and split in values else {}
