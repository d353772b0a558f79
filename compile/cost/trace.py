"""Which lookups a network takes, and what each reads: the stages, run on shapes instead of values.

A `Sum` stands for an encrypted tensor that no lookup has read yet: its shape, and for each value
that it is a sum of the squared 2-norm of that value's weights,

    sum_i w_i x_i    has, of each x, the term    max over the elements of  sum_i w_i^2

That is all that noise, and so the optimizer of Concrete, asks of a sum. It forgets where in a
tensor a weight is, as Concrete does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from circuits.blocks import LayerBlocks
from circuits.intervals import full, interval_lookup
from circuits.lookups import Lookup, Table, bit_width
from circuits.network import Network
from circuits.plan import Stage, Wire, function_names, network_stages, network_wires


@dataclass(frozen=True, eq=False)
class Sum:
    """A tensor of encrypted sums, with the operations of stages.

    terms: squared 2-norm of the weights, by what is added: a `Port` or a `TracedLookup`.

    >>> x = Sum((3, 2), {"x": 1})
    >>> total = (x @ np.array([[3], [4]])) * 2 + x[:, :1]
    >>> total.shape, total.terms
    ((3, 1), {'x': 101})
    """

    shape: tuple[int, ...]
    terms: Mapping[Any, int]

    __array_ufunc__ = None  # NumPy operators defer to the methods below

    def __add__(self, other: Any) -> Sum:
        shape = np.broadcast_shapes(self.shape, getattr(other, "shape", ()))
        if not isinstance(other, Sum):
            return Sum(shape, self.terms)
        added = self.terms.keys() | other.terms.keys()
        return Sum(shape, {x: self.terms.get(x, 0) + other.terms.get(x, 0) for x in added})

    __radd__ = __sub__ = __rsub__ = __add__

    def __neg__(self) -> Sum:
        return self

    def __mul__(self, factor: np.ndarray | int) -> Sum:
        shape = np.broadcast_shapes(self.shape, np.shape(factor))
        return self._times(shape, int(np.max(np.square(factor))))

    __rmul__ = __mul__

    def __matmul__(self, weight: np.ndarray) -> Sum:
        largest = int(np.square(weight).sum(axis=0).max())
        return self._times((*self.shape[:-1], weight.shape[1]), largest)

    def __rmatmul__(self, weight: np.ndarray) -> Sum:
        largest = int(np.square(weight).sum(axis=1).max())
        return self._times((weight.shape[0], *self.shape[1:]), largest)

    def __getitem__(self, index: Any) -> Sum:
        return Sum(self._like()[index].shape, self.terms)

    def __array_function__(
        self, function: Callable, types: Any, args: Sequence, kwargs: dict
    ) -> Sum:
        if function is np.concatenate:
            return self._concatenate(*args, **kwargs)
        if function not in (np.sum, np.expand_dims):
            return NotImplemented
        shape = function(self._like(), *args[1:], **kwargs).shape
        n_added = prod(self.shape) // max(prod(shape), 1) if function is np.sum else 1
        return self._times(shape, n_added)

    @staticmethod
    def _concatenate(parts: Sequence[Sum], axis: int = 0) -> Sum:
        """Return one term for all parts: an element has the noise of one of them, not of all."""
        shape = np.concatenate([part._like() for part in parts], axis=axis).shape
        joined = Port("", shape, 1, [x for part in parts for x in part.terms])
        return Sum(shape, {joined: max(sum(part.terms.values()) for part in parts)})

    def _like(self) -> np.ndarray:
        """Return an array of the shape that takes no memory."""
        return np.broadcast_to(np.int8(0), self.shape)

    def _times(self, shape: tuple[int, ...], squared: int) -> Sum:
        return Sum(shape, {x: norm * squared for x, norm in self.terms.items()})


@dataclass(frozen=True, eq=False)
class Port:
    """An input of a function, or tensors joined into one.

    value: its name, "" for joined ones. bits: of its range. sources: what it may be, none where
    the client encrypts it.
    """

    value: str
    shape: tuple[int, ...]
    bits: int
    sources: list[Port | TracedLookup]


@dataclass(frozen=True, eq=False)
class TracedLookup:
    """A tensor of lookups, or, of `bit_width` 0, a sum that leaves the circuits as it is.

    terms: of the sum that is read. sum_bits: of what the sum must hold. bits: of the range of what
    is read, the sum itself where there is no lookup.
    """

    bit_width: int
    count: int
    sum_bits: int
    bits: int
    terms: Mapping[Port | TracedLookup, int]


@dataclass(frozen=True, eq=False)
class TracedFunction:
    """An encrypted function. outputs: what leaves it, by the names that the stage gives."""

    name: str
    ports: list[Port]
    lookups: list[TracedLookup]
    outputs: Mapping[str, TracedLookup]


@dataclass(frozen=True)
class TracedStage:
    """A stage for one sequence length, or a block of one, and the function that it calls."""

    stage: Stage
    function: TracedFunction

    @property
    def outputs(self) -> dict[str, TracedLookup]:
        """What the call gives, by name."""
        return dict(zip(self.stage.outputs, self.function.outputs.values(), strict=True))


def trace_network(
    network: Network,
    lengths: Sequence[int],
    blocks: Mapping[int, Sequence[LayerBlocks]] | None = None,
) -> dict[int, list[TracedStage]]:
    """Return the stages of each sequence length; they share functions as circuits do.

    blocks: as `compile.module.CompileOptions` has them.
    """
    functions: dict[str, TracedFunction] = {}
    calls: dict[int, list[TracedStage]] = {}
    plans = {
        n: (network_stages(network, n, cuts), network_wires(network, n, cuts))
        for n, cuts in ((n, (blocks or {}).get(n, ())) for n in lengths)
    }
    for n, names in function_names(plans).items():
        stages, wires = plans[n]
        computed: dict[str, TracedLookup] = {}
        calls[n] = []
        for name, stage in zip(names, stages, strict=True):
            if name not in functions:
                functions[name] = _trace(name, stage, wires)
            call = TracedStage(stage, functions[name])
            for value, port in zip(stage.inputs, call.function.ports, strict=True):
                source = computed.get(value)
                if source is not None and source not in port.sources:
                    port.sources.append(source)
            computed |= call.outputs
            calls[n].append(call)
    return calls


def trace_lookup(lookups: list[TracedLookup]) -> Lookup:
    """Return a lookup of sums that appends to `lookups`."""

    def lookup(x: Sum, table: Table) -> Sum:
        highest = (table.last - table.first) << table.lsbs
        bits = bit_width(*table.range)
        count, sum_bits = prod(x.shape), bit_width(0, highest)
        read = TracedLookup(table.bit_width, count, sum_bits, bits, x.terms)
        lookups.append(read)
        return Sum(x.shape, {read: 1})

    return lookup


def trace_benchmark(bit_width: int, size: int) -> TracedFunction:
    """Return the function that times lookups, as `compile.lookup_times` has it compiled."""
    port = Port("benchmark", (size,), bit_width, [])
    read = TracedLookup(bit_width, size, bit_width, bit_width, {port: 1})
    return TracedFunction(f"benchmark{bit_width}", [port], [read], {"benchmark": read})


def _trace(name: str, stage: Stage, wires: Mapping[str, Wire]) -> TracedFunction:
    ports = [_port(value, wires[value]) for value in stage.inputs]
    lookups: list[TracedLookup] = []
    values = [Sum(port.shape, {port: 1}) for port in ports]
    results = stage.evaluate(values, trace_lookup(lookups))
    outputs: dict[str, TracedLookup] = {}
    for position, (value, result) in enumerate(zip(stage.outputs, results, strict=True)):
        last = next(iter(result.terms))
        of_all = isinstance(last, TracedLookup) and last.count == prod(result.shape)
        if of_all and dict(result.terms) == {last: 1}:
            outputs[value] = last
        else:  # logits that no table declares
            bits = _proved_bits(stage, wires, position)
            outputs[value] = TracedLookup(0, prod(result.shape), bits, bits, result.terms)
            lookups.append(outputs[value])
    return TracedFunction(name, ports, lookups, outputs)


def _port(value: str, wire: Wire) -> Port:
    return Port(value, wire.shape, bit_width(wire.low, wire.high), [])


def _proved_bits(stage: Stage, wires: Mapping[str, Wire], position: int) -> int:
    boxes = [full(wires[name].shape, wires[name].low, wires[name].high) for name in stage.inputs]
    proved = stage.evaluate(boxes, interval_lookup)[position]
    return bit_width(int(proved.low.min()), int(proved.high.max()))
