"""Accuracy of the integer model over labelled texts, and how far two evaluations agree.

Encrypted rounding is approximate, so one text has a distribution of logits. Accuracy "with
rounding noise" is the mean over several draws of that noise, each draw one pass over all texts.
Two errors are stated apart: `standard_error` is what other texts of the same kind would change,
`draws_std` what other noise on these texts would.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from circuits.lookups import Lookup, exact_lookup, noisy_lookup
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.documents import (
    cut_documents,
    document_logits,
    encode_pieces,
    mean_logits,
)
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.text.data import LabelledText


@dataclass(frozen=True)
class Accuracy:
    """Share of texts whose largest logit is that of their label.

    value: mean over draws, 0 to 1. standard_error: sqrt(value (1 - value) / n_texts).
    draws_std: standard deviation between the draws, 0 for a single one.
    """

    n_texts: int
    n_draws: int
    value: float
    standard_error: float
    draws_std: float


@dataclass(frozen=True)
class Agreement:
    """How close two evaluations of the same texts are.

    n_equal_labels: texts for which both have the same largest logit. max_difference: largest
    absolute difference of a logit, in integer steps; relative_difference: the same in units
    of the mean distance between the first evaluation's two largest logits.
    """

    n_texts: int
    n_equal_labels: int
    max_difference: int
    relative_difference: float


def predict(
    model: IntegerModel,
    rows: Sequence[LabelledText],
    max_tokens: int | None = None,
    seed: int | None = None,
    observer: Observer | None = None,
) -> np.ndarray:
    """Return integer logits, int64 `[n_texts, n_labels]`, without encryption.

    max_tokens: as in `IntegerModel.tokenize`. seed: draws the noise of encrypted rounding;
    None rounds exactly. observer: is told of each text.
    """
    lookup = exact_lookup if seed is None else draw_noise(model, seed)
    logits = []
    texts = [row.text for row in rows]
    for tokens in model.tokenize_many(texts, max_tokens, strict=False, observer=Observer()):
        x, padding = model.encode(tokens)
        logits.append(model.integer_logits(x, padding, lookup))
        if observer:
            observer.finish(1)
    return np.stack(logits)


def predict_documents(
    model: IntegerModel,
    rows: Sequence[LabelledText],
    max_tokens: int | None = None,
    max_pieces: int | None = None,
    seed: int | None = None,
    observer: Observer | None = None,
) -> np.ndarray:
    """Return `mean_logits` of long texts, float64 `[n_texts, n_labels]`, without encryption.

    max_tokens, max_pieces: as in `cut_documents`. seed, observer: as in `predict`.
    """
    lookup = exact_lookup if seed is None else draw_noise(model, seed)
    logits = []
    for document in cut_documents(model, [row.text for row in rows], max_tokens, max_pieces):
        found = document_logits(model, encode_pieces(model, document), lookup)
        logits.append(mean_logits(model, found, document))
        if observer:
            observer.finish(1)
    return np.stack(logits)


def draw_noise(model: IntegerModel, seed: int | Sequence[int]) -> Lookup:
    """Return a lookup that draws the noise of encrypted rounding, the model's, from a seed."""
    return noisy_lookup(np.random.default_rng(seed), model.noise_std)


def evaluate(
    model: IntegerModel,
    rows: Sequence[LabelledText],
    max_tokens: int | None = None,
    n_draws: int = 0,
    observer: Observer | None = None,
    max_pieces: int | None = None,
) -> Accuracy:
    """Return the accuracy of the integer model over labelled texts.

    max_pieces: classify each text in so many pieces at most; None reads each as one.
    n_draws: passes over the texts, each with rounding noise of another seed; 0 is one pass
    with exact rounding. Raises InputError for no texts, labels that the model doesn't have, or a
    negative number of draws.
    """
    rows = labelled_rows(model, rows)
    if n_draws < 0 or not rows:
        raise InputError(
            f"{len(rows)} texts and {n_draws} draws; wanted 1 text and 0 draws or more"
        )
    seeds = range(n_draws) if n_draws else (None,)
    if observer:
        observer.begin("integer model")
        observer.plan(len(rows) * len(seeds), "texts")
    if max_pieces is None:
        draws = [predict(model, rows, max_tokens, seed, observer) for seed in seeds]
    else:
        draws = [
            predict_documents(model, rows, max_tokens, max_pieces, seed, observer) for seed in seeds
        ]
    return accuracy(draws, rows)


def labelled_rows(model: IntegerModel, rows: Iterable[LabelledText]) -> list[LabelledText]:
    """Return texts as a list. Raises InputError for a label that is none of the model's numbers."""
    listed, n_labels = list(rows), len(model.labels)
    for number, row in enumerate(listed, start=1):
        if not (isinstance(row.label, int | np.integer) and 0 <= row.label < n_labels):
            raise InputError(
                f"text {number} of {len(listed)}: label {row.label!r}; wanted an integer from 0 to "
                f"{n_labels - 1}"
            )
    return listed


def accuracy(draws: Sequence[np.ndarray], rows: Sequence[LabelledText]) -> Accuracy:
    """Return the accuracy of logits `[n_texts, n_labels]`, one array per draw.

    >>> rows = [LabelledText("good", 1), LabelledText("bad", 0)]
    >>> accuracy([np.array([[0, 5], [0, 5]]), np.array([[0, 5], [5, 0]])], rows).value
    0.75
    """
    labels = np.array([row.label for row in rows])
    values = np.array([(logits.argmax(axis=-1) == labels).mean() for logits in draws])
    value = float(values.mean())
    return Accuracy(
        n_texts=len(rows),
        n_draws=len(draws),
        value=value,
        standard_error=math.sqrt(value * (1 - value) / len(rows)),
        draws_std=float(values.std(ddof=1)) if len(values) > 1 else 0.0,
    )


def agreement(reference: np.ndarray, other: np.ndarray) -> Agreement:
    """Compare logits `[n_texts, n_labels]` of the same texts.

    They differ by integers, though neutral logits may have been taken off both.

    >>> agreement(np.array([[0, 4], [8, 0]]), np.array([[1, 4], [7, 0]])).max_difference
    1
    """
    difference = round(float(np.abs(reference - other).max()))
    two_largest = np.sort(reference, axis=-1)[:, -2:]
    margin = float((two_largest[:, 1] - two_largest[:, 0]).mean())
    return Agreement(
        n_texts=len(reference),
        n_equal_labels=int((reference.argmax(axis=-1) == other.argmax(axis=-1)).sum()),
        max_difference=difference,
        relative_difference=difference / margin if margin else math.inf,
    )
