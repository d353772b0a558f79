"""The stages of one inference as explicit data: what runs, on which values, in which order.

    x, padding -> layer0.project -> layer0.attend.head0 -> layer0.feed_forward -> ... -> classify
                                 -> layer0.attend.head1 ->

Values have names; a stage lists the names that it reads and the names that it gives. Wires,
encrypted functions, tasks of the server and rows of the report all follow from this list. A stage
that is cut into blocks of rows (`circuits.blocks`) is there once for each block, such as
`layer0.attend.head1.rows2`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from circuits import stages
from circuits.blocks import (
    Blocked,
    LayerBlocks,
    Read,
    block_names,
    blocks_of,
    cut,
    plain_name,
    scaled,
)
from circuits.lookups import Lookup, Table
from circuits.network import Network
from circuits.pairs import Pairs
from circuits.stages import Classifier, Layer


@dataclass(frozen=True)
class Wire:
    """Shape and declared range, ends included, of a value that passes between stages.

    rows: first row and the one after the last, for a block of a value.
    """

    shape: tuple[int, ...]
    low: int
    high: int
    rows: tuple[int, int] | None = None


@dataclass(frozen=True)
class Stage:
    """One stage of an inference, or a block of one, bound to its clear parameters.

    inputs, outputs: names of values. evaluate: maps the inputs and a lookup to the outputs; like
    every stage it takes integers, tracers and intervals. form: what, beside its place in the
    network, makes it the function that it is: blocks of one stage with the same form are the same
    function.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    evaluate: Callable[[Sequence[Any], Lookup], tuple[Any, ...]]
    form: tuple[Any, ...] = ()

    @property
    def place(self) -> str:
        """The name of the stage that this is a block of."""
        return plain_name(self.name)


def network_stages(network: Network, n: int, blocks: Sequence[LayerBlocks] = ()) -> list[Stage]:
    """Return the encrypted stages of a network for n tokens, in an order that can be run.

    blocks: into how many blocks of rows those of each layer are cut; none cuts nothing. What no
    other stage reads is left out. Raises ValueError if n is no multiple of the network's stride, or
    for blocks of another number of layers.
    """
    listed: list[Stage] = []
    values = _values(network, n, blocks)
    for index, layer in enumerate(network.layers):
        listed += _layer_stages(layer, index, n, values)
    listed.append(_classify(network.classifier, values[f"layer{len(network.layers) - 1}.x"]))
    if network.client_boundary == "projection":  # the client evaluates it, in the clear
        listed = [stage for stage in listed if stage.place != "layer0.project"]
    return _read_at_last(listed)


def network_wires(network: Network, n: int, blocks: Sequence[LayerBlocks] = ()) -> dict[str, Wire]:
    """Return shape and declared range of every value but the logits, for n tokens.

    The declared range of a value is the range of the table that it comes from. Raises ValueError as
    `network_stages` does.
    """
    tables: dict[str, Table] = {}
    for index, layer in enumerate(network.layers):
        for number, head in enumerate(layer.heads):
            name = f"layer{index}.head{number}"
            if head.query is not None:
                tables[f"{name}.q"] = head.query.table
            tables[f"{name}.k"] = head.key.table
            tables[f"{name}.v"] = head.value.table
            tables[f"{name}.h"] = head.attention.output
        tables[f"layer{index}.x"] = (layer.output or layer.attention_output).table
    wires: dict[str, Wire] = {}
    channels: tuple[int, ...]
    for value in _values(network, n, blocks).values():
        for name, rows in zip(value.names, value.blocks, strict=True):
            channels, ends = (network.dim,), network.input_range
            if value.name in tables:
                table = tables[value.name]
                channels, ends = table.values.shape[:1], table.range
            elif value.name == "padding":
                channels, ends = (), (0, 1)
            wires[name] = Wire((len(rows), *channels), *ends, value.rows_of(name))
    return wires


