"""Time one head of int16 attention in the clear as sequences grow: inhibitor against dot product.

Kernels take turns, in an order drawn anew for every repetition, so that a drifting machine
favours none. What comes back says beside the times why they are so: the time of each stage, and
the vector instructions of its inner loop.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numba import njit

from fhe_inhibitor.benchmark import energy, reference
from fhe_inhibitor.benchmark.assembly import Loop, busiest_loop
from fhe_inhibitor.benchmark.kernels import (
    DIM,
    KERNELS,
    LENGTH_STEP,
    MAX_LENGTH,
    OPERANDS,
    PADDING,
    QUERIES,
    Kernel,
)
from fhe_inhibitor.benchmark.tiles import FEATURES, LANES
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.files import Record
from fhe_inhibitor.system.machine import Machine, describe_machine
from fhe_inhibitor.system.processor import one_thread
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.system.statistics import Growth, Summary, compare, fit_growth, summarize

FORMAT_VERSION = 1
PACKAGES = ("numpy", "numba", "llvmlite", "torch")
DEFAULT_LENGTHS = (32, 64, 128, 256, 512, 1024)
TORCH = "torch_float32"
DEFAULT_KERNELS = (*KERNELS, TORCH)
RATIOS = tuple(
    (dot_product, inhibitor)
    for dot_product in ("dot_product", "dot_product_scalar")
    for inhibitor in ("inhibitor", "inhibitor_lean", "inhibitor_maximum")
)
STAGES = ("pack", "score", "weigh", "mix", "finish")
clock = time.thread_time  # of this thread alone: what else the machine runs doesn't count
REPETITION_S = 1e-3  # a repetition calls a kernel as often as takes this long
ENERGY_S = 2.0
# Without the first, a multiplication is not fused with its sum; without the second, AVX2 is left.
ABLATIONS = ("avx512vnni", "avx512f")
# x86 instructions that accumulate, by the type of the sums: fused with a product, or alone
SUMS = {np.int16: ("vpaddw",), np.int32: ("vpdpwssd", "vpaddd")}


class PlaintextOptions(Record):
    """What was asked for. seed: of q, k, v, and of the order in which kernels take turns."""

    lengths: list[int]
    kernels: list[str]
    repetitions: int
    seed: int
    dim: int = DIM
    operands: tuple[int, int] = OPERANDS
    threads: int = 1


class PlaintextPoint(Record):
    """One kernel at one length.

    seconds: processor time of one head. equals_reference: None for torch's kernel, in float.
    """

    kernel: str
    n: int
    seconds: Summary
    calls_per_repetition: int
    equals_reference: bool | None


class PlaintextRatio(Record):
    """Median time of `kernel` over that of `other`, in the same run."""

    kernel: str
    other: str
    n: int
    ratio: Summary


class KernelStage(Record):
    """One stage at the longest length. seconds: median, of all its calls for one head.

    loop: its inner loop, of the stages that are one. steps: vectors that this loop accumulates
    for one head.
    """

    kernel: str
    stage: str
    n: int
    seconds: float
    loop: Loop | None = None
    steps: int | None = None


class Energy(Record):
    """joules: of one head at the longest length by kernel, empty if unreadable says why."""

    unreadable: str
    joules: dict[str, float]


class PlaintextResults(Record):
    """The content of `plaintext.json`.

    call_s: of a compiled function that does nothing. without: the same at one length, compiled
    for a processor that lacks a feature.
    """

    format_version: int = FORMAT_VERSION
    machine: Machine
    parameters: PlaintextOptions
    int16_lanes: int
    vector_extensions: list[str]
    call_s: float
    points: list[PlaintextPoint]
    ratios: list[PlaintextRatio]
    growth: dict[str, Growth]
    stages: list[KernelStage]
    energy: Energy
    without: dict[str, PlaintextResults] = {}


def benchmark_plaintext(
    lengths: Sequence[int] = DEFAULT_LENGTHS,
    kernels: Sequence[str] = DEFAULT_KERNELS,
    repetitions: int = 101,
    seed: int = 0,
    observer: Observer | None = None,
) -> PlaintextResults:
    """Measure kernels by name at these lengths, one thread.

    Raises InputError for a length that is no multiple of 32 up to 1024, an unknown kernel, or no
    repetitions.
    """
    lengths, kernels = sorted(set(lengths)), list(dict.fromkeys(kernels))
    _check(lengths, kernels, repetitions)
    observer = observer or Observer()
    machine = describe_machine(PACKAGES)
    random = np.random.default_rng(seed)
    points, ratios = [], []
    with one_thread():
        for n in lengths:
            observer.begin(f"{n} tokens")
            head = draw_head(n, random)
            seconds, calls = _time_in_turn(_callables(kernels, head), repetitions, random)
            for name in kernels:
                points.append(_point(name, head, seconds[name], calls[name]))
            for kernel, other in RATIOS:
                if kernel in kernels and other in kernels:
                    ratio = compare(seconds[kernel], seconds[other])
                    ratios.append(PlaintextRatio(kernel=kernel, other=other, n=n, ratio=ratio))
        observer.begin("stages")
        stages = _measure_stages([KERNELS[name] for name in kernels if name != TORCH], head, random)
        used = _measure_energy(_callables(kernels, head))
    medians = {
        name: [point.seconds.median for point in points if point.kernel == name] for name in kernels
    }
    fits = {name: fit_growth(lengths, medians[name]) for name in kernels}
    return PlaintextResults(
        machine=machine,
        parameters=PlaintextOptions(
            lengths=lengths, kernels=kernels, repetitions=repetitions, seed=seed
        ),
        int16_lanes=LANES,
        vector_extensions=sorted(
            name for name in FEATURES if name.startswith(("avx", "sse4", "neon", "sve"))
        ),
        call_s=_call_seconds(head),
        points=points,
        ratios=ratios,
        growth={name: fit for name, fit in fits.items() if fit},
        stages=stages,
        energy=used,
    )


def add_ablations(results: PlaintextResults) -> PlaintextResults:
    """Add the kernels' times without each of `ABLATIONS` that this processor has.

    In processes of their own, since numba compiles for one processor.
    """
    asked = results.parameters
    script = (
        "import sys; from fhe_inhibitor.benchmark.run import *; "
        "n, repetitions, seed, *kernels = sys.argv[1:]; "
        "print(benchmark_plaintext([int(n)], kernels, int(repetitions), int(seed))"
        ".model_dump_json())"
    )
    numbers = (max(asked.lengths), asked.repetitions, asked.seed)
    kernels = [name for name in asked.kernels if name != TORCH]
    without = {}
    for feature in ABLATIONS:
        if feature in FEATURES and kernels:
            done = subprocess.run(
                [sys.executable, "-c", script, *map(str, numbers), *kernels],
                env=os.environ | {"NUMBA_CPU_FEATURES": f"-{feature}"},
                stdout=subprocess.PIPE,
                check=True,
            )
            without[feature] = PlaintextResults.model_validate_json(done.stdout)
    return results.model_copy(update={"without": without})


def draw_head(n: int, random: np.random.Generator) -> list[np.ndarray]:
    """Return q, k, v, int16 `[n, 64]`, uniform over the operands' range; times don't depend on
    values."""
    return list(random.integers(OPERANDS[0], OPERANDS[1] + 1, (3, n, DIM)).astype(np.int16))


def _check(lengths: Sequence[int], kernels: Sequence[str], repetitions: int) -> None:
    wrong = [n for n in lengths if not (0 < n <= MAX_LENGTH and n % LENGTH_STEP == 0)]
    if wrong or not lengths:
        raise InputError(
            f"length {wrong[0] if wrong else 'missing'}: pass multiples of {LENGTH_STEP}, from "
            f"{LENGTH_STEP} to {MAX_LENGTH}, where the accumulators can't overflow"
        )
    unknown = [name for name in kernels if name not in DEFAULT_KERNELS]
    if unknown or not kernels:
        raise InputError(
            f"unknown kernel {unknown[0] if unknown else 'missing'}: choose from "
            f"{', '.join(DEFAULT_KERNELS)}"
        )
    if repetitions < 1:
        raise InputError(f"{repetitions} repetitions: pass 1 or more")


def _callables(
    kernels: Sequence[str], head: Sequence[np.ndarray]
) -> dict[str, Callable[[], object]]:
    return {name: _attend(name, head) for name in kernels}


def _attend(name: str, head: Sequence[np.ndarray]) -> Callable[[], object]:
    """Return a call of one kernel on one head."""
    if name != TORCH:
        attend, (q, k, v) = KERNELS[name].attend, head
        return lambda: attend(q, k, v)
    tensors = [torch.from_numpy(x.astype(np.float32) / 256)[None, None] for x in head]

    def attend_float() -> object:
        with torch.inference_mode():
            return torch.nn.functional.scaled_dot_product_attention(*tensors)

    return attend_float


def _time_in_turn(
    runs: Mapping[str, Callable[[], object]], repetitions: int, random: np.random.Generator
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Return the seconds of one call, by repetition, and how many calls a repetition is of."""
    calls = {name: max(1, round(REPETITION_S / _warm_up(run))) for name, run in runs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repetitions):
        for name in random.permutation(list(runs)):
            run, n_calls = runs[name], calls[name]
            start = clock()
            for _ in range(n_calls):
                run()
            seconds[name].append((clock() - start) / n_calls)
    return seconds, calls


