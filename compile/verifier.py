"""The verifier: proves, before anything is compiled, that no value leaves its declared bits.

Each stage is run on intervals, from inputs as wide as their wires. An accumulator that fits its
table for all of them cannot wrap around, whatever the input and the rounding noise; encrypted,
it would do so in silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from circuits.blocks import LayerBlocks
from circuits.documents import MAX_PIECES, SCORE, add_stage, score_stage, score_wire
from circuits.intervals import Interval, full, interval_lookup
from circuits.lookups import Table, bit_width
from circuits.network import Network
from circuits.plan import Stage, Wire, network_stages, network_wires
from fhe_inhibitor.errors import InputError

MAX_LOOKUP_BITS = 6  # at 2.5 times the cost of 5


class VerificationError(InputError):
    """A value can leave its declared range, or what was compiled differs from what was declared."""


@dataclass(frozen=True)
class LookupRange:
    """What one tensor of lookups can be given: the accumulator's bounds and its table's."""

    bit_width: int
    n_lookups: int
    accumulator: tuple[int, int]
    domain: tuple[int, int]


@dataclass(frozen=True)
class StageRange:
    """What a stage can compute: its lookups in order, and the bounds of its outputs by name."""

    stage: str
    lookups: tuple[LookupRange, ...]
    outputs: dict[str, tuple[int, int]]

    @property
    def widest(self) -> int:
        """Bits of the widest lookup, 0 without one."""
        return max((lookup.bit_width for lookup in self.lookups), default=0)

    @property
    def accumulator_bits(self) -> int:
        """Bits of the widest accumulator that a lookup reads, 0 without one."""
        return max((bit_width(*lookup.accumulator) for lookup in self.lookups), default=0)


def check_lengths(network: Network, lengths: Iterable[int]) -> list[int]:
    """Return sequence lengths in ascending order, each once.

    Raises InputError for none, for one that isn't positive, or isn't a multiple of the tokens that
    the layers pool to one position.
    """
    listed = sorted(set(lengths))
    if not listed or listed[0] < 1:
        raise InputError(f"sequence lengths {listed}: wanted at least one, all positive")
    if any(n % network.stride for n in listed):
        raise InputError(
            f"sequence lengths {listed}: wanted multiples of {network.stride}, since the layers of "
            "this network pool so many tokens to one position"
        )
    return listed


def verify(
    network: Network,
    n: int,
    max_bits: int = MAX_LOOKUP_BITS,
    blocks: Sequence[LayerBlocks] = (),
) -> list[StageRange]:
    """Prove the ranges of all stages for n tokens, cut into these blocks of rows.

    Raises VerificationError, naming the stage, if shapes do not fit, an accumulator can leave
    its table, a lookup is wider than max_bits, or an output can leave its wire; InputError for a
    length that `check_lengths` refuses.
    """
    check_lengths(network, [n])
    wires = network_wires(network, n, blocks)
    stages = network_stages(network, n, blocks)
    return [verify_stage(stage, wires, max_bits) for stage in stages]


def verify_documents(network: Network, max_bits: int = MAX_LOOKUP_BITS) -> list[StageRange]:
    """Prove the ranges of what long documents need: the score, then the sums of 2 pieces and more.

    Raises VerificationError as `verify` does, where no score has a table, and for a network whose
    last layer asks for all positions: its logits are those of the first.
    """
    if not network.layers[-1].single_query:
        raise VerificationError(
            f"{SCORE}: the last layer asks for all positions; wanted single_query for long "
            "documents"
        )
    try:
        wires = {**network_wires(network, network.stride), SCORE: score_wire(network)}
    except ValueError as error:
        raise VerificationError(f"{SCORE}: {error}") from error
    return [verify_stage(stage, wires, max_bits) for stage in document_stages(network)]


def document_stages(network: Network) -> list[Stage]:
    """Return the stages that long documents need beside those of the network."""
    return [score_stage(network), *(add_stage(pieces) for pieces in range(2, MAX_PIECES + 1))]


def verify_stage(stage: Stage, wires: Mapping[str, Wire], max_bits: int) -> StageRange:
    """Prove the ranges of one stage, whose inputs are wires. Raises VerificationError as `verify`.

    The range of an output without a wire is whatever it can be.
    """
    lookups: list[LookupRange] = []

    def recording_lookup(x: Interval, table: Table) -> Interval:
        bounds = _bounds(x)
        lookups.append(LookupRange(table.bit_width, x.low.size, bounds, table.domain))
        if table.bit_width > max_bits:
            raise VerificationError(
                f"{stage.name}: lookup {len(lookups)} takes {table.bit_width} bits, wanted "
                f"{max_bits}: round more of its low bits away, narrow its table, or allow more bits"
            )
        return interval_lookup(x, table)

    boxes = [full(wires[name].shape, wires[name].low, wires[name].high) for name in stage.inputs]
    try:
        values = stage.evaluate(boxes, recording_lookup)
    except OverflowError as error:
        raise VerificationError(
            f"{stage.name}: lookup {len(lookups)}: {error}: lengthen the table and round more of "
            "its low bits away, or narrow what is added up (weights, the window of keys)"
        ) from error
    except (ValueError, IndexError) as error:
        if isinstance(error, VerificationError):
            raise
        raise VerificationError(
            f"{stage.name}: shapes do not fit: {error}: its weights and tables need one row or "
            "channel for each channel of the stage before"
        ) from error
    outputs = dict(zip(stage.outputs, values, strict=True))
    for name, value in outputs.items():
        _check_wire(stage, name, value, wires.get(name))
    return StageRange(stage.name, tuple(lookups), {k: _bounds(v) for k, v in outputs.items()})


def _check_wire(stage: Stage, name: str, value: Any, wire: Wire | None) -> None:
    if wire is None:  # the logits leave the circuits
        return
    low, high = _bounds(value)
    if value.shape != wire.shape or low < wire.low or high > wire.high:
        raise VerificationError(
            f"{stage.name}: {name} is {value.shape} in {low}..{high}, its wire takes "
            f"{wire.shape} in {wire.low}..{wire.high}: let the stage end in the table "
            "that declares the wire"
        )


def _bounds(x: Interval) -> tuple[int, int]:
    return int(x.low.min()), int(x.high.max())
