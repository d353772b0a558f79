"""Random integer networks whose tables cover their accumulators: what tests compile and run.

Each stage's tables are fitted to the interval of its accumulator, so that a network of any
shape is consistent by construction, without training or quantization.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from circuits.dot_product import DotProductParameters, make_product
from circuits.inhibitor import InhibitorParameters
from circuits.intervals import Interval, full
from circuits.linear import Linear
from circuits.lookups import Table, bit_width, table_of
from circuits.network import Network
from circuits.stages import Classifier, Head, Layer

INPUT_RANGE = (-8, 7)


@dataclass(frozen=True)
class NetworkShape:
    """What a random network looks like.

    last_query: "constant", "first" or "all", the queries that the last layer computes; the
    other layers compute all. window: of every layer but the last, whose attention is full.
    bits: of q, k, v and Z. lookup_bits: widest rounded lookup. max_tokens: largest bucket that
    the sums over keys must hold.
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
    bits: int = 2
    lookup_bits: int = 5
    max_tokens: int = 8


SHIPPED = NetworkShape(dim=32, last_key_dim=8, max_tokens=24)


def random_network(rng: np.random.Generator, shape: NetworkShape | None = None) -> Network:
    """Return a network of this shape with random weights and tables."""
    shape = shape or NetworkShape()
    layers = tuple(_layer(rng, shape, index) for index in range(shape.n_layers))
    x = full((1, shape.dim), *INPUT_RANGE)
    pre_classifier, features = _linear(rng, x, shape.dim, (0, 15), shape.lookup_bits)
    weight = rng.integers(-3, 4, (shape.dim, shape.n_labels))
    middle = features @ weight
    offset = -((middle.low + middle.high)[0] // 2)
    return Network(layers, Classifier(pre_classifier, weight, offset), shape.dim, INPUT_RANGE)


def random_inputs(
    rng: np.random.Generator, network: Network, n: int, n_padded: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return a random input int64 `[n, dim]` and its padding `[n]`, the last ones padded."""
    low, high = network.input_range
    padding = (np.arange(n) >= n - n_padded).astype(np.int64)
    return rng.integers(low, high + 1, (n, network.dim)), padding


def _layer(rng: np.random.Generator, shape: NetworkShape, index: int) -> Layer:
    last = index == shape.n_layers - 1
    constant = last and shape.last_query == "constant"
    heads = tuple(_head(rng, shape, last, constant) for _ in range(shape.n_heads))
    x = full((1, shape.dim), *INPUT_RANGE)
    joined = full((1, shape.n_heads * shape.value_dim), *INPUT_RANGE)
    attention_output, attended = _linear(
        rng, joined, shape.dim, INPUT_RANGE, shape.lookup_bits, None if constant else x
    )
    hidden = output = None
    if shape.hidden_dim:
        hidden, values = _linear(rng, attended, shape.hidden_dim, (0, 15), shape.lookup_bits)
        output, _ = _linear(rng, values, shape.dim, INPUT_RANGE, shape.lookup_bits, attended)
    return Layer(
        attention=shape.attention,
        window=0 if last else shape.window,
        max_offset=0 if last else shape.max_offset,
        single_query=last and shape.last_query != "all",
        heads=heads,
        attention_output=attention_output,
        hidden=hidden,
        output=output,
    )


def _head(rng: np.random.Generator, shape: NetworkShape, last: bool, constant: bool) -> Head:
    """Return one head; the key of a constant query holds its distance or its score."""
    dot = shape.attention == "dot_product"
    top = 1 << shape.bits
    signed, unsigned = (-top // 2, top // 2 - 1), (0, top - 1)
    key_dim = shape.last_key_dim if last else shape.key_dim
    x = full((1, shape.dim), *INPUT_RANGE)
    keys = signed if dot else unsigned
    width = shape.lookup_bits
    key_width = 1 if dot and constant else key_dim
    query = None if constant else _linear(rng, x, key_dim, keys, width)[0]
    key = _linear(rng, x, key_width, keys, width)[0]
    values = unsigned if shape.attention == "inhibitor" else signed
    value = _linear(rng, x, shape.value_dim, values, width)[0]
    n_offsets = 1 if last else 2 * shape.max_offset + 1
    keys_per_query = shape.max_tokens
    if shape.window and not last:
        keys_per_query = min(shape.max_tokens, 2 * shape.window + 1)
    attention = (_dot_product if dot else _inhibitor)(
        rng, shape, key_width, n_offsets, keys_per_query, constant
    )
    return Head(query, key, value, attention)


def _inhibitor(
    rng: np.random.Generator,
    shape: NetworkShape,
    key_dim: int,
    n_offsets: int,
    keys_per_query: int,
    constant: bool,
) -> InhibitorParameters:
    top = (1 << shape.bits) - 1
    signed = shape.attention == "inhibitor_signed"
    z_top = top // 2 + 1 if signed else top  # the largest |v|
    score_top = key_dim * top
    padding_score = min(score_top, (1 << shape.lookup_bits) - 1 - score_top)
    if padding_score <= 0:
        raise ValueError(f"key_dim {key_dim} leaves no room for a padded key's score")
    scores = np.arange(score_top + padding_score + 1)
    shifts = rng.integers(0, max(padding_score // 2, 1), (n_offsets, 1))
    z = np.clip((scores - shifts) * z_top // max(padding_score - shifts.max(), 1), 0, z_top)
    # The threshold sees v - Z, and -v - Z too where v is signed.
    v_low, v_top = (-z_top, z_top) if signed else (0, top)
    low = -z_top if signed else 0
    summed = full((1, shape.value_dim), low * keys_per_query, z_top * keys_per_query)
    output, offset, _ = _fitted(rng, summed, INPUT_RANGE, shape.lookup_bits)
    return InhibitorParameters(
        distance=table_of(np.abs, -top, top),
        inhibition=Table(z.astype(np.int64)),
        threshold=table_of(lambda t: np.maximum(t, 0), v_low - z_top, v_top),
        padding_score=int(padding_score),
        output=output,
        output_offset=offset,
    )


def _dot_product(
    rng: np.random.Generator,
    shape: NetworkShape,
    key_dim: int,
    n_offsets: int,
    keys_per_query: int,
    constant: bool,
) -> DotProductParameters:
    top = 1 << shape.bits
    signed, unsigned = (-top // 2, top // 2 - 1), (0, top - 1)
    score = make_product(signed, signed)
    scores = full((1, 1), *signed) if constant else _product_range(signed, signed) * key_dim
    span = int(scores.high.max() - scores.low.min())
    # A padded key's score falls below every other: there the exponential is 0.
    exponential = table_of(
        lambda s: np.clip((s - span - 1) * top // (span + 1) + 1, 0, top - 1), 0, 2 * span + 1
    )
    values = np.stack([exponential.values] * n_offsets)
    total, total_offset, _ = _fitted(
        rng, full((1, 1), 0, keys_per_query * (top - 1)), unsigned, shape.lookup_bits, shared=True
    )
    weighted = _product_range(unsigned, signed) * keys_per_query
    channels = Interval(
        np.repeat(weighted.low, shape.value_dim, 1), np.repeat(weighted.high, shape.value_dim, 1)
    )
    mean, mean_offset, _ = _fitted(rng, channels, signed, shape.lookup_bits)
    products = _product_range(signed, unsigned)
    output, output_offset, _ = _fitted(
        rng,
        Interval(
            np.repeat(products.low, shape.value_dim, 1), np.repeat(products.high, shape.value_dim, 1)
        ),
        INPUT_RANGE,
        shape.lookup_bits,
    )
    return DotProductParameters(
        score=score,
        exponential=Table(values, exponential.first),
        score_offset=int(span + 1 - scores.low.min()),
        padding_score=-(span + 1),
        weighted=make_product(unsigned, signed),
        total=total,
        total_offset=int(total_offset),
        mean=mean,
        mean_offset=mean_offset,
        normalised=make_product(signed, unsigned),
        output=output,
        output_offset=output_offset,
    )


def _product_range(x: tuple[int, int], y: tuple[int, int]) -> Interval:
    products = np.multiply.outer(np.array(x), np.array(y))
    return Interval(np.array([[products.min()]]), np.array([[products.max()]]))


def _linear(
    rng: np.random.Generator,
    x: Interval,
    n_out: int,
    out_range: tuple[int, int],
    bits: int,
    residual: Interval | None = None,
) -> tuple[Linear, Interval]:
    """Return a random linear layer of 4-bit weights, fitted to `x`, and its output's range."""
    weight = rng.integers(-7, 8, (x.shape[-1], n_out))
    accumulator = x @ weight
    factor = None
    if residual is not None:
        factor = rng.integers(1, 8, n_out)
        accumulator = accumulator + residual * factor
    table, offset, out = _fitted(rng, accumulator, out_range, bits)
    return Linear(weight, offset, table, factor), out


def _fitted(
    rng: np.random.Generator,
    accumulator: Interval,
    out_range: tuple[int, int],
    bits: int,
    shared: bool = False,
) -> tuple[Table, np.ndarray, Interval]:
    """Return a random table for `accumulator` `[1, channels]`, its offset and its output's range.

    The rounded accumulator fills -2^(bits-1) ... 2^(bits-1) - 1 or less, floor and ceiling
    included. shared: one table and one offset instead of one per channel.
    """
    low, high = accumulator.low.min(axis=0), accumulator.high.max(axis=0)
    if shared:
        low, high = low.min(), high.max()
    spread = int((high - low).max())
    lsbs = bit_width(0, (spread - 1) // ((1 << bits) - 1)) if spread >= 1 << bits else 0
    half_step = (1 << lsbs) >> 1
    offset = -((low + high + 1) // 2) - half_step
    first = int((low + offset).min()) >> lsbs
    last = -(-int((high + offset).max()) >> lsbs)
    index = np.arange(first, last + 1)
    slope = rng.uniform(0.5, 2.0, np.shape(offset)) * rng.choice([-1, 1], np.shape(offset))
    centre = rng.uniform(-0.3, 0.3, np.shape(offset))
    unit = index / max(1, last - first)
    shaped = np.multiply.outer(slope, unit) + centre[..., None]
    bottom, top = out_range
    values = np.clip(np.round((shaped + 0.5) * (top - bottom) + bottom), bottom, top)
    table = Table(values.astype(np.int64), first, lsbs)
    out = full((1, *np.shape(low)), bottom, top)
    return table, offset, out