def _warm_up(run: Callable[[], object]) -> float:
    """Return the seconds of the fastest of five calls after the first, which compiles."""
    run()
    seconds = []
    for _ in range(5):
        start = clock()
        run()
        seconds.append(clock() - start)
    return max(min(seconds), 1e-9)


def _point(
    name: str, head: Sequence[np.ndarray], seconds: list[float], calls: int
) -> PlaintextPoint:
    equal = None
    if name != TORCH:
        mechanism = "inhibitor" if name.startswith("inhibitor") else "dot_product"
        expected = getattr(reference, mechanism)(*head)
        equal = bool(np.array_equal(KERNELS[name].attend(*head), expected))
    return PlaintextPoint(
        kernel=name,
        n=len(head[0]),
        seconds=summarize(seconds),
        calls_per_repetition=calls,
        equals_reference=equal,
    )


def _measure_stages(
    kernels: Sequence[Kernel], head: Sequence[np.ndarray], random: np.random.Generator
) -> list[KernelStage]:
    """Time the stages one by one, for one block of queries, and scale them to the head."""
    n = len(head[0])
    runs = {
        f"{kernel.name} {stage}": run
        for kernel in kernels
        for stage, run in _stage_calls(kernel, head).items()
    }
    seconds, _ = _time_in_turn(runs, 21, random) if runs else ({}, {})
    stages = []
    for kernel in kernels:
        for stage in STAGES:
            blocks = 1 if stage == "pack" else n // QUERIES
            loop = None
            if stage in ("score", "mix"):
                assembly = next(iter(getattr(kernel, stage).inspect_asm().values()))
                loop = busiest_loop(assembly, SUMS[kernel.score_type])
            stages.append(
                KernelStage(
                    kernel=kernel.name,
                    stage=stage,
                    n=n,
                    seconds=float(np.median(seconds[f"{kernel.name} {stage}"])) * blocks,
                    loop=loop,
                    steps=n * n * DIM // LANES if loop else None,
                )
            )
    return stages


