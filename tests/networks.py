"""Random integer networks whose tables cover their accumulators: what tests compile and run.

Each stage's tables are fitted to the interval of its accumulator, so that a network of any
shape is consistent by construction, without training or quantization. Where tables saturate, a
sum may lie beyond their entries, on either side, as far as they read right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from circuits.dot_product import DotProductParameters, make_product
from circuits.inhibitor import InhibitorParameters
from circuits.intervals import Interval, full
from circuits.linear import Linear
from circuits.lookups import (
    Lookup,
    SaturatingTable,
    Table,
    antiperiodic_abs,
    exact_lookup,
    saturating,
    table_of,
)
from circuits.network import Network
from circuits.plan import Stage
from circuits.sentence_head import SentenceHead
from circuits.stages import Classifier, Head, Layer
from circuits.sums import PartialSums

INPUT_RANGE = (-8, 7)


@dataclass(frozen=True)
class NetworkShape:
    """What a random network looks like.

    last_query: "constant", "first" or "all", the queries that the last layer computes; the
    other layers compute all. window: of every layer but the last, whose attention is full.
    weight_limit: largest weight. plain_logits: whether the logits are sums without a lookup.
    bits: of q, k, v and Z. lookup_bits: widest rounded lookup. max_tokens: largest bucket that
    the sums over keys must hold. keys_per_sum: of the last layer, 0 to add all keys at once.
    saturating: whether sums reach beyond the entries of tables that are flat at both ends, codes
    are symmetric around 0, and |q - k| and |v - Z| are antiperiodic; of a dot product, only what
    linear layers give. pooling: after each layer, 1 for none; of the last it isn't read. causal: of
    every layer but one with a constant query; then "first" is the last position.
    """

    attention: str = "inhibitor"
    n_layers: int = 2
    last_query: str = "constant"
    window: int = 2
    max_offset: int = 2
    dim: int = 8
    n_heads: int = 2
    key_dim: int = 2
    value_dim: int = 4
    last_key_dim: int = 4
    hidden_dim: int = 0
    n_labels: int = 2
    weight_limit: int = 3
    plain_logits: bool = False
    bits: int = 2
    lookup_bits: int = 5
    max_tokens: int = 8
    keys_per_sum: int = 0
    saturating: bool = False
    pooling: tuple[int, ...] = ()
    causal: bool = False

    def pooled(self, index: int) -> int:
        """Return how many positions are added up to one that layer `index` reads."""
        return self.pooling[index - 1] if 0 < index <= len(self.pooling) else 1

    def keys(self, index: int) -> int:
        """Return the most positions that layer `index` has."""
        return self.max_tokens // prod(self.pooled(i) for i in range(index + 1))


SHIPPED = NetworkShape(dim=32, last_key_dim=8, max_tokens=24, keys_per_sum=4)


def random_network(rng: np.random.Generator, shape: NetworkShape | None = None) -> Network:
    """Return a network of this shape with random weights and tables."""
    shape = shape or NetworkShape()
    layers = tuple(_layer(rng, shape, index) for index in range(shape.n_layers))
    x = full((1, shape.dim), *INPUT_RANGE)
    pre_classifier, features = _linear(rng, shape, x, shape.dim, (0, 15))
    logits, _ = _linear(rng, shape, features, shape.n_labels, (-31, 31))
    classifier = Classifier(
        pre_classifier, logits.weight, logits.offset, None if shape.plain_logits else logits.table
    )
    return Network(layers, classifier, shape.dim, INPUT_RANGE)


def fitting_length(network: Network, n: int) -> int:
    """Return the smallest length that the network can be evaluated for and that holds n tokens."""
    return -(-n // network.stride) * network.stride


def random_inputs(
    rng: np.random.Generator, network: Network, n: int, n_padded: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return a random input int64 `[n, dim]` and its padding `[n]`.

    The last positions are padded, of a causal network the first ones.
    """
    low, high = network.input_range
    padding = (np.arange(n) >= n - n_padded).astype(np.int64)
    padding = padding[::-1] if network.causal else padding
    return rng.integers(low, high + 1, (n, network.dim)), padding


def evaluate_stages(
    listed: Sequence[Stage], values: Mapping[str, Any], lookup: Lookup = exact_lookup
) -> dict[str, Any]:
    """Run stages one after the other on named values; return all values, inputs included."""
    known = dict(values)
    for stage in listed:
        outputs = stage.evaluate([known[name] for name in stage.inputs], lookup)
        known.update(zip(stage.outputs, outputs, strict=True))
    return known


def n_beyond(x: np.ndarray, table: Table) -> int:
    """Return how many sums lie beyond the entries of a table that saturates."""
    if not isinstance(table, SaturatingTable):
        return 0
    index = (x + ((1 << table.lsbs) >> 1)) >> table.lsbs
    return int(np.count_nonzero((index < table.first) | (index > table.last)))


