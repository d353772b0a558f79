"""The stages of one inference as explicit data: what runs, on which values, in which order.

    x, padding -> layer0.project -> layer0.attend.head0 -> layer0.feed_forward -> ... -> classify
                                 -> layer0.attend.head1 ->

Values have names; a stage lists the names that it reads and the names that it gives. Wires,
encrypted functions, tasks of the server and rows of the report all follow from this list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from circuits import stages
from circuits.lookups import Lookup, Table
from circuits.network import Network
from circuits.stages import Classifier, Layer


@dataclass(frozen=True)
class Wire:
    """Shape and declared range, ends included, of a value that passes between stages."""

    shape: tuple[int, ...]
    low: int
    high: int


@dataclass(frozen=True)
class Stage:
    """One stage of an inference, bound to its clear parameters.

    inputs, outputs: names of values. evaluate: maps the inputs and a lookup to the outputs; like
    every stage it takes integers, tracers and intervals.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    evaluate: Callable[[Sequence[Any], Lookup], tuple[Any, ...]]


def network_stages(network: Network) -> list[Stage]:
    """Return the encrypted stages of a network in an order that can be run."""
    listed: list[Stage] = []
    for index, layer in enumerate(network.layers):
        listed += _layer_stages(layer, index)
    if network.client_boundary == "projection":
        listed = listed[1:]  # the client evaluates it, in the clear
    return [*listed, _classify(network.classifier, len(network.layers) - 1)]


def network_wires(network: Network, n: int) -> dict[str, Wire]:
    """Return shape and declared range of every value but the logits, for n tokens.

    The declared range of a value is the range of the table that it comes from. Raises ValueError if
    n is no multiple of the network's stride.
    """
    wires = {"x": Wire((n, network.dim), *network.input_range), "padding": Wire((n,), 0, 1)}
    for index, (layer, n_keys) in enumerate(zip(network.layers, network.lengths(n), strict=True)):
        n_queries = 1 if layer.single_query else n_keys
        for number, head in enumerate(layer.heads):
            name = f"layer{index}.head{number}"
            if head.query is not None:
                wires[f"{name}.q"] = _wire(n_queries, head.query.table)
            wires[f"{name}.k"] = _wire(n_keys, head.key.table)
            wires[f"{name}.v"] = _wire(n_keys, head.value.table)
            wires[f"{name}.h"] = _wire(n_queries, head.attention.output)
        last = layer.output or layer.attention_output
        wires[f"layer{index}.x"] = _wire(n_queries, last.table)
    return wires


def function_name(stage: Stage, wires: Mapping[str, Wire], n: int) -> str:
    """Return the name of the encrypted function: buckets share it where no shape depends on n."""
    name = stage.name.replace(".", "_")
    depends = any(wires[value].shape[0] != 1 for value in stage.inputs)
    return f"{name}_n{n}" if depends else name


def _layer_stages(layer: Layer, index: int) -> list[Stage]:
    prefix = f"layer{index}"
    x = "x" if index == 0 else f"layer{index - 1}.x"
    heads = range(len(layer.heads))
    letters = "kv" if layer.constant_query else "qkv"
    projected = [tuple(f"{prefix}.head{head}.{c}" for c in letters) for head in heads]
    attended = tuple(f"{prefix}.head{head}.h" for head in heads)
    residual = () if layer.constant_query else (x,)
    names = tuple(name for head in projected for name in head)
    return [
        Stage(f"{prefix}.project", (x,), names, _project(layer)),
        *(
            Stage(
                f"{prefix}.attend.head{head}",
                (*projected[head], "padding"),
                (attended[head],),
                _attend(layer, head),
            )
            for head in heads
        ),
        Stage(
            f"{prefix}.feed_forward", (*attended, *residual), (f"{prefix}.x",), _feed_forward(layer)
        ),
    ]


def _project(layer: Layer) -> Callable[[Sequence[Any], Lookup], tuple[Any, ...]]:
    def project(values: Sequence[Any], lookup: Lookup) -> tuple[Any, ...]:
        triples = stages.project(values[0], layer, lookup)
        return tuple(value for triple in triples for value in triple if value is not None)

    return project


def _attend(layer: Layer, head: int) -> Callable[[Sequence[Any], Lookup], tuple[Any, ...]]:
    def attend(values: Sequence[Any], lookup: Lookup) -> tuple[Any, ...]:
        *q, k, v, padding = values
        query = q[0] if q else None
        return (stages.attend(query, k, v, padding, layer, head, lookup),)

    return attend


def _feed_forward(layer: Layer) -> Callable[[Sequence[Any], Lookup], tuple[Any, ...]]:
    def feed_forward(values: Sequence[Any], lookup: Lookup) -> tuple[Any, ...]:
        heads, x = values, None
        if not layer.constant_query:
            *heads, x = values
        return (stages.feed_forward(heads, x, layer, lookup),)

    return feed_forward


def _classify(classifier: Classifier, last_layer: int) -> Stage:
    def classify(values: Sequence[Any], lookup: Lookup) -> tuple[Any, ...]:
        return (stages.classify(values[0], classifier, lookup),)

    return Stage("classify", (f"layer{last_layer}.x",), ("logits",), classify)


def _wire(n: int, table: Table) -> Wire:
    return Wire((n, table.values.shape[0]), *table.range)
