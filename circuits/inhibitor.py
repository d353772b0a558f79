"""Inhibitor attention on integers: Manhattan distances, a threshold, a ReLU.

For query i, key j, key channel k and value channel l (Brännvall 2023, eq. 7-8):

    Z_ij = inhibition( sum_k |q_ik - k_jk| )          one lookup per (i, j, k) and (i, j)
    H_il = output( sum_j relu(v_jl - Z_ij) )          one lookup per (i, j, l) and (i, l)

The table `inhibition` holds the head's scale gamma / sqrt(d) and its shift, which may depend
on the relative offset j - i. Where we depart from the paper: v and Z are unsigned, or both
less one constant, which their difference doesn't notice; Z saturates at the largest value of
v, so a padded key, whose score is raised by `padding_score`, contributes exactly nothing; the
sum over j may be taken in two steps (see `circuits.sums`); and H is requantized by a last
lookup.

The signed inhibitor (Zhang & Brännvall 2025, eq. 3) thresholds both sides of a signed v,

    relu(v+ - Z) - relu(-v- - Z) = relu(v - Z) - relu(-v - Z)       for Z >= 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from circuits.intervals import Interval
from circuits.lookups import AntiperiodicTable, Lookup, Table, antiperiodic_abs
from circuits.pairs import Pairs
from circuits.sums import PartialSums, sum_over_keys


@dataclass(frozen=True)
class InhibitorParameters:
    """Clear integer parameters of one inhibitor head.

    distance: |q - k|, exact; unused where the query is a constant. inhibition: score to Z,
    `[n_offsets, entries]`. threshold: relu(v - Z) of the difference; or, a bit narrower, an
    antiperiodic |v - Z|, which gives twice as much. padding_score: added to the score of a padded
    key. output: requantizes the sum over keys, `[value_dim, entries]`; output_offset: int64
    `[value_dim]`, centres that sum. partial: None to add all keys at once.

    Raises ValueError for an antiperiodic threshold that isn't `antiperiodic_abs`.
    """

    distance: Table
    inhibition: Table
    threshold: Table
    padding_score: int
    output: Table
    output_offset: np.ndarray
    partial: PartialSums | None = None

    def __post_init__(self) -> None:
        # `_kept` proves 2 relu(x) by what this table is, without a look at its entries.
        if isinstance(self.threshold, AntiperiodicTable):
            found, wanted = self.threshold, antiperiodic_abs(self.threshold.bit_width)
            same = np.array_equal(found.values, wanted.values)
            if not same or (found.first, found.lsbs) != (wanted.first, wanted.lsbs):
                raise ValueError(
                    f"an antiperiodic threshold of {found.values.shape[-1]} entries from index "
                    f"{found.first} on, {found.lsbs} low bits rounded off, isn't |t| less a "
                    f"constant: wanted antiperiodic_abs({wanted.bit_width})"
                )


def inhibitor(
    q: Any, k: Any, v: Any, padding: Any, pairs: Pairs, p: InhibitorParameters, lookup: Lookup
) -> Any:
    """Attend with one head: int `[n_queries, value_dim]`.

    q: int `[n_queries, key_dim]`, or None if the query is a constant; then k holds the
    distances to it. k: `[n, key_dim]`. v: `[n, value_dim]`, unsigned. padding:
    `[n]`, 1 for a padded key. Lookups, with P pairs: P key_dim (0 for a constant query)
    + P + P value_dim + n_queries value_dim, and value_dim for each partial sum.
    """
    z = _inhibition(q, k, padding, pairs, p, lookup)  # [P, 1]
    kept = _kept(v[pairs.j] - z, p.threshold, lookup)  # [P, value_dim]
    return _output(kept, pairs, p, lookup)


def inhibitor_signed(
    q: Any, k: Any, v: Any, padding: Any, pairs: Pairs, p: InhibitorParameters, lookup: Lookup
) -> Any:
    """Attend with one signed head: like `inhibitor`, for signed v.

    Lookups: P key_dim + P + 2 P value_dim + n_queries value_dim, and value_dim for each
    partial sum.
    """
    z = _inhibition(q, k, padding, pairs, p, lookup)
    values = v[pairs.j]
    kept = _kept(values - z, p.threshold, lookup) - _kept(-values - z, p.threshold, lookup)
    return _output(kept, pairs, p, lookup)


def _inhibition(
    q: Any, k: Any, padding: Any, pairs: Pairs, p: InhibitorParameters, lookup: Lookup
) -> Any:
    """Return Z of every pair, `[P, 1]`."""
    distance = k[pairs.j]
    if q is not None:
        distance = lookup(q[pairs.i] - distance, p.distance)
    score = np.sum(distance, axis=-1) + padding[pairs.j] * p.padding_score
    z = lookup(score, p.inhibition.take(pairs.offset))
    return np.expand_dims(z, axis=-1)


def _kept(difference: Any, threshold: Table, lookup: Lookup) -> Any:
    """Return relu(difference); 2 relu(x) = x + |x| where the table holds |x| less a constant."""
    kept = lookup(difference, threshold)
    if not isinstance(threshold, AntiperiodicTable):
        return kept
    if isinstance(difference, Interval):  # a sum of intervals forgets that both terms read one x
        return Interval(*(2 * np.maximum(x, 0) for x in (difference.low, difference.high)))
    return difference + kept - threshold.range[0]


def _output(kept: Any, pairs: Pairs, p: InhibitorParameters, lookup: Lookup) -> Any:
    """Return the requantized sum over keys of what the inhibition left."""
    total = sum_over_keys(kept, pairs, p.partial, lookup)
    return lookup(total + p.output_offset, p.output)
