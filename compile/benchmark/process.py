"""What a child process of the benchmark does: one circuit at one length, step by step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING

import numpy as np

from circuits.lookups import noisy_lookup
from compile.benchmark.circuit import HeadCall, HeadCircuit
from compile.benchmark.results import Quality, measure_quality
from fhe_inhibitor.benchmark.heads import GaussianHead, make_head
from fhe_inhibitor.cluster.options import Cluster
from fhe_inhibitor.runtime.costs import predict_seconds
from fhe_inhibitor.system.child import ends_on_request
from fhe_inhibitor.system.progress import Observer

if TYPE_CHECKING:  # it loads Dask
    from compile.benchmark.elsewhere import HeadElsewhere

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
    """A circuit, its keys, and its calls, here or on a cluster that was joined.

    measurable: whether it will time single lookups. split: as of `HeadCircuit`.
    """

    def __init__(
        self,
        circuit: str,
        n: int,
        head_dim: int,
        bits: int,
        p_error: float,
        measurable: bool,
        split: int = 1,
    ) -> None:
        self._gaussian = make_head(circuit, n, head_dim, bits)
        self._p_error, self._measurable, self._split = p_error, measurable, split
        self._elsewhere: HeadElsewhere | None = None

    def compile(self, repetitions: int) -> Compiled:
        """Compile the head alone, in turns that are timed, then beside what times its lookups."""

        def alone() -> float:
            start = time.perf_counter()
            self._circuit = self._compile(measurable=False)
            return time.perf_counter() - start

        seconds = repeat(alone, repetitions)
        module = self._circuit.module
        compiled = Compiled(
            dict(self._circuit.lookups),
            dict(self._circuit.formula),
            self._circuit.complexity,
            module.size_of_bootstrap_keys,
            module.size_of_keyswitch_keys,
            seconds,
            model_quality(self._gaussian),
        )
        if self._measurable:
            self._circuit = self._compile(measurable=True)
        return compiled

    def _compile(self, measurable: bool) -> HeadCircuit:
        return HeadCircuit(self._gaussian, self._p_error, measurable, self._split)

    def generate_keys(self, repetitions: int) -> list[float]:
        """Make keys, in turns that are timed; the last ones stay."""
        return repeat(self._circuit.generate_keys, repetitions)

    def evaluation_keys_bytes(self) -> int:
        """Return the size of the evaluation keys as sent."""
        return self._circuit.evaluation_keys_bytes()

    def join(self, observer: Observer, cluster: Cluster) -> None:
        """Have the workers of a cluster run what is called from now on.

        They get circuits and evaluation keys. `Child.stop` takes back what they were told. Raises
        InputError and ClusterError as `ClusterExecutor` does.
        """
        from compile.benchmark.elsewhere import HeadElsewhere

        ends_on_request()
        self._elsewhere = HeadElsewhere(self._circuit, cluster, observer)
        Finalize(None, self._elsewhere.close, exitpriority=0)

    def measure_lookups(self, observer: Observer) -> tuple[dict[int, float], float]:
        """Return the seconds of one lookup by bit width, and of the head by these.

        The head has been called once then, untimed: the first call unpacks its keys.
        """
        if self._elsewhere is None:
            self._circuit.call(seed=0)
            lookup_s = self._circuit.measure_lookups()
        else:
            lookup_s = self._elsewhere.measure_lookups(observer)
        return lookup_s, predict_seconds(self._circuit.lookups, lookup_s)

    def call(self, observer: Observer, seed: int) -> HeadCall:
        """Encrypt, run, decrypt."""
        if self._elsewhere is None:
            return self._circuit.call(seed)
        return self._elsewhere.call(observer, seed)

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
