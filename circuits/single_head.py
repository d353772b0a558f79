"""One attention head alone, in five circuits with one interface: what the benchmarks compare.

    inhibitor_exact       lookups as wide as differences and sums are, as in Brännvall 2023
    inhibitor_rounded     distances and thresholds from antiperiodic tables, scores rounded
    inhibitor_signed      the same for signed v
    dot_product_exact     lookups as wide as products and sums are
    dot_product_rounded   one lookup a product, rounded lookups of at most 5 bits; squares of
                          q - k from an antiperiodic table, exponentials from one that saturates

All take q, k, v `[n, d]` and return H `[n, d]` as plain sums over keys, which the client scales.
Lookups, for operands that fit no packed table:

    inhibitor_exact, inhibitor_rounded    n^2 (2 d + 1)
    inhibitor_signed                      n^2 (3 d + 1)
    dot_product_exact                     n^2 (4 d + 2) + n
    dot_product_rounded                   n^2 (2 d + 3) + n (3 d + 1)

A softmax that takes two lookups for each product of two secrets has n^2 (4 d + 3) + n; in
`dot_product_exact` E / R takes one, of both packed into one index: hence n^2 less.

A block, the head of m of its queries alone, has m n in the place of n^2. The squares of k and v,
2 n d lookups of `dot_product_rounded`, are looked up in each block. In a task of their own, before
the blocks, they would take as long where all blocks run at once.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from circuits.dot_product import Product
from circuits.inhibitor import InhibitorParameters, inhibitor, inhibitor_signed
from circuits.intervals import Interval, full, interval_lookup
from circuits.lookups import Lookup, Table
from circuits.pairs import make_pairs
from circuits.softmax import (
    NarrowSoftmaxParameters,
    WideSoftmaxParameters,
    softmax_narrow,
    softmax_wide,
)

PLAIN_SUM = Table(np.zeros(1, dtype=np.int64))  # as an output table: the sum as it is

# E is part of its sum and of the packed operand: one encoding, as wide as the wider one. Concrete
# shifts what it reads to the table's own width, but not beyond this many bits.
CONVERTED_BITS = 8

HeadParameters = InhibitorParameters | WideSoftmaxParameters | NarrowSoftmaxParameters


@dataclass(frozen=True)
class AttentionHead:
    """A head of one circuit for n tokens of width `head_dim`.

    qk_range, v_range: smallest and largest integer of q and k, and of v. queries: how many of the n
    it answers, None for all.
    """

    circuit: str
    n: int
    head_dim: int
    qk_range: tuple[int, int]
    v_range: tuple[int, int]
    parameters: HeadParameters
    queries: int | None = None

    @property
    def n_queries(self) -> int:
        """Rows of q and of H."""
        return self.n if self.queries is None else self.queries

    def block(self, queries: int) -> AttentionHead:
        """Return the head of so many of its queries, whichever these are: each meets all keys."""
        return replace(self, queries=None if queries == self.n else queries)

    def evaluate(self, q: Any, k: Any, v: Any, lookup: Lookup) -> Any:
        """Return H, int `[n_queries, head_dim]`."""
        pairs = make_pairs(self.n, self.n_queries, window=0, max_offset=0)
        p = self.parameters
        if isinstance(p, WideSoftmaxParameters):
            return softmax_wide(q, k, v, pairs, p, lookup)
        if isinstance(p, NarrowSoftmaxParameters):
            return softmax_narrow(q, k, v, pairs, p, lookup)
        attention = inhibitor_signed if self.circuit == "inhibitor_signed" else inhibitor
        none_padded = np.zeros(self.n, dtype=np.int64)
        return attention(q, k, v, none_padded, pairs, p, keeping_sums(lookup))

    def prove(self) -> Interval:
        """Return bounds of H over all inputs. Raises OverflowError if a table could be left."""
        q = full((self.n_queries, self.head_dim), *self.qk_range)
        k, v = (full((self.n, self.head_dim), *r) for r in (self.qk_range, self.v_range))
        return self.evaluate(q, k, v, interval_lookup)

    def count_lookups(self) -> Counter[int]:
        """Return the lookups by bit width, from shapes and tables alone."""
        return sum((Counter({w: c}) for c, w in self._lookups()), Counter())

    def _lookups(self) -> list[tuple[int, int]]:
        """Return (count, bit width) of each tensor of lookups."""
        m, n, d, p = self.n_queries, self.n, self.head_dim, self.parameters
        if isinstance(p, WideSoftmaxParameters):
            return _wide(p, m, n, d)
        if isinstance(p, NarrowSoftmaxParameters):
            return _narrow(p, m, n, d)
        sides = 2 if self.circuit == "inhibitor_signed" else 1
        return [
            (m * n * d, p.distance.bit_width),
            (m * n, p.inhibition.bit_width),
            (m * n * d * sides, p.threshold.bit_width),
        ]


def keeping_sums(lookup: Lookup) -> Lookup:
    """Return a lookup that leaves what `PLAIN_SUM` reads as it is."""

    def kept(x: Any, table: Table) -> Any:
        return x if table is PLAIN_SUM else lookup(x, table)

    return kept


def _wide(p: WideSoftmaxParameters, m: int, n: int, d: int) -> list[tuple[int, int]]:
    widths = (p.total.bit_width, p.normalised.bit_width)
    total, normalised = (w if w <= CONVERTED_BITS else max(widths) for w in widths)
    return [
        *_products(p.score, m * n * d),
        (m * n, p.exponential.bit_width),
        (m, total),
        (m * n, normalised),
        *_products(p.weighted, m * n * d),
    ]


def _narrow(p: NarrowSoftmaxParameters, m: int, n: int, d: int) -> list[tuple[int, int]]:
    return [
        ((m + n) * d, p.operand.bit_width),
        (m * n * d, p.difference.bit_width),
        (m * n, p.exponential.bit_width),
        (m, p.logarithm.bit_width),
        (m * n, p.weight.bit_width),
        (m * n, p.weight_squared.bit_width),
        (n * d, p.value.bit_width),
        (m * n * d, p.spread.bit_width),
    ]


def _products(product: Product, count: int) -> list[tuple[int, int]]:
    tables = [product.packed] if product.packed is not None else [product.plus, product.minus]
    return [(count, table.bit_width) for table in tables]
