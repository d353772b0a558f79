"""What float and quantized graphs begin with: their inputs, and which key each query reads."""

from __future__ import annotations

from dataclasses import dataclass

from fhe_inhibitor.onnx.graph import BOOL, INT64, Graph

INPUTS = {name: (INT64, ["batch", "tokens"]) for name in ("input_ids", "attention_mask")}


@dataclass(frozen=True)
class Pairs:
    """Names of int64 `[n_q, n]`, j - i, and bool `[B, 1, n_q or 1, n]`, which keys are read."""

    offset: str
    mask: str


def find_pairs(graph: Graph, single_query: bool, window: int) -> Pairs:
    """Add the positions of queries and keys."""
    n = graph.add("Shape", "input_ids", start=1, end=2)
    keys = graph.add("Range", 0, graph.add("Squeeze", n), 1)
    if single_query:
        offset = graph.add("Unsqueeze", keys, [0])
    else:
        offset = graph.add("Sub", keys, graph.add("Unsqueeze", keys, [1]))
    mask = graph.add("Unsqueeze", graph.add("Cast", "attention_mask", to=BOOL), [1, 2])
    if window:
        near = graph.add("LessOrEqual", graph.add("Abs", offset), window)
        mask = graph.add("And", mask, near)
    return Pairs(offset, mask)


def table_rows(graph: Graph, offset: str, max_offset: int) -> str:
    """Add the row of each pair in a table per relative offset."""
    clipped = graph.add("Clip", offset, -max_offset, max_offset)
    return graph.add("Add", clipped, max_offset)
