"""Dot-product attention on integers, the baseline, with every trick that the inhibitor gets.

For query i, key j, value channel l:

    E_ij = exp( sum_k q_ik k_jk )                          rounded lookup, the row maximum
                                                           replaced by a calibrated constant
    H_il = ( sum_j E_ij v_jl ) * ( 1 / sum_j E_ij )        normalised once per row, not per
                                                           pair, as flash attention does

Products of two secrets take one lookup if both fit one table (`2^b x + y`), and two
otherwise: x y = floor((x + y)^2 / 4) - floor((x - y)^2 / 4), exact because x + y and x - y
have the same parity.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np

from circuits.intervals import narrow
from circuits.lookups import Lookup, Table, bit_width, table_of
from circuits.pairs import Pairs
from circuits.sums import PartialSums, sum_over_keys

PACKED_BITS = 5


@dataclass(frozen=True)
class Product:
    """How to multiply the values that two encrypted integers x and y stand for.

    packed: table of `x * 2^y_bits + (y - y_low)`, or None for two quarter squares, then
    plus, minus: tables of `x_factor x + y_factor y` and `x_factor x - y_factor y`. range:
    smallest and largest product.
    """

    y_bits: int
    y_low: int
    packed: Table | None
    x_factor: int
    y_factor: int
    plus: Table
    minus: Table
    range: tuple[int, int]

    @property
    def lookups(self) -> int:
        """Lookups of one product."""
        return 1 if self.packed else 2


@dataclass(frozen=True)
class DotProductParameters:
    """Clear integer parameters of one dot-product head.

    score: q times k; unused where the query is a constant. exponential: score to E,
    `[n_offsets, entries]`. padding_score: added to the score of a padded key, where the
    table's entries are 0. weighted: E times v. total: sum of E to its reciprocal. mean:
    requantizes the sum of E v, `[value_dim, entries]`. normalised: that times the reciprocal.
    output: requantizes the product, `[value_dim, entries]`. partial_total, partial_mean: None to
    add E, or E v, over all keys at once.
    """

    score: Product
    exponential: Table
    score_offset: int
    padding_score: int
    weighted: Product
    total: Table
    total_offset: int
    mean: Table
    mean_offset: np.ndarray
    normalised: Product
    output: Table
    output_offset: np.ndarray
    partial_total: PartialSums | None = None
    partial_mean: PartialSums | None = None


def make_product(
    x_range: tuple[int, int],
    y_range: tuple[int, int],
    x_value: tuple[int, int] = (1, 0),
    y_value: tuple[int, int] = (1, 0),
) -> Product:
    """Return the cheapest product of (a x + b) and (c y + d): packed if it fits 5 bits.

    x_range, y_range: smallest and largest integer. x_value, y_value: (a, b) and (c, d); the
    factors are clear, so they are free.

    >>> make_product((0, 3), (-4, 3)).lookups, make_product((0, 15), (-8, 7)).lookups
    (1, 2)
    """
    (x_low, x_high), (y_low, y_high) = x_range, y_range
    (a, b), (c, d) = x_value, y_value
    corners = [(a * x + b) * (c * y + d) for x in x_range for y in y_range]
    y_bits = bit_width(0, y_high - y_low)
    packed = None
    if bit_width(x_low << y_bits, (x_high << y_bits) + y_high - y_low) <= PACKED_BITS:
        mask = (1 << y_bits) - 1

        def unpacked(t: np.ndarray) -> np.ndarray:
            y = np.minimum((t & mask) + y_low, y_high)  # no entry beyond y's range, read or not
            return (a * (t >> y_bits) + b) * (c * y + d)

        packed = table_of(unpacked, x_low << y_bits, (x_high << y_bits) + y_high - y_low)
    unit = gcd(a, c)
    a, c = a // unit, c // unit
    return Product(
        y_bits,
        y_low,
        packed,
        a,
        c,
        table_of(
            lambda t: (unit * t + b + d) ** 2 // 4, a * x_low + c * y_low, a * x_high + c * y_high
        ),
        table_of(
            lambda t: (unit * t + b - d) ** 2 // 4, a * x_low - c * y_high, a * x_high - c * y_low
        ),
        (min(corners), max(corners)),
    )


def multiply(x: Any, y: Any, product: Product, lookup: Lookup) -> Any:
    """Return the product of two encrypted integers, one or two lookups an element."""
    if product.packed is not None:
        return lookup(x * (1 << product.y_bits) + (y - product.y_low), product.packed)
    x, y = x * product.x_factor, y * product.y_factor
    return narrow(lookup(x + y, product.plus) - lookup(x - y, product.minus), product.range)


def dot_product(
    q: Any, k: Any, v: Any, padding: Any, pairs: Pairs, p: DotProductParameters, lookup: Lookup
) -> Any:
    """Attend with one head: int `[n_queries, value_dim]`; arguments as `inhibitor`.

    For a constant query (q None) k holds the score itself, `[n, 1]`, since a product
    with a constant is linear. Lookups, with m = 1 or 2 per product: m P key_dim + P +
    m P value_dim + n_queries (1 + (m + 2) value_dim), 1 for each partial sum of E and value_dim
    for each of E v.
    """
    scores = k[pairs.j]
    if q is not None:
        scores = multiply(q[pairs.i], scores, p.score, lookup)
    score = np.sum(scores, axis=-1) + p.score_offset + padding[pairs.j] * p.padding_score
    e = np.expand_dims(lookup(score, p.exponential.take(pairs.offset)), axis=-1)  # [..., P, 1]
    weighted = multiply(e, v[pairs.j], p.weighted, lookup)  # [..., P, value_dim]
    total = sum_over_keys(e, pairs, p.partial_total, lookup)
    reciprocal = lookup(total + p.total_offset, p.total)  # [..., n_queries, 1]
    mean = sum_over_keys(weighted, pairs, p.partial_mean, lookup)
    mean = lookup(mean + p.mean_offset, p.mean)
    normalised = multiply(mean, reciprocal, p.normalised, lookup)
    return lookup(normalised + p.output_offset, p.output)
