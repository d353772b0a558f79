"""From stages to functions that Concrete compiles, with declared ranges instead of sampled ones.

Concrete takes the range of every value from sample inputs; a value that leaves the range that
samples showed overflows in silence. Here the samples only shape the graph. The ranges that count
are those that each table declares, which the verifier has proved for every input.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from concrete import fhe
from concrete.fhe.compilation.module_compiler import FunctionDef
from concrete.fhe.representation import Graph, Node, Operation

from circuits.blocks import LayerBlocks
from circuits.documents import SCORE, score_wire
from circuits.encrypted import DECLARED_RANGE, WRAPS, declare, encrypted_lookup
from circuits.lookups import bit_width
from circuits.network import Network
from circuits.plan import Stage, Wire, function_names, network_stages, network_wires
from compile.verifier import StageRange, VerificationError, document_stages

N_SAMPLES = 8


class DeclaredFunction(FunctionDef):
    """A traced function whose declared ranges replace the sampled ones."""

    def evaluate(self, *arguments: Any) -> None:
        """Trace, sample, then declare. Raises VerificationError if a sample leaves its range."""
        super().evaluate(*arguments)
        declared = declared_ranges(self.graph)
        for node, (low, high) in declared.items():
            proved = DECLARED_RANGE in node.properties and not node.properties[WRAPS]
            if proved and (node.bounds[0] < low or node.bounds[1] > high):
                raise VerificationError(
                    f"{self.name}: a sample reaches {node.bounds}, declared is {low}..{high}: "
                    "widen the table that declares this, or run `verify` first, which proves it"
                )
        for node, (low, high) in declared.items():
            if node.operation == Operation.Constant and not _holds(low, high, node()):
                node.properties["constant"] = _wrapped(node(), bit_width(low, high))
        self.graph.update_with_bounds(
            {
                node: {"min": np.int64(low), "max": np.int64(high)}
                for node, (low, high) in declared.items()
            }
        )


@dataclass(frozen=True)
class StageCall:
    """A stage for one sequence length, or a block of one, and the function that it calls."""

    stage: Stage
    function: DeclaredFunction


def trace_functions(
    network: Network,
    ranges: Mapping[int, list[StageRange]],
    exact_rounding: bool,
    blocks: Mapping[int, Sequence[LayerBlocks]],
) -> dict[int, list[StageCall]]:
    """Return the calls of each sequence length; they share functions as `function_names` says.

    ranges: what `verify` proved, by number of tokens. blocks: into how many blocks of rows each
    layer's stages are cut, by number of tokens; nothing is cut for a number that isn't there.
    """
    functions: dict[str, DeclaredFunction] = {}
    calls: dict[int, list[StageCall]] = {}
    plans = {
        n: (network_stages(network, n, cuts), network_wires(network, n, cuts))
        for n, cuts in ((n, blocks.get(n, ())) for n in ranges)
    }
    for n, names in function_names(plans).items():
        stages, wires = plans[n]
        calls[n] = []
        for name, stage, stage_range in zip(names, stages, ranges[n], strict=True):
            if name not in functions:
                functions[name] = trace_stage(name, stage, stage_range, wires, exact_rounding)
            calls[n].append(StageCall(stage, functions[name]))
    return calls


def trace_documents(
    network: Network, proved: list[StageRange], exact_rounding: bool
) -> list[StageCall]:
    """Return the calls that long documents need beside those of each sequence length.

    proved: by `verify_documents`; none gives none.
    """
    if not proved:
        return []
    wires = {**network_wires(network, network.stride), SCORE: score_wire(network)}
    calls = []
    for stage, stage_range in zip(document_stages(network), proved, strict=True):
        function = trace_stage(stage.name, stage, stage_range, wires, exact_rounding)
        calls.append(StageCall(stage, function))
    return calls


def trace_stage(
    name: str,
    stage: Stage,
    proved: StageRange,
    wires: Mapping[str, Wire],
    exact_rounding: bool,
) -> DeclaredFunction:
    """Return the function of this name that Concrete compiles for a stage.

    proved: by `verify_stage`; it declares outputs that are no wires. exact_rounding: as
    `encrypted_lookup` says.
    """
    lookup = encrypted_lookup(exact_rounding)

    def function(**values: Any) -> Any:
        with fhe.tag(stage.name):
            outputs = stage.evaluate(list(values.values()), lookup)
        for value, output in zip(outputs, stage.outputs, strict=True):
            if output not in wires:  # logits, or the sums of a lone head: no table declares them
                declare(value, proved.outputs[output])
        return outputs if len(outputs) > 1 else outputs[0]

    parameters = [value.replace(".", "_") for value in stage.inputs]
    if len(set(parameters)) < len(parameters):
        parameters = [f"{value}_{index}" for index, value in enumerate(parameters)]
    function.__name__ = name
    # Concrete reads names and number of the inputs from the signature.
    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(p, inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    )
    declared = DeclaredFunction(function, dict.fromkeys(parameters, "encrypted"))
    declared.inputset.extend(sample_inputs(stage, wires))
    return declared


def sample_inputs(stage: Stage, wires: Mapping[str, Wire]) -> list[tuple[np.ndarray, ...]]:
    """Return inputs of a stage: all at their lower end, all at their upper, corners, random."""
    rng = np.random.default_rng(0)
    boxes = [wires[name] for name in stage.inputs]
    ends = [tuple(np.full(w.shape, end(w)) for w in boxes) for end in (_low, _high)]
    corners = [tuple(rng.choice([w.low, w.high], w.shape) for w in boxes) for _ in range(N_SAMPLES)]
    inside = [
        tuple(rng.integers(w.low, w.high + 1, w.shape) for w in boxes) for _ in range(N_SAMPLES)
    ]
    return ends + corners + inside


def declared_ranges(graph: Graph) -> dict[Node, tuple[int, int]]:
    """Return the range of each node that declares one, and of those that it is computed from.

    An intermediate sum, and a constant that is added, get no more bits than the sum that a
    lookup reads: ciphertexts add modulo their width, so sums may leave that range on the way, and
    a constant may be any that is the same modulo that. A sum keeps its sign, which slices and
    reshapes must not change.
    """
    nodes = graph.query_nodes(ordered=True)
    bits: dict[Node, int] = {}
    for node in reversed(nodes):
        readers = [bits[reader] for reader in graph.graph.successors(node) if reader in bits]
        if DECLARED_RANGE in node.properties:
            bits[node] = bit_width(*node.properties[DECLARED_RANGE])
        elif readers and node.operation != Operation.Input and _fits(graph, node, max(readers)):
            bits[node] = max(readers)
    ranges: dict[Node, tuple[int, int]] = {}
    for node in nodes:
        if DECLARED_RANGE in node.properties:
            ranges[node] = node.properties[DECLARED_RANGE]
        elif node in bits:
            before = [ranges.get(pred, pred.bounds) for pred in graph.ordered_preds_of(node)]
            signed = min(low for low, _ in [*before, node.bounds]) < 0
            half = 1 << (bits[node] - 1)
            ranges[node] = (-half, half - 1) if signed else (0, 2 * half - 1)
    return ranges


def _fits(graph: Graph, node: Node, bits: int) -> bool:
    """Whether a constant fits the clear integers of an operation, one bit wider than its sums.

    One that is only added or subtracted can be made to (`_wrapped`).
    """
    if node.operation != Operation.Constant:
        return True
    added = all(
        reader.operation == Operation.Generic and reader.properties["name"] in ("add", "subtract")
        for reader in graph.graph.successors(node)
    )
    return added or _holds(1 - (1 << bits), (1 << bits) - 1, node())


def _holds(low: int, high: int, constant: np.ndarray) -> bool:
    return bool(low <= constant.min() and constant.max() <= high)


def _wrapped(constant: np.ndarray, bits: int) -> np.ndarray:
    """Return what is the same to ciphertexts of `bits` bits, and of the padding bit above them.

    >>> _wrapped(np.array([600, 511, -513]), 9)
    array([-424,  511,  511])
    """
    half = 1 << bits
    return (constant + half) % (2 * half) - half


def _low(wire: Wire) -> int:
    return wire.low


def _high(wire: Wire) -> int:
    return wire.high
