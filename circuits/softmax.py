"""Softmax attention on integers, normalised per pair; twice, for wide and for narrow lookups.

Conventional attention S = softmax(q k^T), H = S v, as lookups and sums. For query i, key j:

    wide      E = exp(q k), exact           R = code of sum_j E, exact     S = E / R, packed
    narrow    E = exp(q k), rounded         L = log(sum_j E), rounded      S = exp(q k - L), rounded

Narrow lookups can't hold the product E / R, so the division happens before the exponential,
where it is a subtraction of integers. Nor do they need the two lookups of `multiply`: from

    2 x y = x^2 + y^2 - (x - y)^2

a product takes one for each pair, since the squares of x and y alone are looked up once for
each token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from circuits.dot_product import Product, multiply
from circuits.intervals import narrow
from circuits.lookups import Lookup, Table
from circuits.pairs import Pairs


@dataclass(frozen=True)
class WideSoftmaxParameters:
    """Clear integer parameters of a head whose lookups are as wide as its sums.

    score: q times k. exponential: score to E. total: sum of E to its code, of `code_bits` bits.
    normalised: `2^code_bits E + code` to S. weighted: S times v.
    """

    score: Product
    exponential: Table
    total: Table
    code_bits: int
    normalised: Table
    weighted: Product


@dataclass(frozen=True)
class NarrowSoftmaxParameters:
    """Clear integer parameters of a head whose lookups are rounded.

    difference: (q - k)^2, or an antiperiodic table near it. operand: q^2, and k^2. exponential:
    2 q k to E. logarithm: sum of E to L, in units of 2 q k. weight: 2 q k - L to S. spread:
    (S - v)^2. weight_squared: S^2. value: v^2. E, S and (q - k)^2 may be less a constant, which the
    tables that read them put back. score_range: of the sum of 2 q k. weighted_range: of 2 S v.
    """

    difference: Table
    operand: Table
    exponential: Table
    logarithm: Table
    weight: Table
    spread: Table
    weight_squared: Table
    value: Table
    score_range: tuple[int, int]
    weighted_range: tuple[int, int]


def softmax_wide(
    q: Any, k: Any, v: Any, pairs: Pairs, p: WideSoftmaxParameters, lookup: Lookup
) -> Any:
    """Attend with one head: sum_j S_ij v_jl, int `[n_queries, value_dim]`.

    q: int `[n_queries, key_dim]`. k: `[n, key_dim]`. v: `[n, value_dim]`. Lookups, with m = 1 or
    2 a product: m P key_dim + 2 P + n_queries + m P value_dim.
    """
    products = narrow(multiply(q[pairs.i], k[pairs.j], p.score, lookup), p.score.range)
    score = np.sum(products, axis=-1)
    e = np.expand_dims(lookup(score, p.exponential), axis=-1)  # [..., P, 1]
    code = lookup(pairs.collect @ e, p.total)  # [..., n_queries, 1]
    s = lookup(e * (1 << p.code_bits) + code[pairs.i], p.normalised)
    return pairs.collect @ multiply(s, v[pairs.j], p.weighted, lookup)


def softmax_narrow(
    q: Any, k: Any, v: Any, pairs: Pairs, p: NarrowSoftmaxParameters, lookup: Lookup
) -> Any:
    """Attend with one head: 2 sum_j S_ij v_jl; arguments as `softmax_wide`.

    Lookups: P (key_dim + value_dim + 3) + n_queries (key_dim + 1) + n (key_dim + value_dim).
    """
    squares = lookup(q, p.operand)[pairs.i] + lookup(k, p.operand)[pairs.j]
    products = squares - lookup(q[pairs.i] - k[pairs.j], p.difference)
    score = narrow(np.expand_dims(np.sum(products, axis=-1), axis=-1), p.score_range)
    e = lookup(score, p.exponential)  # [..., P, 1]
    logarithm = lookup(pairs.collect @ e, p.logarithm)  # [..., n_queries, 1]
    s = lookup(score - logarithm[pairs.i], p.weight)
    squares = lookup(s, p.weight_squared) + lookup(v, p.value)[pairs.j]
    weighted = squares - lookup(s - v[pairs.j], p.spread)
    return pairs.collect @ narrow(weighted, p.weighted_range)