def worst_inputs(network: Network, n: int) -> np.ndarray:
    """Return x `[n, dim]` whose rows take sums of the first layer to one end, then the other."""
    low, high = network.input_range
    weights = [layer.weight for head in network.layers[0].heads for layer in (head.value, head.key)]
    columns = np.concatenate(weights, axis=1).T
    rows = [np.where(sign * w > 0, high, low) for w in columns for sign in (1, -1)]
    return np.array([rows[i % len(rows)] for i in range(n)])


def _layer(rng: np.random.Generator, shape: NetworkShape, index: int) -> Layer:
    last = index == shape.n_layers - 1
    constant = last and shape.last_query == "constant"
    pooled = shape.pooled(index)
    x = full((1, shape.dim), *INPUT_RANGE) * pooled
    heads = tuple(_head(rng, shape, x, index, constant) for _ in range(shape.n_heads))
    joined = full((1, shape.n_heads * shape.value_dim), *INPUT_RANGE)
    attention_output, attended = _linear(
        rng, shape, joined, shape.dim, INPUT_RANGE, None if constant else x
    )
    hidden = output = None
    if shape.hidden_dim:
        hidden, values = _linear(rng, shape, attended, shape.hidden_dim, (0, 15))
        output, _ = _linear(rng, shape, values, shape.dim, INPUT_RANGE, attended)
    return Layer(
        attention=shape.attention,
        window=0 if last else shape.window,
        max_offset=0 if last else shape.max_offset,
        single_query=last and shape.last_query != "all",
        heads=heads,
        attention_output=attention_output,
        hidden=hidden,
        output=output,
        pooled=pooled,
        causal=shape.causal and not constant,
    )


