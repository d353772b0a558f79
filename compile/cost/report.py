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

from circuits.blocks import LayerBlocks
from circuits.network import Network
from compile.cost.speed import USUAL, Speed
from compile.cost.tasks import Costed, cost_network
from compile.verifier import check_lengths
from fhe_inhibitor.runtime.costs import stage_name
from fhe_inhibitor.runtime.manifest import CONCRETE_VERSION
from fhe_inhibitor.system.pages import markdown_table


@dataclass(frozen=True)
class StageEstimate:
    """One stage, heads and blocks of rows together. lookups: by bit width. units: their complexity.

    tasks: how many it is. longest_task_s: seconds of the longest one.
    """

    stage: str
    lookups: Mapping[int, int]
    units: float
    seconds: float
    tasks: int
    longest_task_s: float


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
    network: Network,
    lengths: Iterable[int],
    p_error: float,
    speed: Speed = USUAL,
    blocks: Mapping[int, Sequence[LayerBlocks]] | None = None,
) -> CostReport:
    """Return what circuits for sequences of `lengths` tokens each would cost.

    blocks: into how many blocks of rows the stages of each layer are cut, by number of tokens.
    Raises InputError for lengths that `check_lengths` refuses, or if no parameters reach p_error.
    """
    ns = check_lengths(network, lengths)
    costed = cost_network(network, ns, p_error, blocks)
    optimum = costed.optimum
    keyset = optimum.specifications.keyset
    return CostReport(
        p_error=p_error,
        lengths=tuple(_length(n, costed, speed) for n in ns),
        complexity=optimum.complexity,
        lookup_units=_by_width(costed),
        evaluation_keys_bytes=sum(key.n_bytes_sent for _, key in keyset.evaluation_keys()),
        bootstrap_keys_bytes=optimum.bootstrap_keys_bytes,
        keyswitch_keys_bytes=optimum.keyswitch_keys_bytes,
        speed=speed,
    )


def _length(n: int, costed: Costed, speed: Speed) -> LengthEstimate:
    calls = costed.calls[n]
    lookups: dict[str, Counter[int]] = {}
    units: dict[str, float] = defaultdict(float)
    longest: dict[str, float] = defaultdict(float)
    tasks: Counter[str] = Counter()
    for call in calls:
        stage = stage_name(call.stage.name)
        counted, of_call = lookups.setdefault(stage, Counter()), 0.0
        for read in call.function.lookups:
            if read.bit_width:
                counted[read.bit_width] += read.count
            of_call += read.count * costed.lookup_units(read)
        units[stage] += of_call
        longest[stage] = max(longest[stage], of_call)
        tasks[stage] += 1
    stages = tuple(
        StageEstimate(
            name,
            dict(sorted(of.items())),
            units[name],
            units[name] * speed.unit_s,
            tasks[name],
            longest[name] * speed.unit_s,
        )
        for name, of in lookups.items()
    )
    total = sum(stage.units for stage in stages)
    return LengthEstimate(
        n,
        stages,
        dict(sorted(sum(lookups.values(), Counter[int]()).items())),
        total,
        total * speed.unit_s,
        sum(costed.sent(calls).values()),
        sum(map(costed.output_bytes, calls[-1].function.outputs.values())),
    )


def _by_width(costed: Costed) -> dict[int, float]:
    """Return the mean complexity of one lookup of each bit width."""
    units: dict[int, float] = defaultdict(float)
    counts: Counter[int] = Counter()
    for function in costed.functions:
        for read in function.lookups:
            counts[read.bit_width] += read.count
            units[read.bit_width] += read.count * costed.lookup_units(read)
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
    head = (
        f"stage, {length.n} tokens", "lookups", "by width", "complexity", "predicted", "tasks",
        "longest task",
    )  # fmt: skip
    rows = [
        [
            stage.stage,
            f"{sum(stage.lookups.values()):,}",
            _counts(stage.lookups),
            f"{stage.units:.3e}",
            _duration(stage.seconds),
            stage.tasks,
            _duration(stage.longest_task_s),
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
