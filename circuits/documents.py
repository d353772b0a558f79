"""Long documents: pieces are classified one by one, and their answers are added under encryption.

    x of piece i -> all stages but the last -> score_i      one lookup more than `classify`
    score_1 + ... + score_P                 -> logits       no lookup

What is added must come straight from a lookup, and the sum must decrypt to its last bit: each bit
more than the logits of one text have would make every lookup of the network dearer. So a piece's
logits l are first brought to few levels,

    score = clip(round(l / step), -level, level),     level = (2^(bits - 1) - 1) // MAX_PIECES,

with bits those of the logits, 7 at least. step is a power of 2: the largest with which scores
saturate at half of the largest logit or before, or a larger one where the lookup would be wider
than those of `classify`. Every piece counts the same: all are padded to one length, and that is all
that the server knows of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from circuits import stages
from circuits.intervals import full, interval_lookup
from circuits.lookups import Lookup, Table, bit_width, exact_lookup, saturating, table_of
from circuits.network import Network, run
from circuits.plan import Stage, Wire

MAX_PIECES = 16
FREE_BITS = 7  # a sum of so many bits never needs less noise than the lookups before it
SCORE = "score"


@dataclass(frozen=True)
class Scoring:
    """How logits become scores: the table, how many logit steps a score is worth, its largest."""

    table: Table
    step: int
    level: int

    def reach(self, pieces: int) -> tuple[int, int]:
        """Return what the sum of so many scores can't leave, ends included."""
        return -pieces * self.level, pieces * self.level


def scoring(network: Network) -> Scoring:
    """Return how a network's logits become scores; the lookup is no wider than `classify`'s.

    Raises ValueError if that is too narrow for any score but 0.
    """
    largest = _largest_logit(network)
    level = _largest(max(FREE_BITS, bit_width(-largest, largest))) // MAX_PIECES
    lsbs = max(1, largest // (2 * level)).bit_length() - 1
    bits = network.classifier.pre_classifier.table.bit_width
    while (table := _score_table(largest, level, lsbs, bits)) is None:
        if 1 << lsbs > largest:
            raise ValueError(
                f"a lookup of {bits} bit can't tell scores of long documents apart: wanted a "
                "pre_classifier of 2 bits or more"
            )
        lsbs += 1
    return Scoring(table, 1 << lsbs, level)


def score_stage(network: Network) -> Stage:
    """Return the stage that ends a piece. Lookups: those of `classify`, and n_labels."""
    table = scoring(network).table

    def score(values: Sequence[Any], lookup: Lookup) -> tuple[Any, ...]:
        return (lookup(stages.classify(values[0], network.classifier, lookup), table),)

    return Stage(SCORE, (f"layer{len(network.layers) - 1}.x",), (SCORE,), score)


def add_stage(pieces: int) -> Stage:
    """Return the stage that adds the scores of so many pieces; without a lookup."""

    def add(values: Sequence[Any], lookup: Lookup) -> tuple[Any, ...]:
        total = values[0]
        for value in values[1:]:
            total = total + value
        return (total,)

    return Stage(f"add{pieces}", (SCORE,) * pieces, ("logits",), add)


def score_wire(network: Network) -> Wire:
    """Return shape and range of a score."""
    return Wire((1, network.classifier.weight.shape[1]), *scoring(network).table.range)


def run_document(
    network: Network,
    pieces: Sequence[tuple[np.ndarray, np.ndarray]],
    lookup: Lookup = exact_lookup,
) -> np.ndarray:
    """Evaluate a document of several pieces in the clear: the sum of scores, int64 `[n_labels]`.

    pieces: x int `[n, dim]` and padding int `[n]` of each.
    """
    table = scoring(network).table
    scores = [lookup(run(network, x, padding, lookup), table) for x, padding in pieces]
    return np.sum(scores, axis=0)


def _largest_logit(network: Network) -> int:
    """Return a bound of a logit's absolute value, 1 at least."""
    classifier = network.classifier
    box = full((1, classifier.weight.shape[0]), *classifier.pre_classifier.table.range)
    logits = box @ classifier.weight + classifier.offset
    if classifier.output is not None:
        logits = interval_lookup(logits, classifier.output)
    return max(1, -int(logits.low.min()), int(logits.high.max()))


def _score_table(largest: int, level: int, lsbs: int, bits: int) -> Table | None:
    """Return the table of scores with step 2^lsbs; None if it needs more bits."""
    table = table_of(lambda logit: np.clip(logit >> lsbs, -level, level), -largest, largest, lsbs)
    if table.bit_width <= bits:
        return table
    try:
        return saturating(table, bits)
    except ValueError:
        return None


def _largest(bits: int) -> int:
    return (1 << (bits - 1)) - 1
