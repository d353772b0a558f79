"""What a network costs at each sequence length: lookups, complexity, seconds and sizes.

    report = estimate(network, lengths, p_error)      # a second or two; no network is compiled
    report.to_json(), report.to_markdown()

Lookups are counted by running the stages on shapes, and their cost is that of the keys which
Concrete's optimizer chooses, so both agree with what `compile` reports of the same network. Seconds
are complexity times a factor of the machine: `Speed`.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod

from circuits.network import Network
from compile.cost.classes import Classes, classify_lookups
from compile.cost.sketch import Optimum, optimize
from compile.cost.speed import USUAL, Speed
from compile.cost.trace import TracedFunction, TracedStage, trace_benchmark, trace_network
from compile.options import BENCHMARK_SIZE
from compile.verifier import check_lengths
from fhe_inhibitor.runtime.costs import stage_name
from fhe_inhibitor.runtime.manifest import CONCRETE_VERSION
from fhe_inhibitor.runtime.specifications import Value
from fhe_inhibitor.system.pages import markdown_table

BYTES_PER_WORD = 8


@dataclass(frozen=True)
class StageEstimate:
    """One stage, heads together. lookups: by bit width. units: their complexity."""

    stage: str
    lookups: Mapping[int, int]
    units: float
    seconds: float


@dataclass(frozen=True)
class LengthEstimate:
    """One sentence of n tokens. request_bytes, response_bytes: ciphertexts without headers."""

    n: int
    stages: tuple[StageEstimate, ...]
    lookups: Mapping[int, int]
    units: float
    seconds: float
    request_bytes: int
    response_bytes: int

    @property
    def n_lookups(self) -> int:
        """Lookups of all widths."""
        return sum(self.lookups.values())


@dataclass(frozen=True)
class CostReport:
    """What circuits of these lengths, with one set of keys, would cost.

    complexity: of one call of every function, those that time lookups too: what `compile` reports.
    lookup_units: of one lookup, by bit width; the mean where a width has several. Sizes of keys as
    sent, once, and unpacked.
    """

    p_error: float
    lengths: tuple[LengthEstimate, ...]
    complexity: float
    lookup_units: Mapping[int, float]
    evaluation_keys_bytes: int
    bootstrap_keys_bytes: int
    keyswitch_keys_bytes: int
    speed: Speed
    concrete_version: str = CONCRETE_VERSION

    def to_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(asdict(self), indent=1)

    def to_markdown(self) -> str:
        """Return the report as Markdown: a summary, then tables of lengths and stages."""
        tables = [_lengths(self.lengths), *map(_stages, self.lengths)]
        return "\n".join([*_summary(self), *(line for table in tables for line in ("", *table))])


def estimate(
    network: Network, lengths: Iterable[int], p_error: float, speed: Speed = USUAL
) -> CostReport:
    """Return what circuits for sequences of `lengths` tokens each would cost.

    Raises InputError for lengths that `check_lengths` refuses, or if no parameters reach p_error.
    """
    ns = check_lengths(network, lengths)
    calls = trace_network(network, ns)
    functions = {call.function.name: call.function for n in ns for call in calls[n]}
    widths = sorted({x.bit_width for f in functions.values() for x in f.lookups if x.bit_width})
    benchmarks = [trace_benchmark(width, BENCHMARK_SIZE) for width in widths]
    classes = classify_lookups([*functions.values(), *benchmarks])
    optimum = optimize(classes.listed, p_error)
    keyset = optimum.specifications.keyset
    return CostReport(
        p_error=p_error,
        lengths=tuple(_length(n, calls[n], classes, optimum, speed) for n in ns),
        complexity=optimum.complexity,
        lookup_units=_by_width(functions.values(), classes, optimum),
        evaluation_keys_bytes=sum(key.n_bytes_sent for _, key in keyset.evaluation_keys()),
        bootstrap_keys_bytes=optimum.bootstrap_keys_bytes,
        keyswitch_keys_bytes=optimum.keyswitch_keys_bytes,
        speed=speed,
    )


def _length(
    n: int, calls: Sequence[TracedStage], classes: Classes, optimum: Optimum, speed: Speed
) -> LengthEstimate:
    lookups: dict[str, Counter[int]] = {}
    units: dict[str, float] = defaultdict(float)
    for call in calls:
        stage = stage_name(call.stage.name)
        counted = lookups.setdefault(stage, Counter())
        for read in call.function.lookups:
            if read.bit_width:
                counted[read.bit_width] += read.count
            units[stage] += read.count * optimum.lookup_units[classes.index[read]]
    stages = tuple(
        StageEstimate(name, dict(sorted(of.items())), units[name], units[name] * speed.unit_s)
        for name, of in lookups.items()
    )
    total = sum(stage.units for stage in stages)
    return LengthEstimate(
        n,
        stages,
        dict(sorted(sum(lookups.values(), Counter[int]()).items())),
        total,
        total * speed.unit_s,
        _request_bytes(calls, classes, optimum),
        _response_bytes(calls[-1].function, classes, optimum),
    )


def _request_bytes(calls: Sequence[TracedStage], classes: Classes, optimum: Optimum) -> int:
    """Return the size of what the client sends.

    Functions that take the same value share a ciphertext if key and encoding agree, as
    `compile.manifests` has it.
    """
    sent: dict[tuple[str, int, int], int] = {}
    for call in calls:
        for name, port in zip(call.stage.inputs, call.function.ports, strict=True):
            if not port.sources:
                position, argument = classes.place[port]
                value = optimum.specifications.circuits[position].inputs[argument]
                key = value.type_info.lwe_ciphertext.encryption.key_id
                size = prod(port.shape) * _value_bytes(value, classes.listed[position].count)
                sent[name, key, classes.encoding[port]] = size
    return sum(sent.values())


def _response_bytes(last: TracedFunction, classes: Classes, optimum: Optimum) -> int:
    total = 0
    for output in last.outputs.values():
        position = classes.index[output]
        (value,) = optimum.specifications.circuits[position].outputs
        total += output.count * _value_bytes(value, classes.listed[position].count)
    return total


def _value_bytes(value: Value, n_values: int) -> int:
    """Return the size of one encrypted integer of a tensor of n_values."""
    return prod(value.raw_info.shape.dimensions) // n_values * BYTES_PER_WORD


def _by_width(
    functions: Iterable[TracedFunction], classes: Classes, optimum: Optimum
) -> dict[int, float]:
    """Return the mean complexity of one lookup of each bit width."""
    units: dict[int, float] = defaultdict(float)
    counts: Counter[int] = Counter()
    for function in functions:
        for read in function.lookups:
            counts[read.bit_width] += read.count
            units[read.bit_width] += read.count * optimum.lookup_units[classes.index[read]]
    return {width: units[width] / counts[width] for width in sorted(counts) if width}


def _summary(report: CostReport) -> list[str]:
    units = ", ".join(f"{width} bits {of / 1e8:.3f}e8" for width, of in report.lookup_units.items())
    return [
        f"- circuits of {', '.join(str(length.n) for length in report.lengths)} tokens with one "
        f"set of keys, Concrete {report.concrete_version}, p_error {report.p_error:.2e} a lookup; "
        "nothing was compiled",
        f"- complexity of one lookup: {units}; of one call of every function "
        f"{report.complexity:.3e}",
        f"- evaluation keys {report.evaluation_keys_bytes / 1e6:.1f} MB as sent; unpacked, "
        f"{report.bootstrap_keys_bytes / 1e6:.0f} MB for bootstraps and "
        f"{report.keyswitch_keys_bytes / 1e6:.0f} MB for keyswitches",
        f"- seconds: {report.speed.unit_s * 1e11:.2f} s for 1e11 units, {report.speed.measured}",
    ]


def _lengths(lengths: Sequence[LengthEstimate]) -> list[str]:
    head = "tokens", "lookups", "by width", "complexity", "predicted", "request", "response"
    rows = [
        [
            length.n,
            f"{length.n_lookups:,}",
            _counts(length.lookups),
            f"{length.units:.3e}",
            _duration(length.seconds),
            f"{length.request_bytes / 1e3:.1f} kB",
            f"{length.response_bytes / 1e3:.1f} kB",
        ]
        for length in lengths
    ]
    return markdown_table(head, rows)


def _stages(length: LengthEstimate) -> list[str]:
    head = f"stage, {length.n} tokens", "lookups", "by width", "complexity", "predicted"
    rows = [
        [
            stage.stage,
            f"{sum(stage.lookups.values()):,}",
            _counts(stage.lookups),
            f"{stage.units:.3e}",
            _duration(stage.seconds),
        ]
        for stage in length.stages
    ]
    return markdown_table(head, rows)


def _counts(lookups: Mapping[int, int]) -> str:
    return ", ".join(f"{count:,} of {width} bits" for width, count in lookups.items())


def _duration(seconds: float) -> str:
    """Return a time as people say it.

    >>> _duration(3.21), _duration(400), _duration(9000)
    ('3.2 s', '6.7 min', '2.50 h')
    """
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.2f} h"
