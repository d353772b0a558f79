"""The report on compiled circuits: lookups by stage and width, sizes, failure probability, time.

report = describe(compiled)                     # what is known before keys exist
report = add_measurements(report, client, server, keys)  # adds key sizes and the time of a lookup
report = add_noise(report, measured)            # adds the noise of rounding, see `noise`
report.to_json(), report.to_markdown()
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any

from circuits.counts import count_lookups
from compile.complexity import BYTES_PER_WORD, bootstrap_units, keyswitch_units
from compile.lookup_times import measure_lookups
from compile.module import CompiledNetwork
from compile.noise import ModelNoise
from fhe_inhibitor.runtime.client import Client
from fhe_inhibitor.runtime.costs import predict_seconds
from fhe_inhibitor.runtime.manifest import CONCRETE_VERSION, Program
from fhe_inhibitor.runtime.parameters import (
    TABLE_HEAD,
    TABLE_NOTE,
    KeyParameters,
    key_parameters,
    table_rows,
)
from fhe_inhibitor.runtime.security import check, parse
from fhe_inhibitor.runtime.server import EvaluationKeys, Server
from fhe_inhibitor.runtime.specifications import Function, Keyset, Value
from fhe_inhibitor.system.pages import markdown_table


@dataclass(frozen=True)
class StageReport:
    """One stage for one sequence length.

    lookups: by bit width, as Concrete compiled them. formula: the same by `circuits.counts`.
    accumulator_bits: of its widest accumulator, as proved.
    """

    stage: str
    lookups: Mapping[int, int]
    formula: Mapping[int, int]
    accumulator_bits: int


@dataclass(frozen=True)
class LengthReport:
    """One sequence length.

    failure_probability: that at least one lookup of a sentence errs, were each at p_error.
    request_bytes, response_bytes: ciphertexts without headers. predicted_s: lookups by width
    times the measured time of one, None before `add_measurements`.
    """

    n: int
    stages: tuple[StageReport, ...]
    lookups: Mapping[int, int]
    failure_probability: float
    request_bytes: int
    response_bytes: int
    predicted_s: float | None = None

    @property
    def n_lookups(self) -> int:
        """Lookups of all widths."""
        return sum(self.lookups.values())


@dataclass(frozen=True)
class Report:
    """All sequence lengths of one module.

    p_error: that the noise of one lookup passes half a step. complexity: Concrete's estimate
    for one call of every function, in its own unit. bootstrap_keys_bytes,
    keyswitch_keys_bytes: unpacked. parameters: of the secret keys. lookup_units: complexity of one
    lookup by bit width. lookup_s: its seconds. noise: of rounding, by width, where it was measured.
    """

    model_hash: str
    p_error: float
    lengths: tuple[LengthReport, ...]
    n_functions: int
    complexity: float
    bootstrap_keys_bytes: int
    keyswitch_keys_bytes: int
    compile_s: float
    security_bits: int
    parameters: tuple[KeyParameters, ...]
    lookup_units: Mapping[int, float]
    evaluation_keys_bytes: int | None = None
    lookup_s: Mapping[int, float] | None = None
    noise: tuple[ModelNoise, ...] = ()
    concrete_version: str = CONCRETE_VERSION

    @property
    def widest_lookup(self) -> int:
        """Bits of the widest lookup."""
        return max(width for length in self.lengths for width in length.lookups)

    def to_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps({**asdict(self), "widest_lookup": self.widest_lookup}, indent=1)

    def to_markdown(self) -> str:
        """Return the report as Markdown: a summary, then tables of lengths, stages and keys."""
        tables = _lengths(self), _stages(self.lengths[-1]), _parameters(self)
        return "\n".join(
            [*_summary(self), *(line for table in tables for line in ("", *table)), ""]
        )


def describe(compiled: CompiledNetwork) -> Report:
    """Return what compiling alone tells.

    Raises InputError if a client would refuse the parameters that Concrete chose.
    """
    manifest = compiled.manifest
    specifications = parse(compiled.module.client.specs.serialize())
    check(specifications)
    circuits = {function.name: function for function in specifications.circuits}
    return Report(
        model_hash=manifest.model_hash,
        p_error=manifest.p_error,
        lengths=tuple(_length(compiled, n, circuits) for n in manifest.buckets),
        n_functions=len(compiled.module.graphs),
        complexity=compiled.module.complexity,
        bootstrap_keys_bytes=compiled.module.size_of_bootstrap_keys,
        keyswitch_keys_bytes=compiled.module.size_of_keyswitch_keys,
        compile_s=compiled.compile_s,
        security_bits=int(compiled.module.configuration.security_level),
        parameters=key_parameters(specifications),
        lookup_units=_lookup_units(compiled, specifications.keyset),
    )


def add_measurements(
    report: Report, client: Client, server: Server, evaluation_keys: EvaluationKeys
) -> Report:
    """Add the size of the evaluation keys as sent, and the times that this machine gives."""
    lookup_s = measure_lookups(client, server, evaluation_keys)
    return replace(
        report,
        evaluation_keys_bytes=len(client.evaluation_keys()),
        lookup_s=lookup_s,
        lengths=tuple(
            replace(length, predicted_s=predict_seconds(length.lookups, lookup_s))
            for length in report.lengths
        ),
    )


def add_noise(report: Report, noise: tuple[ModelNoise, ...]) -> Report:
    """Add what `measure_model_noise` measured."""
    return replace(report, noise=noise)


def failure_probability(p_error: float, n_lookups: int) -> float:
    """Return 1 - (1 - p)^N, the probability that at least one of N lookups errs.

    >>> round(failure_probability(2**-20, 3000), 4), round(failure_probability(2**-64, 9) * 2**64)
    (0.0029, 9)
    """
    return -math.expm1(n_lookups * math.log1p(-p_error))


def _lookup_units(compiled: CompiledNetwork, keyset: Keyset) -> dict[int, float]:
    """Return the complexity of a lookup of each width, from the functions that time it."""
    bootstraps = {(k.input_id, k.output_id): k for k in keyset.lwe_bootstrap_keys}
    keyswitches = {(k.input_id, k.output_id): k for k in keyset.lwe_keyswitch_keys}
    functions, units = compiled.module.functions(), {}
    for width, name in compiled.manifest.benchmarks.items():
        total = 0.0
        for used, count in functions[name].programmable_bootstrap_count_per_parameter.items():
            total += count * bootstrap_units(bootstraps[_ends(used)].params)
        for used, count in functions[name].key_switch_count_per_parameter.items():
            total += count * keyswitch_units(keyswitches[_ends(used)].params)
        units[width] = total / compiled.manifest.benchmark_size
    return units


def _ends(key: Any) -> tuple[int, int]:
    """Return the ids of the secret keys that one of Concrete's evaluation keys leads between."""
    return key.input_secret_key_id(), key.output_secret_key_id()