def function_names(
    plans: Mapping[int, tuple[Sequence[Stage], Mapping[str, Wire]]],
) -> dict[int, list[str]]:
    """Return the name of the encrypted function of each stage, by number of tokens.

    plans: stages and wires for each number of tokens. Stages share a function where neither shapes
    nor pairs of queries and keys differ: blocks of one stage, and lengths.
    """
    names: dict[tuple[Any, ...], str] = {}
    listed: dict[int, list[str]] = {}
    for n, (stages_, wires) in plans.items():
        listed[n] = []
        for stage in stages_:
            shapes = tuple(wires[value].shape for value in stage.inputs)
            name = stage.name.replace(".", "_")
            cut_ones = any(plain_name(value) != value for value in (stage.name, *stage.inputs))
            if cut_ones or any(shape[0] != 1 for shape in shapes):
                name = f"{name}_n{n}"
            listed[n].append(names.setdefault((stage.place, shapes, stage.form), name))
    return listed


def _values(network: Network, n: int, blocks: Sequence[LayerBlocks]) -> dict[str, Blocked]:
    """Return the blocks of every value but the logits, by its plain name."""
    lengths, listed = network.lengths(n), blocks_of(blocks, len(network.layers))
    first = cut(n, listed[0].project)
    values = [Blocked("x", first), Blocked("padding", first)]
    for index, (layer, cuts, length) in enumerate(
        zip(network.layers, listed, lengths, strict=True)
    ):
        n_queries = len(layer.asking(length))
        keys, queries = cut(length, cuts.project), cut(n_queries, cuts.attend)
        for head in range(len(layer.heads)):
            name = f"layer{index}.head{head}"
            if not layer.constant_query:
                values.append(Blocked(f"{name}.q", (range(1),) if layer.single_query else keys))
            values += [Blocked(f"{name}.k", keys), Blocked(f"{name}.v", keys)]
            values.append(Blocked(f"{name}.h", queries))
        values.append(Blocked(f"layer{index}.x", cut(n_queries, cuts.feed_forward)))
    return {value.name: value for value in values}


def _layer_stages(layer: Layer, index: int, n: int, values: Mapping[str, Blocked]) -> list[Stage]:
    prefix = f"layer{index}"
    x = values["x" if index == 0 else f"layer{index - 1}.x"]
    heads = range(len(layer.heads))
    return [
        *_project_stages(layer, prefix, x, values),
        *(stage for head in heads for stage in _attend_stages(layer, prefix, head, n, values)),
        *_feed_forward_stages(layer, prefix, x, values),
    ]


def _project_stages(
    layer: Layer, prefix: str, x: Blocked, values: Mapping[str, Blocked]
) -> list[Stage]:
    rows = values[f"{prefix}.head0.k"].blocks
    asking = layer.asking(rows[-1].stop)
    listed = []
    for block, name in enumerate(block_names(f"{prefix}.project", len(rows))):
        asks = any(row in asking for row in rows[block])
        letters = "qkv" if asks and not layer.constant_query else "kv"
        outputs = []
        for head in range(len(layer.heads)):
            for letter in letters:
                names = values[f"{prefix}.head{head}.{letter}"].names
                outputs.append(names[0 if len(names) == 1 else block])
        read = x.read(scaled(rows[block], layer.pooled))
        listed.append(_stage(name, [read], outputs, _project(layer, asks), letters))
    return listed


