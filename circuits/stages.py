"""The stages of an encrypted transformer: project, attend, feed_forward, classify.

One layer is `project`, then `attend` for each head, then `feed_forward`; `classify` ends the
network. Each takes integer arrays, clear parameters and a `lookup` (see `circuits.lookups`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from circuits.dot_product import DotProductParameters, dot_product
from circuits.inhibitor import InhibitorParameters, inhibitor, inhibitor_signed
from circuits.linear import Linear, linear
from circuits.lookups import Lookup, Table
from circuits.pairs import Pairs, make_pairs

ATTENTION: dict[str, Callable] = {
    "inhibitor": inhibitor,
    "inhibitor_signed": inhibitor_signed,
    "dot_product": dot_product,
}


@dataclass(frozen=True)
class Head:
    """One head: its projections and its attention.

    query: None if the query is a constant, which then sits in the tables of `key`.
    """

    query: Linear | None
    key: Linear
    value: Linear
    attention: InhibitorParameters | DotProductParameters


@dataclass(frozen=True)
class Layer:
    """One transformer layer of clear integer parameters.

    attention: a key of `ATTENTION`. window: 0 for full attention. max_offset: largest
    relative offset that a table of the heads tells apart. single_query: only the first
    position, of a causal layer the last one, or the constant query, is computed (the last layer).
    attention_output: heads to the residual stream. hidden, output: the feed-forward block, or None
    without one. pooled: how many neighbouring positions of its input are added up to one (`pool`),
    1 for none. causal: whether a query reads no key after it.
    """

    attention: str
    window: int
    max_offset: int
    single_query: bool
    heads: tuple[Head, ...]
    attention_output: Linear
    hidden: Linear | None
    output: Linear | None
    pooled: int = 1
    causal: bool = False

    @property
    def constant_query(self) -> bool:
        """Whether the query is part of the parameters, not of the input."""
        return self.heads[0].query is None

    def pairs(self, n: int) -> Pairs:
        """Return the (query, key) pairs for n positions, as they are after pooling."""
        return make_pairs(n, len(self.asking(n)), self.window, self.max_offset, self.causal)

    def asking(self, n: int) -> range:
        """Return which of n positions ask: all of them, or the one that is read."""
        if not self.single_query:
            return range(n)
        return range(n - 1, n) if self.causal else range(1)

    def queries(self, x: Any) -> Any:
        """Return the positions of x `[n, dim]` that ask: all of them, or the one that is read."""
        if not self.single_query:
            return x
        return x[x.shape[0] - 1 :] if self.causal else x[:1]


@dataclass(frozen=True)
class Classifier:
    """`pre_classifier` with its ReLU, then logits that the client multiplies by a public scale.

    weight: int64 `[dim, n_labels]`, offset: int64 `[n_labels]`. output: requantizes each logit,
    `[n_labels, entries]`, or None for the plain sums. A sum must decrypt exactly to its last
    bit; beyond 7 bits that demands less noise, hence dearer lookups in the whole network.
    """

    pre_classifier: Linear
    weight: np.ndarray
    offset: np.ndarray
    output: Table | None = None


def pool(x: Any, pooled: int) -> Any:
    """Return the sums of each `pooled` neighbouring positions of x `[n, dim]`: `[n / pooled, dim]`.

    A sum, not a mean: the weights that read it are of integers, and no lookup is needed.

    >>> pool(np.array([[1, 2], [3, 4], [5, 6], [7, 8]]), 2).tolist()
    [[4, 6], [12, 14]]
    """
    total = x
    if pooled > 1:
        total = x[0::pooled]
        for place in range(1, pooled):
            total = total + x[place::pooled]
    return total


def project(x: Any, layer: Layer, lookup: Lookup, asks: bool = True) -> list[tuple[Any, Any, Any]]:
    """Return (q, k, v) of each head; q is None for a constant query.

    x: int `[n pooled, dim]`. asks: whether the layer's single query, if it has one, is in x;
    without it q is None. Lookups: for each head n_queries key_dim (0 for a constant query)
    + n key_dim + n value_dim.
    """
    x = pool(x, layer.pooled)
    queries = layer.queries(x)
    without = layer.single_query and not asks
    return [
        (
            None if head.query is None or without else linear(queries, head.query, lookup),
            linear(x, head.key, lookup),
            linear(x, head.value, lookup),
        )
        for head in layer.heads
    ]


def attend(
    q: Any,
    k: Any,
    v: Any,
    padding: Any,
    layer: Layer,
    head: int,
    lookup: Lookup,
    pairs: Pairs | None = None,
) -> Any:
    """Attend with one head of a layer: int `[n_queries, value_dim]`.

    padding: int `[n_tokens]`, n or a multiple of it, 1 for padding. A key contributes nothing where
    the first of the tokens that were pooled into it is padding: then all of them are. pairs: of a
    block of queries and keys, those of the layer if None.
    """
    attention = ATTENTION[layer.attention]
    if pairs is None:
        pairs = layer.pairs(v.shape[0])
    stride = padding.shape[0] // v.shape[0]
    if stride > 1:
        padding = padding[::stride]
    return attention(q, k, v, padding, pairs, layer.heads[head].attention, lookup)


def feed_forward(heads: Sequence[Any], x: Any, layer: Layer, lookup: Lookup) -> Any:
    """Return the next layer's input from the heads' outputs and the layer's input.

    heads: int `[n_queries, value_dim]` each. x: int `[n pooled, dim]`, the residual input,
    or None where the query is a constant. Lookups: n_queries (dim + hidden_dim + dim), or
    n_queries dim without a feed-forward block.
    """
    if x is not None:
        x = layer.queries(pool(x, layer.pooled))
    joined = np.concatenate(tuple(heads), axis=-1)
    attended = linear(joined, layer.attention_output, lookup, residual=x)
    if layer.hidden is None or layer.output is None:
        return attended
    hidden = linear(attended, layer.hidden, lookup)
    return linear(hidden, layer.output, lookup, residual=attended)


def classify(x: Any, classifier: Classifier, lookup: Lookup) -> Any:
    """Return logits in integer steps, `[1, n_labels]`.

    x: int `[n_queries, dim]`, of which the first is read. Lookups: the width of
    `pre_classifier`, and n_labels if the logits are requantized.
    """
    features = linear(x[:1], classifier.pre_classifier, lookup)
    logits = features @ classifier.weight + classifier.offset
    return logits if classifier.output is None else lookup(logits, classifier.output)