def _length(compiled: CompiledNetwork, n: int, circuits: dict[str, Function]) -> LengthReport:
    program = compiled.manifest.program(n)
    formula = count_lookups(compiled.network, n, compiled.manifest.blocks.get(n, ()))
    stages = tuple(
        StageReport(task.stage, task.lookups, dict(formula[task.stage]), proved.accumulator_bits)
        for task, proved in zip(program.tasks, compiled.ranges[n], strict=True)
    )
    return LengthReport(
        n,
        stages,
        program.lookups,
        failure_probability(compiled.manifest.p_error, sum(program.lookups.values())),
        *_message_bytes(program, circuits),
    )


def _message_bytes(program: Program, circuits: dict[str, Function]) -> tuple[int, int]:
    sent = [circuits[e.function].inputs[e.position] for e in program.encryptions]
    received = circuits[program.tasks[-1].function].outputs
    request, response = (sum(_ciphertext_bytes(part) for part in side) for side in (sent, received))
    return request, response


def _ciphertext_bytes(value: Value) -> int:
    return prod(value.raw_info.shape.dimensions) * BYTES_PER_WORD


def _summary(report: Report) -> list[str]:
    keys = "not made yet"
    if report.evaluation_keys_bytes is not None:
        keys = f"{report.evaluation_keys_bytes / 1e6:.1f} MB as sent"
    lines = [
        f"- model {report.model_hash[:16]}, Concrete {report.concrete_version}, "
        f"{report.security_bits} bit security",
        f"- {report.n_functions} functions, compiled in {report.compile_s:.1f} s; optimizer "
        f"complexity {report.complexity:.3e}",
        f"- widest lookup {report.widest_lookup} bits, p_error {report.p_error:.2e} a lookup",
        f"- evaluation keys {keys}; unpacked, {report.bootstrap_keys_bytes / 1e6:.0f} MB for "
        f"bootstraps and {report.keyswitch_keys_bytes / 1e6:.0f} MB for keyswitches",
    ]
    if report.lookup_s is not None:
        times = ", ".join(f"{b} bits {1000 * s:.1f} ms" for b, s in report.lookup_s.items())
        lines.append(f"- one lookup, all cores used: {times}")
    return lines + [f"- {describe_noise(noise)}" for noise in report.noise]


def describe_noise(noise: ModelNoise) -> str:
    """Return measured and trained noise in one line, with a warning where they differ.

    >>> describe_noise(ModelNoise(5, 10.9, 0.1, 0.11, 0.008))[50:]
    '0.110 steps (standard error 0.008), trained for 0.100'
    """
    trained = "unknown" if noise.trained_std is None else f"for {noise.trained_std:.3f}"
    text = (
        f"rounding noise of {noise.bit_width}-bit lookups behind norm {noise.weight_norm:.1f}: "
        f"{noise.std:.3f} steps (standard error {noise.std_error:.3f}), trained {trained}"
    )
    if noise.differs:
        text += ": more than a fifth apart, so accuracies with drawn noise don't hold; train for it"
    return text


def _lengths(report: Report) -> list[str]:
    rows = []
    for length in report.lengths:
        predicted = "-" if length.predicted_s is None else f"{length.predicted_s:.1f} s"
        rows.append(
            [
                length.n,
                length.n_lookups,
                _by_width(length.lookups),
                _percent(length.failure_probability),
                f"{length.request_bytes / 1e3:.1f} kB",
                f"{length.response_bytes / 1e3:.1f} kB",
                predicted,
            ]
        )
    head = "tokens", "lookups", "by width", "a lookup errs", "request", "response", "predicted"
    return markdown_table(head, rows)


def _stages(length: LengthReport) -> list[str]:
    rows = []
    for stage in length.stages:
        counted, formula = sum(stage.lookups.values()), sum(stage.formula.values())
        by_width = _by_width(stage.lookups)
        rows.append([stage.stage, counted, by_width, formula, stage.accumulator_bits])
    head = f"stage, {length.n} tokens", "lookups", "by width", "formula", "accumulator bits"
    return markdown_table(head, rows)


def _parameters(report: Report) -> list[str]:
    return [*markdown_table(TABLE_HEAD, table_rows(report.parameters)), "", TABLE_NOTE]


def _percent(probability: float) -> str:
    return f"{probability:.2%}" if probability >= 1e-4 else f"{probability:.1e}"


def _by_width(lookups: Mapping[int, int]) -> str:
    return ", ".join(f"{count} of {width} bits" for width, count in sorted(lookups.items()))
