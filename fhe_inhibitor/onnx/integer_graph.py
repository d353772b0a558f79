"""An integer model as a quantized ONNX graph: the circuits' integers between Q and DQ nodes.

    input_ids, attention_mask  int64 [batch, tokens], both axes dynamic
    logits                     float32 [batch, labels]
    token_importance           float32 [batch, tokens], by which a client leaves tokens out

Every value is in its own integer steps, so a scale is 1, but for two: that of the logits, and
2^lsbs where a lookup rounds. A lookup of the circuits, `table[round(x / 2^lsbs) - first]`, is

    Add 0.25  ->  QuantizeLinear(2^lsbs, zero point -first)  ->  Gather(table)  ->  DequantizeLinear

on uint8 indices; of an antiperiodic table the entries and their negatives are gathered, three
periods of it. x is an integer: the quarter rounds ties up, as the circuits do, and changes
nothing else. Weights are int4 or int8, tables int8 to int16, offsets int32; initializers are
named by their paths in the integer format, where `reader` finds the same integers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from ml_dtypes import iinfo, int4

from circuits.dot_product import DotProductParameters, Product
from circuits.inhibitor import InhibitorParameters
from circuits.linear import Linear
from circuits.lookups import AntiperiodicTable, Table
from circuits.network import Network
from circuits.stages import Classifier, Layer
from circuits.sums import PartialSums
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer import format as integer_format
from fhe_inhibitor.onnx.graph import (
    FLOAT,
    INPUTS,
    INT64,
    Graph,
    empty_padding,
    find_pairs,
    last_tokens,
    pool,
    pooled_mask,
    table_rows,
)

FORM = "integer"
TIE = 0.25
WEIGHT_TYPES = (int4, np.int8, np.int16, np.int32)
VALUE_TYPES = (np.int8, np.uint8, np.int16, np.uint16, np.int32)
PARTIAL = ("partial", "partial_total")
LARGEST_INDEX, MOST_LSBS = 255, 14  # so that float32 holds x + 0.25 exactly


def quantized_graph(parameters: Mapping[str, Any]) -> onnx.ModelProto:
    """Return the graph of an integer model's parameters, as `integer_format.read` gives them.

    Raises InputError for a table that uint8 indices can't read, and for partial sums in a window.
    """
    network: Network = parameters["network"]
    graph = Graph()
    x, mask = empty_padding(graph, _embed(graph, parameters), network.stride)
    padding = graph.add("Cast", graph.add("Sub", 1, mask), to=FLOAT)  # [B, n]
    with graph.scope("network"):
        for index, layer in enumerate(network.layers):
            with graph.scope(f"layers.{index}"):
                if layer.pooled > 1:
                    channels = layer.heads[0].key.weight.shape[0]
                    x = pool(graph, x, layer.pooled, channels, "ReduceSum")
                    mask, padding = (pooled_mask(graph, m, layer.pooled) for m in (mask, padding))
                x = _layer(graph, layer, x, padding, mask)
        if network.layers[-1].causal and network.layers[-1].single_query:
            x = graph.add("Unsqueeze", last_tokens(graph, x), [1])
        with graph.scope("classifier"):
            logits = _classify(graph, network.classifier, x, parameters["logit_scale"])
    importance = graph.constant(parameters["importance"], "importance")
    return graph.to_model(
        INPUTS,
        {
            "logits": (logits, FLOAT, ["batch", len(parameters["labels"])]),
            "token_importance": (
                graph.add("Gather", importance, "input_ids"),
                FLOAT,
                ["batch", "tokens"],
            ),
        },
        _metadata(graph, parameters),
    )


def _embed(graph: Graph, parameters: Mapping[str, Any]) -> str:
    """Add what the client encrypts, `[B, n, dim]`."""
    table = graph.constant(_narrow(parameters["embedding"], VALUE_TYPES), "embedding")
    x = graph.add("DequantizeLinear", graph.add("Gather", table, "input_ids"), 1.0)
    if len(parameters["positions"]):
        table = graph.constant(_narrow(parameters["positions"], VALUE_TYPES), "positions")
        n = graph.add("Shape", "input_ids", start=1, end=2)
        positions = graph.add("Slice", table, [0], n, [0])
        x = graph.add("Add", x, graph.add("DequantizeLinear", positions, 1.0))
    low, high = parameters["network"].input_range
    return graph.add("Clip", x, float(low), float(high))


def _layer(graph: Graph, layer: Layer, x: str, padding: str, token_mask: str) -> str:
    near = find_pairs(graph, layer.single_query, layer.window, token_mask, layer.causal)
    rows = table_rows(graph, near.offset, layer.max_offset) if layer.max_offset else None
    single = layer.single_query and not layer.causal
    queries = graph.add("Slice", x, [0], [1], [1]) if single else x
    mask = None
    if layer.window or layer.causal:  # [B, n_q, n, 1]; padded keys contribute nothing anyway
        mask = graph.add("Cast", graph.add("Transpose", near.mask, perm=[0, 2, 3, 1]), to=FLOAT)
    outputs = []
    for index, head in enumerate(layer.heads):
        with graph.scope(f"heads.{index}"):
            q = None if head.query is None else _linear(graph, queries, head.query, "query")
            k, v = (_linear(graph, x, getattr(head, name), name) for name in ("key", "value"))
            keys = Keys(q, k, graph.add("Unsqueeze", v, [1]), padding, rows, mask)
            if layer.window and any(getattr(head.attention, name, None) for name in PARTIAL):
                raise InputError("partial sums in a window can't be exported")
            with graph.scope("attention"):
                outputs.append(_attend(graph, keys, head.attention, layer.attention))
    joined = graph.add("Concat", *outputs, axis=-1)
    residual = None if layer.constant_query else queries
    attended = _linear(graph, joined, layer.attention_output, "attention_output", residual)
    if layer.hidden is None or layer.output is None:
        return attended
    hidden = _linear(graph, attended, layer.hidden, "hidden")
    return _linear(graph, hidden, layer.output, "output", attended)


@dataclass(frozen=True)
class Keys:
    """Names of one head's values: q `[B, n_q, d]` or None, k `[B, n, d]`, v `[B, 1, n, d_v]`.

    padding `[B, n]`. rows: int64 `[n_q, n]`, of tables per offset. mask `[B, n_q, n, 1]`, or None
    where every query reads every key.
    """

    q: str | None
    k: str
    v: str
    padding: str
    rows: str | None
    mask: str | None

    def scores(self, graph: Graph, of_channels: str, padding_score: int) -> str:
        """Add up `[B, n_q or 1, n, d]` to scores `[B, n_q or 1, n]`, raised where padded."""
        score = graph.add("ReduceSum", of_channels, [-1], keepdims=0)
        raised = graph.add("Mul", graph.add("Unsqueeze", self.padding, [1]), float(padding_score))
        return graph.add("Add", score, raised)


def _attend(
    graph: Graph, keys: Keys, p: InhibitorParameters | DotProductParameters, kind: str
) -> str:
    """Add one head: `[B, n_q, d_v]`."""
    if isinstance(p, DotProductParameters):
        return _dot_product(graph, keys, p)
    distance = graph.add("Unsqueeze", keys.k, [1])
    if keys.q is not None:
        difference = graph.add("Sub", graph.add("Unsqueeze", keys.q, [2]), distance)
        distance = _lookup(graph, difference, p.distance, "distance")
    score = keys.scores(graph, distance, p.padding_score)
    z = _lookup(graph, score, p.inhibition, "inhibition", keys.rows)
    z = graph.add("Unsqueeze", z, [-1])
    kept = _kept(graph, graph.add("Sub", keys.v, z), p.threshold)
    if kind == "inhibitor_signed":
        negated = graph.add("Sub", graph.add("Neg", keys.v), z)
        kept = graph.add("Sub", kept, _kept(graph, negated, p.threshold))
    if keys.mask:
        kept = graph.add("Mul", kept, keys.mask)
    total = _add_keys(graph, kept, len(p.output_offset), p.partial, "partial")
    total = graph.add("Add", total, _dequantized(graph, p.output_offset, "output_offset"))
    return _lookup(graph, total, p.output, "output")


def _kept(graph: Graph, difference: str, threshold: Table) -> str:
    """Add what the inhibition leaves; twice as much where the table holds absolute values."""
    kept = _lookup(graph, difference, threshold, "threshold")
    if not isinstance(threshold, AntiperiodicTable):
        return kept
    return graph.add("Sub", graph.add("Add", difference, kept), float(threshold.range[0]))


def _dot_product(graph: Graph, keys: Keys, p: DotProductParameters) -> str:
    scores = graph.add("Unsqueeze", keys.k, [1])
    if keys.q is not None:
        q = graph.add("Unsqueeze", keys.q, [2])
        scores = _multiply(graph, q, scores, p.score, "score")
    score = graph.add("Add", keys.scores(graph, scores, p.padding_score), float(p.score_offset))
    e = _lookup(graph, score, p.exponential, "exponential", keys.rows)
    e = graph.add("Unsqueeze", e, [-1])  # [B, n_q, n, 1]
    if keys.mask:
        e = graph.add("Mul", e, keys.mask)
    weighted = _multiply(graph, e, keys.v, p.weighted, "weighted")
    total = _add_keys(graph, e, 1, p.partial_total, "partial_total")
    reciprocal = _lookup(graph, graph.add("Add", total, float(p.total_offset)), p.total, "total")
    mean = _add_keys(graph, weighted, len(p.mean_offset), p.partial_mean, "partial_mean")
    mean = graph.add("Add", mean, _dequantized(graph, p.mean_offset, "mean_offset"))
    mean = _lookup(graph, mean, p.mean, "mean")
    product = _multiply(graph, mean, reciprocal, p.normalised, "normalised")
    product = graph.add("Add", product, _dequantized(graph, p.output_offset, "output_offset"))
    return _lookup(graph, product, p.output, "output")


def _multiply(graph: Graph, x: str, y: str, product: Product, name: str) -> str:
    """Add `circuits.dot_product.multiply`."""
    with graph.scope(name):
        if product.packed is not None:
            high = graph.add("Mul", x, float(1 << product.y_bits))
            low = graph.add("Sub", y, float(product.y_low))
            return _lookup(graph, graph.add("Add", high, low), product.packed, "packed")
        x = graph.add("Mul", x, float(product.x_factor))
        y = graph.add("Mul", y, float(product.y_factor))
        plus = _lookup(graph, graph.add("Add", x, y), product.plus, "plus")
        return graph.add(
            "Sub", plus, _lookup(graph, graph.add("Sub", x, y), product.minus, "minus")
        )


def _add_keys(graph: Graph, x: str, channels: int, partial: PartialSums | None, name: str) -> str:
    """Add `circuits.sums.sum_over_keys`: `[B, n_q, n, channels]` to `[B, n_q, channels]`."""
    if partial is None:
        return graph.add("ReduceSum", x, [2], keepdims=0)
    n = graph.add("Shape", x, start=2, end=3)
    missing = graph.add("Mod", graph.add("Neg", n), [partial.keys])
    ends = graph.add("Concat", [0, 0, 0, 0, 0, 0], missing, [0], axis=0)
    groups = graph.add("Reshape", graph.add("Pad", x, ends), [0, 0, -1, partial.keys, channels])
    with graph.scope(name):
        sums = graph.add("ReduceSum", groups, [3], keepdims=0)
        return graph.add("ReduceSum", _lookup(graph, sums, partial.table, "table"), [2], keepdims=0)


def _classify(graph: Graph, classifier: Classifier, x: str, logit_scale: float) -> str:
    """Add real logits, `[B, n_labels]`, of the first position of x."""
    first = graph.add("Squeeze", graph.add("Slice", x, [0], [1], [1]), [1])
    features = _linear(graph, first, classifier.pre_classifier, "pre_classifier")
    weight = _dequantized(graph, classifier.weight, "weight", WEIGHT_TYPES)
    logits = graph.add("MatMul", features, weight)
    logits = graph.add("Add", logits, _dequantized(graph, classifier.offset, "offset"))
    if classifier.output is not None:
        logits = _lookup(graph, logits, classifier.output, "output")
    zero = np.int16(0)
    integers = graph.add("QuantizeLinear", logits, 1.0, np.array(zero))
    return graph.add("DequantizeLinear", integers, float(logit_scale), np.array(zero))


def _linear(graph: Graph, x: str, p: Linear, name: str, residual: str | None = None) -> str:
    """Add `circuits.linear.linear`."""
    with graph.scope(name):
        weight = _dequantized(graph, p.weight, "weight", WEIGHT_TYPES)
        offset = _dequantized(graph, p.offset, "offset", (np.int32,))
        total = graph.add("Add", graph.add("MatMul", x, weight), offset)
        if p.residual is not None and residual is not None:
            factor = _dequantized(graph, p.residual, "residual", WEIGHT_TYPES)
            total = graph.add("Add", total, graph.add("Mul", residual, factor))
        return _lookup(graph, total, p.table, "table")


def _lookup(graph: Graph, x: str, table: Table, name: str, rows: str | None = None) -> str:
    """Add a lookup; rows: of the table for each element, its last axis if None."""
    entries, wraps = table.values.shape[-1], isinstance(table, AntiperiodicTable)
    # Index 0 of what is gathered; an antiperiodic table goes on as its negative at both ends.
    first, last = (table.first - wraps * entries, table.last + wraps * entries)
    if not 0 <= -first <= last - first <= LARGEST_INDEX or table.lsbs > MOST_LSBS:
        raise InputError(
            f"a table of {first} to {last} with {table.lsbs} bits rounded away can't "
            f"be exported; wanted 0 in it, at most {LARGEST_INDEX + 1} entries and {MOST_LSBS} bits"
        )
    with graph.scope(name):
        zero_point = graph.constant(np.array(-first, np.uint8), "zero_point")
        scale = graph.constant(float(1 << table.lsbs), "scale")
        values = graph.constant(_narrow(table.values, VALUE_TYPES), "values")
        if table.lsbs:
            x = graph.add("Add", x, TIE)
        index = graph.add("Cast", graph.add("QuantizeLinear", x, scale, zero_point), to=INT64)
        if wraps:
            negative = graph.add("Neg", values)
            values, entries = graph.add("Concat", negative, values, negative, axis=-1), 3 * entries
        if table.values.ndim > 1:
            row = (
                np.arange(len(table.values)) * entries
                if rows is None
                else graph.add("Mul", rows, entries)
            )
            index = graph.add("Add", index, row)
            values = graph.add("Reshape", values, [-1])
        return graph.add("DequantizeLinear", graph.add("Gather", values, index), 1.0)


def _dequantized(
    graph: Graph, values: np.ndarray, name: str, types: Sequence[Any] = (np.int32,)
) -> str:
    """Add integers as floats."""
    return graph.add("DequantizeLinear", graph.constant(_narrow(values, types), name), 1.0)


def _narrow(values: np.ndarray, types: Sequence[Any]) -> np.ndarray:
    """Return integers in the first of these types that holds them."""
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    for kind in types:
        info = iinfo(kind)
        if info.min <= low and high <= info.max:
            return values.astype(kind)
    raise InputError(f"integers of {low} to {high} can't be exported")


def _metadata(graph: Graph, parameters: Mapping[str, Any]) -> dict[str, str]:
    """Return what the graph has no place for, as JSON.

    tree: the structure, with small integers. tensors: tables that no input reaches.
    """
    tensors: dict[str, np.ndarray] = {}
    tree = integer_format.flatten(parameters, "", tensors)
    unread = {
        name: {"dtype": str(tensor.dtype), "shape": tensor.shape, "values": tensor.ravel().tolist()}
        for name, tensor in tensors.items()
        if name not in graph.initializers
    }
    return {"form": FORM, "tree": json.dumps(tree), "tensors": json.dumps(unread)}