def _head(
    rng: np.random.Generator, shape: NetworkShape, x: Interval, index: int, constant: bool
) -> Head:
    """Return one head of a layer that reads x; the key of a constant query holds its distance or
    its score."""
    last = index == shape.n_layers - 1
    dot = shape.attention == "dot_product"
    top = 1 << shape.bits
    signed, unsigned = (-top // 2, top // 2 - 1), (0, top - 1)
    key_dim = shape.last_key_dim if last else shape.key_dim
    keys = signed if dot else unsigned
    key_width = 1 if dot and constant else key_dim
    query = None if constant else _linear(rng, shape, x, key_dim, keys)[0]
    # A distance to a constant query rises on both sides.
    key = _linear(rng, shape, x, key_width, keys, monotone=dot or not constant)[0]
    values = unsigned if shape.attention == "inhibitor" else signed
    value = _linear(rng, shape, x, shape.value_dim, values)[0]
    n_offsets = 1 if last else 2 * shape.max_offset + 1
    keys_per_query = shape.keys(index)
    if shape.window and not last:
        keys_per_query = min(keys_per_query, 2 * shape.window + 1)
    attention = (_dot_product if dot else _inhibitor)(
        rng,
        shape,
        key_width,
        n_offsets,
        keys_per_query,
        shape.keys_per_sum if last else 0,
        constant,
    )
    return Head(query, key, value, attention)


def _inhibitor(
    rng: np.random.Generator,
    shape: NetworkShape,
    key_dim: int,
    n_offsets: int,
    keys_per_query: int,
    keys_per_sum: int,
    constant: bool,
) -> InhibitorParameters:
    top = (1 << shape.bits) - 1
    signed = shape.attention == "inhibitor_signed"
    v_low, v_top = (-(top // 2) - 1, top // 2 + 1) if signed else (0, top)  # Z saturates there
    furthest, unit = top, 1
    if shape.saturating:
        v_low, v_top, unit = -(top // 2), top // 2, 2
        furthest = top if constant else 2 * v_top
    z_low = 0 if signed else v_low
    score_top = key_dim * furthest
    padding_score = min(score_top, (1 << shape.lookup_bits) - 1 - score_top)
    if padding_score <= 0:
        raise ValueError(f"key_dim {key_dim} leaves no room for a padded key's score")
    scores = np.arange(score_top + padding_score + 1)
    shifts = rng.integers(0, max(padding_score // 2, 1), (n_offsets, 1))
    rising = (scores - shifts) * (v_top - z_low) // max(padding_score - shifts.max(), 1)
    z = np.clip(rising + z_low, z_low, v_top)
    lowest = (-v_top if signed else v_low) - v_top  # of v - Z, and of -v - Z where v is signed
    distance, threshold = table_of(np.abs, -top, top), table_of(_relu, lowest, v_top)
    first = 0
    if shape.saturating:
        distance = antiperiodic_abs(furthest.bit_length())
        threshold = antiperiodic_abs((-lowest).bit_length())
        first = 0 if constant else key_dim * int(distance.values.min())
    kept = (-unit * v_top if signed else 0, unit * (v_top - z_low))
    n_sums, partial = keys_per_query, None
    if keys_per_sum:
        partial, kept = _partial(kept, keys_per_sum, shape.lookup_bits, shape.saturating)
        n_sums = -(-n_sums // keys_per_sum)
    summed = full((1, shape.value_dim), kept[0] * n_sums, kept[1] * n_sums)
    fit = _fitted_saturating if shape.saturating else _fitted
    output, offset, _ = fit(rng, summed, INPUT_RANGE, shape.lookup_bits)
    return InhibitorParameters(
        distance=distance,
        inhibition=Table(z.astype(np.int64), first),
        threshold=threshold,
        padding_score=int(padding_score),
        output=output,
        output_offset=offset,
        partial=partial,
    )


def _relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def _dot_product(
    rng: np.random.Generator,
    shape: NetworkShape,
    key_dim: int,
    n_offsets: int,
    keys_per_query: int,
    keys_per_sum: int,
    constant: bool,
) -> DotProductParameters:
    top = 1 << shape.bits
    signed, unsigned = (-top // 2, top // 2 - 1), (0, top - 1)
    score = make_product(signed, signed)
    scores = full((1, 1), *signed) if constant else _product_range(signed, signed) * key_dim
    span = int(scores.high.max() - scores.low.min())
    lsbs = 0
    while (2 * span + 2) >> lsbs >= (1 << shape.lookup_bits) - 2:
        lsbs += 1
    # A padded key's score falls so far that rounding noise can't bring it back.
    drop = span + 1 + (1 << lsbs)
    exponential = table_of(
        lambda s: np.clip((s - drop) * top // (span + 1) + 1, 0, top - 1), 0, drop + span, lsbs
    )
    values = np.stack([exponential.values] * n_offsets)
    weights, n_sums = unsigned, keys_per_query
    weighted_range = _product_range(unsigned, signed)
    products = int(weighted_range.low.min()), int(weighted_range.high.max())
    partial_total = partial_mean = None
    if keys_per_sum:
        partial_total, weights = _partial(weights, keys_per_sum, shape.lookup_bits)
        partial_mean, products = _partial(products, keys_per_sum, shape.lookup_bits)
        n_sums = -(-n_sums // keys_per_sum)
    summed = full((1, 1), 0, n_sums * weights[1])
    total, total_offset, _ = _fitted(rng, summed, unsigned, shape.lookup_bits, shared=True)
    weighted = full((1, shape.value_dim), n_sums * products[0], n_sums * products[1])
    mean, mean_offset, _ = _fitted(rng, weighted, signed, shape.lookup_bits)
    normalised = _repeated(_product_range(signed, unsigned), shape.value_dim)
    output, output_offset, _ = _fitted(rng, normalised, INPUT_RANGE, shape.lookup_bits)
    return DotProductParameters(
        score=score,
        exponential=Table(values, exponential.first, lsbs),
        score_offset=int(drop - scores.low.min()),
        padding_score=-drop,
        weighted=make_product(unsigned, signed),
        total=total,
        total_offset=int(total_offset),
        mean=mean,
        mean_offset=mean_offset,
        normalised=make_product(signed, unsigned),
        output=output,
        output_offset=output_offset,
        partial_total=partial_total,
        partial_mean=partial_mean,
    )


def _partial(
    x_range: tuple[int, int], keys: int, bits: int, saturates: bool = False
) -> tuple[PartialSums, tuple[int, int]]:
    """Return partial sums that saturate at the ends of one key's range, and their range.

    saturates: whether to leave away the flat ends of a table that is symmetric around 0.
    """
    low, high = x_range
    lsbs = 0
    while (keys * high >> lsbs) + (lsbs > 0) - (keys * low >> lsbs) >= 1 << bits:
        lsbs += 1
    cut = table_of(lambda x: (x >> lsbs).clip(low, high), keys * low, keys * high, lsbs)
    if saturates and low == -high:
        for width in range(2, bits):
            with suppress(ValueError):
                cut = saturating(cut, width)
                break
    return PartialSums(keys, cut), cut.range


def _product_range(x: tuple[int, int], y: tuple[int, int]) -> Interval:
    products = np.multiply.outer(np.array(x), np.array(y))
    return Interval(np.array([[products.min()]]), np.array([[products.max()]]))


def _repeated(x: Interval, channels: int) -> Interval:
    return Interval(np.repeat(x.low, channels, axis=1), np.repeat(x.high, channels, axis=1))


def _linear(
    rng: np.random.Generator,
    shape: NetworkShape,
    x: Interval,
    n_out: int,
    out_range: tuple[int, int],
    residual: Interval | None = None,
    monotone: bool = True,
) -> tuple[Linear, Interval]:
    """Return a random linear layer fitted to `x`, and its output's range.

    monotone: whether its tables may saturate, where those of the network do.
    """
    limit = shape.weight_limit
    weight = rng.integers(-limit, limit + 1, (x.shape[-1], n_out))
    accumulator = x @ weight
    factor = None
    if residual is not None:
        factor = rng.integers(1, limit + 1, n_out)
        accumulator = accumulator + residual * factor
    fit = _fitted_saturating if shape.saturating and monotone else _fitted
    table, offset, out = fit(rng, accumulator, out_range, shape.lookup_bits)
    return Linear(weight, offset, table, factor), out


def _fitted(
    rng: np.random.Generator,
    accumulator: Interval,
    out_range: tuple[int, int],
    bits: int,
    shared: bool = False,
) -> tuple[Table, np.ndarray, Interval]:
    """Return a random table for `accumulator` `[1, channels]`, its offset and its output's range.

    shared: one table and one offset instead of one per channel.
    """
    low, high = accumulator.low.min(axis=0), accumulator.high.max(axis=0)
    if shared:
        low, high = low.min(), high.max()
    spread = int((high - low).max())
    lsbs = 0
    while spread >= 1 << bits if lsbs == 0 else spread >= ((1 << bits) - 1) << lsbs:
        lsbs += 1
    last = (spread >> lsbs) + (lsbs > 0)
    first = int(rng.integers(-last, 1))
    top = (last << lsbs) - (lsbs > 0)
    offset = (first << lsbs) - low + (top - (high - low)) // 2
    index = np.arange(first, last + first + 1)
    slope = rng.uniform(0.5, 2.0, np.shape(offset)) * rng.choice([-1, 1], np.shape(offset))
    centre = rng.uniform(0.2, 0.8, np.shape(offset))
    unit = (index - first) / max(1, last) - 0.5
    shaped = np.multiply.outer(slope, unit) + centre[..., None]
    bottom, top = out_range
    values = np.clip(np.round(shaped * (top - bottom) + bottom), bottom, top)
    table = Table(values.astype(np.int64), first, lsbs)
    return table, offset, full((1, *np.shape(low)), bottom, top)


def _fitted_saturating(
    rng: np.random.Generator, accumulator: Interval, out_range: tuple[int, int], bits: int
) -> tuple[SaturatingTable, np.ndarray, Interval]:
    """Return what `_fitted` does, for sums that reach 1.5 table lengths: monotone, -c to c.

    A quarter of the entries at each end is flat. Sums that reach less far lie at either end of
    the table's reach, or in its middle.
    """
    low, high = accumulator.low.min(axis=0), accumulator.high.max(axis=0)
    spread = int((high - low).max())
    width, lsbs = 2, 0
    while spread > (3 << (width - 1) + lsbs) - (1 << lsbs) - (lsbs > 0):
        width, lsbs = (width + 1, 0) if width < bits else (bits, lsbs + 1)
    entries, quarter, channels = 1 << width, 1 << (width - 2), len(low)
    c = (out_range[1] - out_range[0]) // 2
    centre = rng.uniform(quarter, 3 * quarter, (channels, 1))
    ramp = (np.arange(entries) - centre) / rng.uniform(0.2, 1.0, (channels, 1)) / quarter
    values = np.clip(np.round(c * ramp), -c, c).astype(np.int64)
    values[:, :quarter], values[:, -quarter:] = -c, c
    values *= rng.choice([-1, 1], (channels, 1))
    table = SaturatingTable(values, int(rng.integers(-entries, 1)), lsbs)
    slack = table.domain[1] - table.domain[0] - (high - low)
    offset = table.domain[0] - low + slack * rng.integers(0, 3, channels) // 2
    return table, offset, full((1, channels), -c, c)


def random_sentence_head(n_inputs: int, n_units: int, seed: int = 0) -> SentenceHead:
    """A head on codes -3 to 3; with hidden units, for vectors of a norm of 4, tables of 3 bits."""
    rng = np.random.default_rng(seed)
    last = n_units or n_inputs
    weight, offset = rng.integers(-3, 4, (last, 1)), rng.integers(-9, 10, 1)
    if not n_units:
        return SentenceHead(weight, offset, (-3, 3))
    hidden = rng.integers(-3, 4, (n_inputs, n_units))
    reach = 4.0 * np.linalg.norm(hidden, axis=0).max()
    lsbs = int(np.ceil(np.log2((reach + 1) / 3)))
    table = Table(rng.integers(0, 4, (n_units, 8)), -4, lsbs)
    linear = Linear(hidden, np.zeros(n_units, np.int64), table)
    return SentenceHead(weight, offset, (-3, 3), linear, max_norm=4.0)
