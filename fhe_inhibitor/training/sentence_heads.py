"""Heads on public features of a sentence: trained in float, then made integers.

A feature is a coordinate of a public encoder's embedding, or whether a word of a public list is in
the text. Two heads read them:

    linear        logistic regression: no lookup
    hidden units  relu(x W + b) v + c: one lookup a unit

What regularizes either is chosen by accuracy on the held-out texts, so that is a little too good;
the validation set has no part in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from circuits.linear import Linear
from circuits.lookups import Lookup, Table
from circuits.sentence_head import SentenceHead
from fhe_inhibitor.system.processor import one_thread
from fhe_inhibitor.text.batches import shuffled_batches

INVERSE_PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)  # scikit-learn's C
WEIGHT_DECAYS = (0.1, 1.0, 3.0)
HIDDEN_UNITS, EPOCHS, BATCH_SIZE, LEARNING_RATE = 32, 15, 256, 2e-3
DROPOUT = 0.2
HIDDEN_LEVELS = 15  # of what a hidden unit gives, above 0


@dataclass(frozen=True)
class Codes:
    """How a client makes integers of features: round(x / step), at most `largest` from 0.

    signed: whether features, and so codes, may be negative.
    """

    step: float
    largest: int
    signed: bool = True

    def __call__(self, features: Any) -> np.ndarray:
        """Return the codes of float `[n, inputs]`, int64, dense where the features are sparse.

        >>> Codes(0.1, 3)(np.array([[0.14, -0.9]]))
        array([[ 1, -3]])
        """
        dense = features.toarray() if hasattr(features, "toarray") else np.asarray(features)
        return np.clip(np.rint(dense / self.step), *self.range).astype(np.int64)

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest code."""
        return (-self.largest if self.signed else 0), self.largest

    def max_norm(self, n_inputs: int) -> float:
        """Return the largest 2-norm of codes of a vector of length 1, which rounding moves."""
        return 1 / self.step + math.sqrt(n_inputs) / 2


@dataclass(frozen=True)
class FloatHead:
    """score = x weight + bias, or relu(x hidden + hidden_bias) weight + bias, in float.

    weight: `[inputs or units]`. hidden: `[inputs, units]`. chosen: what regularizes it best.
    """

    weight: np.ndarray
    bias: float
    chosen: float
    hidden: np.ndarray | None = None
    hidden_bias: np.ndarray | None = None

    def units(self, features: Any) -> np.ndarray:
        """Return what the hidden units give, `[n, units]`."""
        assert self.hidden is not None and self.hidden_bias is not None
        return np.maximum(features @ self.hidden + self.hidden_bias, 0)

    def predict(self, features: Any) -> np.ndarray:
        """Return the label of each row, 0 or 1."""
        x = features if self.hidden is None else self.units(features)
        return (x @ self.weight + self.bias > 0).astype(int)


@dataclass(frozen=True)
class Examples:
    """Features `[n, inputs]`, dense or sparse, and labels 0 or 1 `[n]`."""

    features: Any
    labels: np.ndarray

    def accuracy(self, predicted: np.ndarray) -> float:
        """Return the share of labels that were predicted."""
        return float((predicted == self.labels).mean())


def count_words(texts: Sequence[str]) -> CountVectorizer:
    """Return what finds the words of these texts in others: 0 or 1 for each, in a sparse row.

    A word is what stands between spaces, as SST-2 has it.

    >>> found = count_words(["a good film", "bad"]).transform(["good good dreck"])
    >>> found.toarray()
    array([[0, 0, 0, 1]])
    """
    return CountVectorizer(lowercase=False, token_pattern=r"\S+", binary=True, dtype=int).fit(texts)


def fit_linear(train: Examples, held_out: Examples) -> FloatHead:
    """Return the logistic regression whose penalty does best on the held-out texts."""
    heads = []
    for c in INVERSE_PENALTIES:
        fitted = LogisticRegression(C=c, max_iter=1000).fit(train.features, train.labels)
        heads.append(FloatHead(fitted.coef_[0], float(fitted.intercept_[0]), c))
    return _best(heads, held_out)


def fit_hidden(
    train: Examples, held_out: Examples, units: int = HIDDEN_UNITS, seed: int = 0
) -> FloatHead:
    """Return the head with hidden units whose weight decay does best on the held-out texts."""
    heads = [_fit_hidden(train, units, decay, seed) for decay in reversed(WEIGHT_DECAYS)]
    return _best(heads, held_out)