def _attend_stages(
    layer: Layer, prefix: str, head: int, n: int, values: Mapping[str, Blocked]
) -> list[Stage]:
    q, k, v, h = (values.get(f"{prefix}.head{head}.{c}") for c in "qkvh")
    assert k is not None and v is not None and h is not None
    length = k.blocks[-1].stop
    pairs = layer.pairs(length)
    listed = []
    for queries, name in zip(
        h.blocks, block_names(f"{prefix}.attend.head{head}", len(h.blocks)), strict=True
    ):
        met = pairs.j[(queries.start <= pairs.i) & (pairs.i < queries.stop)]
        key, keys = k.read_blocks(range(int(met.min()), int(met.max()) + 1))
        reads = [key, v.read(keys), values["padding"].read(scaled(keys, n // length))]
        if q is not None:
            reads = [q.read(queries), *reads]
        block = pairs.block(queries, keys)
        output = h.names[h.blocks.index(queries)]
        met_pairs = tuple(part.tobytes() for part in (block.i, block.j, block.offset))
        listed.append(_stage(name, reads, [output], _attend(layer, head, block), *met_pairs))
    return listed


def _feed_forward_stages(
    layer: Layer, prefix: str, x: Blocked, values: Mapping[str, Blocked]
) -> list[Stage]:
    outputs = values[f"{prefix}.x"]
    listed = []
    for rows, name, output in zip(
        outputs.blocks,
        block_names(f"{prefix}.feed_forward", len(outputs.blocks)),
        outputs.names,
        strict=True,
    ):
        reads = [values[f"{prefix}.head{head}.h"].read(rows) for head in range(len(layer.heads))]
        if not layer.constant_query:
            asking = layer.asking(x.blocks[-1].stop // layer.pooled)[rows.start : rows.stop]
            # The stage itself takes the row of a single query out of a value in one block.
            whole = layer.single_query and len(x.blocks) == 1
            reads.append(x.read(x.blocks[0] if whole else scaled(asking, layer.pooled)))
        listed.append(_stage(name, reads, [output], _feed_forward(layer)))
    return listed


def _stage(
    name: str,
    reads: Sequence[Read],
    outputs: Sequence[str],
    function: Callable[[Sequence[Any], Lookup], tuple[Any, ...]],
    *form: Any,
) -> Stage:
    """Return a stage whose function takes rows, wherever they are."""

    def evaluate(values: Sequence[Any], lookup: Lookup) -> tuple[Any, ...]:
        left = iter(values)
        return function([read.join([next(left) for _ in read.names]) for read in reads], lookup)

    inputs = tuple(name for read in reads for name in read.names)
    where = tuple((len(read.names), read.rows) for read in reads)
    return Stage(name, inputs, tuple(outputs), evaluate, (where, *form))


def _project(layer: Layer, asks: bool) -> Callable[[Sequence[Any], Lookup], tuple[Any, ...]]:
    def project(values: Sequence[Any], lookup: Lookup) -> tuple[Any, ...]:
        triples = stages.project(values[0], layer, lookup, asks)
        return tuple(value for triple in triples for value in triple if value is not None)

    return project


def _attend(
    layer: Layer, head: int, pairs: Pairs
) -> Callable[[Sequence[Any], Lookup], tuple[Any, ...]]:
    def attend(values: Sequence[Any], lookup: Lookup) -> tuple[Any, ...]:
        *q, k, v, padding = values
        query = q[0] if q else None
        return (stages.attend(query, k, v, padding, layer, head, lookup, pairs),)

    return attend


def _feed_forward(layer: Layer) -> Callable[[Sequence[Any], Lookup], tuple[Any, ...]]:
    def feed_forward(values: Sequence[Any], lookup: Lookup) -> tuple[Any, ...]:
        heads, x = values, None
        if not layer.constant_query:
            *heads, x = values
        return (stages.feed_forward(heads, x, layer, lookup),)

    return feed_forward


def _classify(classifier: Classifier, x: Blocked) -> Stage:
    def classify(values: Sequence[Any], lookup: Lookup) -> tuple[Any, ...]:
        return (stages.classify(values[0], classifier, lookup),)

    read, _ = x.read_blocks(range(1))
    return _stage("classify", [read], ["logits"], classify)


def _read_at_last(listed: Sequence[Stage]) -> list[Stage]:
    """Return the stages whose outputs, one after the other, lead to the last one's."""
    wanted = set(listed[-1].outputs)
    kept: list[Stage] = []
    for stage in reversed(listed):
        if wanted.intersection(stage.outputs):
            kept.append(stage)
            wanted.update(stage.inputs)
    return kept[::-1]