def _stage_calls(kernel: Kernel, head: Sequence[np.ndarray]) -> dict[str, Callable[[], object]]:
    """Return a call of each stage on the first block of queries."""
    q, k, v = head
    n, queries = len(q), q[:QUERIES]
    keys, values, key_sums, value_sums = kernel.pack(k, v)
    scores = np.empty((QUERIES, n + PADDING), kernel.score_type)
    weights = np.empty((QUERIES, n), np.int16)
    row, out = np.empty(QUERIES, np.int64), np.zeros((QUERIES, DIM), np.int32)
    return {
        "pack": lambda: kernel.pack(k, v),
        "score": lambda: kernel.score(queries, keys, scores, n),
        "weigh": lambda: kernel.weigh(queries, key_sums, scores, weights, row),
        "mix": lambda: kernel.mix(weights, values, out),
        "finish": lambda: kernel.finish(out, row, value_sums),
    }


def _measure_energy(runs: Mapping[str, Callable[[], object]]) -> Energy:
    reason = energy.unreadable()
    if reason:
        return Energy(unreadable=reason, joules={})
    return Energy(unreadable="", joules={name: _joules(run) for name, run in runs.items()})


def _joules(run: Callable[[], object]) -> float:
    calls = max(1, round(ENERGY_S / _warm_up(run)))
    return energy.measure_joules(lambda: [run() for _ in range(calls)] and None) / calls


@njit
def _nothing(q: Any, k: Any, v: Any) -> Any:
    return q


def _call_seconds(head: Sequence[np.ndarray]) -> float:
    seconds, _ = _time_in_turn({"call": lambda: _nothing(*head)}, 21, np.random.default_rng(0))
    return float(np.median(seconds["call"]))