def quantize_linear(head: FloatHead, codes: Codes, weight_bits: int = 8) -> SentenceHead:
    """Return the head as integers: weights of `weight_bits`, one scale for all."""
    step = float(np.abs(head.weight).max()) / ((1 << (weight_bits - 1)) - 1)
    return SentenceHead(
        weight=np.rint(head.weight / step).astype(np.int64)[:, None],
        offset=np.rint([head.bias / (step * codes.step)]).astype(np.int64),
        input_range=codes.range,
    )


def quantize_hidden(
    head: FloatHead, codes: Codes, train: Examples, table_bits: int = 6, weight_bits: int = 6
) -> SentenceHead:
    """Return the head as integers, for features of length 1.

    Each unit has a scale of its own, and a table of 2^table_bits entries that has bias and ReLU in
    it; the range that it covers follows from the weights' norm (`circuits.sentence_head`). train:
    shows what the units give; a thousandth of that is cut off.
    """
    assert head.hidden is not None and head.hidden_bias is not None
    most = (1 << (weight_bits - 1)) - 1
    steps = np.abs(head.hidden).max(axis=0) / most  # [units]
    weight = np.rint(head.hidden / steps).astype(np.int64)
    max_norm = codes.max_norm(len(weight))
    norm = float(np.linalg.norm(weight, axis=0).max())
    lsbs = max(0, math.ceil(math.log2((max_norm * norm + 1) / ((1 << (table_bits - 1)) - 1))))
    first = -(1 << (table_bits - 1))
    sums = np.arange(first, -first) << lsbs  # of each entry
    given = np.maximum(sums * (steps * codes.step)[:, None] + head.hidden_bias[:, None], 0)
    tops = np.quantile(head.units(train.features), 0.999, axis=0)
    unit_steps = np.maximum(tops, 1e-9) / HIDDEN_LEVELS
    values = np.clip(np.rint(given / unit_steps[:, None]), 0, HIDDEN_LEVELS).astype(np.int64)
    out = head.weight * unit_steps
    step = float(np.abs(out).max()) / most
    return SentenceHead(
        weight=np.rint(out / step).astype(np.int64)[:, None],
        offset=np.rint([head.bias / step]).astype(np.int64),
        input_range=codes.range,
        hidden=Linear(weight, np.zeros(len(steps), np.int64), Table(values, first, lsbs)),
        max_norm=max_norm,
    )


def predict(head: SentenceHead, codes: Codes, features: Any, lookup: Lookup) -> np.ndarray:
    """Return the labels that an integer head gives features `[n, inputs]` in the clear, 0 or 1."""
    n = features.shape[0]
    parts = (codes(features[at : at + BATCH_SIZE]) for at in range(0, n, BATCH_SIZE))
    return np.concatenate([head.evaluate(x, lookup)[:, 0] > 0 for x in parts]).astype(int)


def _best(heads: Sequence[FloatHead], held_out: Examples) -> FloatHead:
    """Return the first of the best: they come with the strongest regularization first."""
    return max(heads, key=lambda head: held_out.accuracy(head.predict(held_out.features)))


@one_thread()
def _fit_hidden(train: Examples, units: int, decay: float, seed: int) -> FloatHead:
    # Coordinates of a vector of length 1 are small: the layer learns on larger ones.
    scale = math.sqrt(train.features.shape[1])
    features = torch.from_numpy(np.asarray(train.features, np.float32)) * scale
    labels = torch.from_numpy(train.labels).float()
    torch.manual_seed(seed)
    hidden, out = nn.Linear(features.shape[1], units), nn.Linear(units, 1)
    model = nn.Sequential(hidden, nn.ReLU(), nn.Dropout(DROPOUT), out)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=decay)
    steps = EPOCHS * math.ceil(len(labels) / BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for batch in shuffled_batches([1] * len(labels), BATCH_SIZE, seed, steps):
        score = model(features[batch])[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(score, labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return FloatHead(
        _array(out.weight)[0],
        float(out.bias.detach()),
        decay,
        _array(hidden.weight).T * scale,
        _array(hidden.bias),
    )


def _array(parameter: Tensor) -> np.ndarray:
    return parameter.detach().double().numpy()
