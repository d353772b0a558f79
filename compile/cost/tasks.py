"""What each task of a program costs: the loops of lookups that it runs, and the bytes it reads.

Concrete runs each tensor of lookups as one parallel loop, and the loops of a function one after the
other. So a task of loops with c_1, c_2, ... lookups takes, on p cores,

    sum_i ceil(c_i / p) * seconds of one lookup on one core

which is more than its p-th part where loops are short. Seen with Concrete 2.11 on two threads: 24
lookups of one tensor keep both busy, and 24 tensors of one lookup each keep one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod

from circuits.blocks import LayerBlocks
from circuits.network import Network
from compile.complexity import BYTES_PER_WORD
from compile.cost.classes import Classes, classify_lookups
from compile.cost.sketch import Optimum, optimize
from compile.cost.trace import (
    TracedFunction,
    TracedLookup,
    TracedStage,
    trace_benchmark,
    trace_network,
)
from compile.options import BENCHMARK_SIZE
from fhe_inhibitor.runtime.specifications import Value


@dataclass(frozen=True)
class Loop:
    """Lookups that may run side by side: how many, and the units of complexity of one."""

    count: int
    units: float


@dataclass(frozen=True)
class TaskEstimate:
    """One task. inputs, outputs: names of values. loops: in the order in which they run."""

    stage: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    loops: tuple[Loop, ...]

    @property
    def units(self) -> float:
        """Complexity of all lookups."""
        return sum(loop.count * loop.units for loop in self.loops)

    def units_on(self, cores: int) -> float:
        """Complexity of the longest share of so many cores.

        >>> TaskEstimate("", (), (), (Loop(3, 2.0), Loop(4, 1.0))).units_on(2)
        6.0
        """
        return sum(ceil(loop.count / cores) * loop.units for loop in self.loops)


@dataclass(frozen=True)
class ProgramEstimate:
    """The tasks of one sentence, in an order that can run, and the bytes of each value's
    ciphertexts, by name; those that the client sends are compressed."""

    tasks: tuple[TaskEstimate, ...]
    value_bytes: Mapping[str, int]


@dataclass(frozen=True)
class Costed:
    """A traced network and what the optimizer says of it."""

    calls: Mapping[int, Sequence[TracedStage]]
    classes: Classes
    optimum: Optimum

    @property
    def functions(self) -> list[TracedFunction]:
        """Every function once."""
        named = {call.function.name: call.function for of in self.calls.values() for call in of}
        return list(named.values())

    def lookup_units(self, lookup: TracedLookup) -> float:
        """Return the complexity of one lookup of a tensor."""
        return self.optimum.lookup_units[self.classes.index[lookup]]

    def output_bytes(self, output: TracedLookup) -> int:
        """Return the size of the ciphertexts that come out of a lookup."""
        position = self.classes.index[output]
        (value,) = self.optimum.specifications.circuits[position].outputs
        return output.count * self._value_bytes(value, position)

    def sent(self, calls: Iterable[TracedStage]) -> dict[tuple[str, int, int], int]:
        """Return the size of each ciphertext that the client sends: by value, key and encoding.

        Functions that take the same value share a ciphertext if key and encoding agree, as
        `compile.manifests` has it.
        """
        sizes: dict[tuple[str, int, int], int] = {}
        for call in calls:
            for name, port in zip(call.stage.inputs, call.function.ports, strict=True):
                if not port.sources:
                    position, argument = self.classes.place[port]
                    value = self.optimum.specifications.circuits[position].inputs[argument]
                    key = value.type_info.lwe_ciphertext.encryption.key_id
                    size = prod(port.shape) * self._value_bytes(value, position)
                    sizes[name, key, self.classes.encoding[port]] = size
        return sizes

    def _value_bytes(self, value: Value, position: int) -> int:
        """Return the size of one encrypted integer of a class."""
        n_values = self.classes.listed[position].count
        return prod(value.raw_info.shape.dimensions) // n_values * BYTES_PER_WORD


def cost_network(
    network: Network,
    lengths: Sequence[int],
    p_error: float,
    blocks: Mapping[int, Sequence[LayerBlocks]] | None = None,
) -> Costed:
    """Return a network with the keys that circuits for these lengths would have.

    blocks: as `compile.module.CompileOptions` has them. Raises InputError if no parameters reach
    p_error.
    """
    calls = trace_network(network, lengths, blocks)
    functions = {call.function.name: call.function for n in lengths for call in calls[n]}
    widths = sorted({x.bit_width for f in functions.values() for x in f.lookups if x.bit_width})
    benchmarks = [trace_benchmark(width, BENCHMARK_SIZE) for width in widths]
    classes = classify_lookups([*functions.values(), *benchmarks])
    return Costed(calls, classes, optimize(classes.listed, p_error))


def estimate_tasks(
    network: Network, n: int, p_error: float, blocks: Sequence[LayerBlocks] = ()
) -> ProgramEstimate:
    """Return what the tasks of one sentence of n tokens cost, cut into these blocks of rows.

    Raises InputError if no parameters reach p_error.
    """
    costed = cost_network(network, [n], p_error, {n: blocks})
    calls, sizes = costed.calls[n], dict[str, int]()
    for (name, _, _), size in costed.sent(calls).items():
        sizes[name] = sizes.get(name, 0) + size
    tasks = []
    for call in calls:
        for name, output in call.outputs.items():
            sizes[name] = costed.output_bytes(output)
        loops = (
            Loop(lookup.count, costed.lookup_units(lookup))
            for lookup in call.function.lookups
            if lookup.bit_width
        )
        tasks.append(
            TaskEstimate(call.stage.name, call.stage.inputs, call.stage.outputs, tuple(loops))
        )
    return ProgramEstimate(tuple(tasks), sizes)
