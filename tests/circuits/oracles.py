"""The network once more, as plain loops over numbers: shares no code with the stages."""

from __future__ import annotations

import numpy as np

from circuits.dot_product import DotProductParameters
from circuits.inhibitor import InhibitorParameters
from circuits.linear import Linear
from circuits.lookups import AntiperiodicTable, SaturatingTable, Table
from circuits.network import Network
from circuits.stages import Layer
from circuits.sums import PartialSums


def network(net: Network, x: np.ndarray, padding: np.ndarray) -> list[int]:
    """Return the logits."""
    for layer in net.layers:
        x = layer_output(layer, x, padding)
    features = linear(x[:1], net.classifier.pre_classifier)[0]
    logits = []
    for label in range(net.classifier.weight.shape[1]):
        total = int(net.classifier.offset[label])
        for channel, feature in enumerate(features):
            total += int(feature) * int(net.classifier.weight[channel, label])
        output = net.classifier.output
        logits.append(total if output is None else entry(output, total, label))
    return logits


def layer_output(layer: Layer, x: np.ndarray, padding: np.ndarray) -> np.ndarray:
    """Return the next layer's input."""
    groups = [range(start, start + layer.pooled) for start in range(0, len(x), layer.pooled)]
    x = np.array([sum(x[position] for position in group) for group in groups])
    stride = len(padding) // len(x)
    padding = np.array([padding[i * stride : (i + 1) * stride].min() for i in range(len(x))])
    n = len(x)
    asking = range(n)
    if layer.single_query:
        asking = range(n - 1, n) if layer.causal else range(1)
    heads = []
    for head in layer.heads:
        q = None if head.query is None else linear(x, head.query)
        k, v = linear(x, head.key), linear(x, head.value)
        rows = []
        for i in asking:
            keys = [j for j in range(n) if layer.window == 0 or abs(i - j) <= layer.window]
            keys = [j for j in keys if j <= i or not layer.causal]
            scores = [score(layer, None if q is None else q[i], k[j]) for j in keys]
            attend = dot_product if layer.attention == "dot_product" else inhibitor
            rows.append(attend(layer, head.attention, i, keys, scores, v, padding))
        heads.append(rows)
    joined = np.array([sum((rows[i] for rows in heads), []) for i in range(len(asking))])
    residual = None if layer.constant_query else x[asking.start : asking.stop]
    attended = linear(joined, layer.attention_output, residual)
    if layer.hidden is None or layer.output is None:
        return attended
    return linear(linear(attended, layer.hidden), layer.output, attended)


def score(layer: Layer, q: np.ndarray | None, k: np.ndarray) -> int:
    """Return the distance or the product of one query and one key."""
    total = 0
    for channel in range(len(k)):
        if q is None:
            total += int(k[channel])
        elif layer.attention == "dot_product":
            total += int(q[channel]) * int(k[channel])
        else:
            total += abs(int(q[channel]) - int(k[channel]))
    return total


def inhibitor(
    layer: Layer,
    p: InhibitorParameters,
    i: int,
    keys: list[int],
    scores: list[int],
    v: np.ndarray,
    padding: np.ndarray,
) -> list[int]:
    """Return one query's output; a padded key is left out.

    The first entry of `inhibition` is that of score 0. An absolute value counts double: it stands
    for half of what the threshold keeps.
    """
    unit = 2 if isinstance(p.threshold, AntiperiodicTable) else 1
    out = []
    for channel in range(v.shape[1]):
        kept = []
        for j, s in zip(keys, scores, strict=True):
            z = entry(p.inhibition, s + p.inhibition.first, offset_row(layer, i, j))
            value = int(v[j, channel])
            if padding[j]:
                kept.append(0)
            elif layer.attention == "inhibitor":
                kept.append(unit * max(value - z, 0))
            else:  # soft threshold
                kept.append(unit * max(abs(value) - z, 0) * (1 if value > 0 else -1))
        total = add(kept, p.partial) + int(p.output_offset[channel])
        out.append(entry(p.output, total, channel))
    return out


def add(x: list[int], partial: PartialSums | None) -> int:
    """Return the sum over keys, a few at a time if `partial` is given."""
    if partial is None:
        return sum(x)
    starts = range(0, len(x), partial.keys)
    return sum(entry(partial.table, sum(x[s : s + partial.keys]), 0) for s in starts)


def dot_product(
    layer: Layer,
    p: DotProductParameters,
    i: int,
    keys: list[int],
    scores: list[int],
    v: np.ndarray,
    padding: np.ndarray,
) -> list[int]:
    """Return one query's output; a padded key is left out."""
    e = {
        j: 0 if padding[j] else entry(p.exponential, s + p.score_offset, offset_row(layer, i, j))
        for j, s in zip(keys, scores, strict=True)
    }
    reciprocal = entry(p.total, add(list(e.values()), p.partial_total) + p.total_offset, 0)
    out = []
    for channel in range(v.shape[1]):
        weighted = add([e[j] * int(v[j, channel]) for j in e], p.partial_mean)
        mean = entry(p.mean, weighted + int(p.mean_offset[channel]), channel)
        out.append(entry(p.output, mean * reciprocal + int(p.output_offset[channel]), channel))
    return out


def linear(x: np.ndarray, p: Linear, residual: np.ndarray | None = None) -> np.ndarray:
    """Return the rows of `x` through a linear layer and its tables."""
    out = np.zeros((len(x), p.weight.shape[1]), dtype=int)
    for row in range(len(x)):
        for column in range(p.weight.shape[1]):
            total = int(p.offset[column])
            for channel in range(x.shape[1]):
                total += int(x[row, channel]) * int(p.weight[channel, column])
            if residual is not None and p.residual is not None:
                total += int(residual[row, column]) * int(p.residual[column])
            out[row, column] = entry(p.table, total, column)
    return out


def entry(table: Table, x: int, channel: int) -> int:
    """Return the entry nearest to `x`, the upper one of two, from a channel's table.

    A table that saturates goes on as it ends.
    """
    values = np.atleast_2d(table.values)
    row = values[channel % len(values)]
    step = 2**table.lsbs
    index = (2 * int(x) + step) // (2 * step) - table.first
    if isinstance(table, SaturatingTable):
        index = min(max(index, 0), len(row) - 1)
    return int(row[index])


def offset_row(layer: Layer, i: int, j: int) -> int:
    """Return the row of a table that depends on the relative offset."""
    return min(max(j - i, -layer.max_offset), layer.max_offset) + layer.max_offset
