"""How many lookups a network needs, by stage and bit width: a formula of shapes alone.

With P pairs of query and key, d channels of a key, h of a value and m queries, one head takes

    inhibitor           P d + P +   P h + m h
    inhibitor_signed    P d + P + 2 P h + m h
    dot_product         a P d + P + b P h + m + m h + c m h + m h

where a, b, c are the lookups of one product of two secrets (1 or 2), and the term in d is absent
for a constant query. Partial sums (`circuits.sums`) add h for
each group of keys, and 1 more for the dot product. A causal layer has fewer pairs. Pooling is a
sum, which takes none; then P and m are those of the shorter sequence. Every lookup is as wide as
its table.
`compile.lookup_counts` counts what Concrete compiled; the two must agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from circuits.blocks import LayerBlocks, block_names, blocks_of, cut
from circuits.documents import SCORE, scoring
from circuits.dot_product import DotProductParameters, Product
from circuits.inhibitor import InhibitorParameters
from circuits.linear import Linear
from circuits.lookups import Table
from circuits.network import Network
from circuits.stages import Classifier, Layer


def count_lookups(
    network: Network, n: int, blocks: Sequence[LayerBlocks] = ()
) -> dict[str, Counter[int]]:
    """Return the lookups of each stage, or block of one, by bit width, for n tokens.

    blocks: into how many blocks of rows those of each layer are cut; none cuts nothing. Raises
    ValueError as `circuits.plan.network_stages` does.
    """
    counts: dict[str, Counter[int]] = {}
    listed = blocks_of(blocks, len(network.layers))
    for index, (layer, length) in enumerate(zip(network.layers, network.lengths(n), strict=True)):
        cuts, prefix, m = listed[index], f"layer{index}", len(layer.asking(length))
        # Else the client evaluates these, in the clear.
        if index or network.client_boundary == "embedding":
            for name, rows in _cut(f"{prefix}.project", length, cuts.project):
                counts[name] = _project(layer, rows, length)
        for head in range(len(layer.heads)):
            for name, rows in _cut(f"{prefix}.attend.head{head}", m, cuts.attend):
                counts[name] = _attend(layer, head, length, rows)
        for name, rows in _cut(f"{prefix}.feed_forward", m, cuts.feed_forward):
            counts[name] = _feed_forward(layer, len(rows))
    counts["classify"] = _classify(network.classifier)
    return counts


def count_document_lookups(network: Network) -> dict[str, Counter[int]]:
    """Return the lookups of the stage that ends each piece of a long document, by bit width."""
    n_labels = network.classifier.weight.shape[1]
    return {SCORE: _classify(network.classifier) + _lookups(n_labels, scoring(network).table)}


def count_keys(n: int, n_queries: int, window: int, causal: bool = False) -> list[int]:
    """Return how many keys each query of `circuits.pairs.make_pairs` reads.

    >>> count_keys(4, 4, window=1), count_keys(4, 4, window=0, causal=True)
    ([2, 3, 3, 2], [1, 2, 3, 4])
    """
    reach = window or n
    positions = range(n - n_queries, n) if causal else range(n_queries)
    return [(i if causal else min(n - 1, i + reach)) - max(0, i - reach) + 1 for i in positions]


def count_pairs(n: int, n_queries: int, window: int, causal: bool = False) -> int:
    """Return the number of (query, key) pairs of `circuits.pairs.make_pairs`.

    >>> count_pairs(16, 16, window=2), count_pairs(16, 1, window=0)
    (74, 16)
    >>> count_pairs(16, 16, window=0, causal=True), count_pairs(16, 1, window=0, causal=True)
    (136, 16)
    """
    return sum(count_keys(n, n_queries, window, causal))


def count_groups(n: int, n_queries: int, window: int, size: int, causal: bool = False) -> int:
    """Return the number of groups of `Pairs.groups` for the same pairs.

    >>> count_groups(10, 1, window=0, size=4), count_groups(4, 4, window=1, size=2)
    (3, 6)
    """
    return _groups(count_keys(n, n_queries, window, causal), size)


def _groups(keys: Sequence[int], size: int) -> int:
    """Return the number of groups of up to `size` of the keys of one query."""
    return sum(-(-count // size) for count in keys)


def _cut(name: str, n: int, count: int) -> list[tuple[str, range]]:
    """Return the blocks of a stage by name."""
    rows = cut(n, count)
    return list(zip(block_names(name, len(rows)), rows, strict=True))


def _project(layer: Layer, rows: range, n: int) -> Counter[int]:
    """Return the lookups of these rows of n positions."""
    count: Counter[int] = Counter()
    n_queries = len(set(layer.asking(n)).intersection(rows))
    for head in layer.heads:
        if head.query is not None:
            count += _linear(n_queries, head.query)
        count += _linear(len(rows), head.key) + _linear(len(rows), head.value)
    return count


def _attend(layer: Layer, head: int, n: int, queries: range) -> Counter[int]:
    """Return the lookups of these queries of n positions."""
    m = len(queries)
    listed = count_keys(n, len(layer.asking(n)), layer.window, layer.causal)
    keys = listed[queries.start : queries.stop]
    n_pairs = sum(keys)
    parameters = layer.heads[head].attention
    key_dim = layer.heads[head].key.weight.shape[1]
    value_dim = layer.heads[head].value.weight.shape[1]
    if isinstance(parameters, DotProductParameters):
        count = _dot_product(parameters, n_pairs, m, key_dim, value_dim, layer.constant_query)
        sums = [(value_dim, parameters.partial_mean), (1, parameters.partial_total)]
    else:
        sides = 2 if layer.attention == "inhibitor_signed" else 1
        constant = layer.constant_query
        count = _inhibitor(parameters, n_pairs, m, key_dim, value_dim * sides, constant)
        sums = [(value_dim, parameters.partial)]
    for channels, partial in sums:
        if partial is not None:
            count += _lookups(_groups(keys, partial.keys) * channels, partial.table)
    return count


def _inhibitor(
    p: InhibitorParameters, n_pairs: int, m: int, key_dim: int, thresholds: int, constant: bool
) -> Counter[int]:
    value_dim = len(p.output_offset)
    count = _lookups(n_pairs, p.inhibition) + _lookups(n_pairs * thresholds, p.threshold)
    if not constant:
        count += _lookups(n_pairs * key_dim, p.distance)
    return count + _lookups(m * value_dim, p.output)


def _dot_product(
    p: DotProductParameters, n_pairs: int, m: int, key_dim: int, value_dim: int, constant: bool
) -> Counter[int]:
    count = _lookups(n_pairs, p.exponential) + _product(n_pairs * value_dim, p.weighted)
    if not constant:
        count += _product(n_pairs * key_dim, p.score)
    count += _lookups(m, p.total) + _lookups(m * value_dim, p.mean)
    return count + _product(m * value_dim, p.normalised) + _lookups(m * value_dim, p.output)


def _feed_forward(layer: Layer, m: int) -> Counter[int]:
    count = _linear(m, layer.attention_output)
    if layer.hidden is not None and layer.output is not None:
        count += _linear(m, layer.hidden) + _linear(m, layer.output)
    return count


def _classify(classifier: Classifier) -> Counter[int]:
    count = _linear(1, classifier.pre_classifier)
    if classifier.output is not None:
        count += _lookups(classifier.weight.shape[1], classifier.output)
    return count


def _linear(rows: int, parameters: Linear) -> Counter[int]:
    return _lookups(rows * parameters.weight.shape[1], parameters.table)


def _product(count: int, product: Product) -> Counter[int]:
    if product.packed is not None:
        return _lookups(count, product.packed)
    return _lookups(count, product.plus) + _lookups(count, product.minus)


def _lookups(count: int, table: Table) -> Counter[int]:
    return Counter({table.bit_width: count})
