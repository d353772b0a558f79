"""What a child process of the benchmark does: one circuit at one length, step by step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from circuits.lookups import noisy_lookup
from compile.benchmark.circuit import HeadCall, HeadCircuit
from compile.benchmark.results import Quality, measure_quality
from fhe_inhibitor.benchmark.heads import GaussianHead, make_head
from fhe_inhibitor.runtime.costs import predict_seconds

NOISE_STD = 0.1  # of encrypted rounding, in steps (`benchmark noise`)
MODEL_VALUES = 6400  # outputs that the integer model's quality is measured on, about
MIN_MODEL_HEADS, MAX_MODEL_HEADS = 20, 400
REPEAT_S = 5.0  # compiling and making keys are repeated until they took this long


@dataclass(frozen=True)
class Compiled:
    """What is known before keys exist; see `compile.benchmark.results.AttentionPoint`."""

    lookups: dict[int, int]
    formula: dict[int, int]
    complexity: float
    bootstrap_keys_bytes: int
    keyswitch_keys_bytes: int
    compile_s: list[float]
    model_quality: Quality


class HeadProcess:
    """A circuit, its keys, and its calls. measurable: whether it will time single lookups."""

    def __init__(
        self, circuit: str, n: int, head_dim: int, bits: int, p_error: float, measurable: bool
    ) -> None:
        self._gaussian = make_head(circuit, n, head_dim, bits)
        self._p_error, self._measurable = p_error, measurable

    def compile(self, repetitions: int) -> Compiled:
        """Compile the head alone, in turns that are timed, then beside what times its lookups."""

        def alone() -> float:
            start = time.perf_counter()
            self._circuit = HeadCircuit(self._gaussian, self._p_error, measurable=False)
            return time.perf_counter() - start

        seconds = repeat(alone, repetitions)
        module = self._circuit.module
        compiled = Compiled(
            dict(self._circuit.lookups),
            dict(self._gaussian.head.count_lookups()),
            module.complexity,
            module.size_of_bootstrap_keys,
            module.size_of_keyswitch_keys,
            seconds,
            model_quality(self._gaussian),
        )
        if self._measurable:
            self._circuit = HeadCircuit(self._gaussian, self._p_error)
        return compiled

    def generate_keys(self, repetitions: int) -> list[float]:
        """Make keys, in turns that are timed; the last ones stay."""
        return repeat(self._circuit.generate_keys, repetitions)

    def evaluation_keys_bytes(self) -> int:
        """Return the size of the evaluation keys as sent."""
        return self._circuit.evaluation_keys_bytes()

    def measure_lookups(self) -> tuple[dict[int, float], float]:
        """Return the seconds of one lookup by bit width, and of the head by these."""
        lookup_s = self._circuit.measure_lookups()
        return lookup_s, predict_seconds(self._circuit.lookups, lookup_s)

    def call(self, seed: int) -> HeadCall:
        """Encrypt, run, decrypt."""
        return self._circuit.call(seed)

    def simulate(self, seed: int) -> HeadCall:
        """Simulate."""
        return self._circuit.simulate(seed)


def repeat(work: Callable[[], float], repetitions: int) -> list[float]:
    """Return the seconds of work, repeated until it took `REPEAT_S`."""
    seconds = [work()]
    while len(seconds) < repetitions and sum(seconds) < REPEAT_S:
        seconds.append(work())
    return seconds


def model_quality(gaussian: GaussianHead) -> Quality:
    """Return the quality of the integer model with rounding noise drawn."""
    rng = np.random.default_rng(0)
    head = gaussian.head
    heads = MODEL_VALUES // (head.n * head.head_dim)
    qkv = gaussian.draw(rng, min(max(heads, MIN_MODEL_HEADS), MAX_MODEL_HEADS))
    lookup = noisy_lookup(rng, NOISE_STD)
    h = [head.evaluate(q, k, v, lookup) for q, k, v in zip(*gaussian.quantize(qkv), strict=True)]
    return measure_quality(np.stack(h) * gaussian.h_step, gaussian.float_head(qkv))
