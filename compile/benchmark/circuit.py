"""One attention head as circuits and keys of its own, with each phase of a call apart.

circuit = HeadCircuit(make_head("inhibitor_rounded", n=4, head_dim=2, bits=4))
circuit.generate_keys()
circuit.measure_lookups()      # seconds of one lookup by bit width, with these keys
circuit.call(seed=0)           # encrypt, run, decrypt; what came back, and whether it is right
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from circuits.encrypted import declare, encrypted_lookup
from circuits.intervals import interval, interval_lookup
from circuits.lookups import exact_lookup
from circuits.single_head import AttentionHead
from compile.functions import DeclaredFunction
from compile.lookup_counts import check_lookups, compiled_lookups
from compile.lookup_times import benchmark_name, time_lookups, trace_benchmark
from compile.module import DEFAULT_P_ERROR, compile_functions
from compile.single_function import CompiledFunction
from compile.verifier import VerificationError
from fhe_inhibitor.benchmark.heads import GaussianHead

FUNCTION = "head"
N_SAMPLES = 8


@dataclass(frozen=True)
class HeadCall:
    """One encrypted, or simulated, call.

    equal: of the values that came back, which share is that of exact rounding. inside: whether
    all lie within the bounds of interval arithmetic for these inputs. h, expected: what came
    back, dequantized, and the float head's, both `[n * head_dim]`.
    """

    encrypt_s: float
    run_s: float
    decrypt_s: float
    request_bytes: int
    response_bytes: int
    equal: float
    inside: bool
    h: list[float]
    expected: list[float]


class HeadCircuit(CompiledFunction):
    """A compiled head; compiling proves its ranges and checks its counts.

    measurable: compile functions that time single lookups as well. Raises VerificationError if
    a value could leave its bits or the counts differ from the formula, and InputError if no
    parameters reach p_error.
    """

    def __init__(
        self,
        gaussian: GaussianHead,
        p_error: float = DEFAULT_P_ERROR,
        measurable: bool = True,
    ) -> None:
        self.gaussian = gaussian
        self.widths = sorted(gaussian.head.count_lookups()) if measurable else []
        benchmarks = [trace_benchmark(width, benchmark_size(width)) for width in self.widths]
        traced = [trace_head(gaussian.head), *benchmarks]
        super().__init__(compile_functions(traced, [], p_error), FUNCTION)
        self.lookups = compiled_lookups(self.module)[FUNCTION]
        check_lookups(self.module, FUNCTION, self.lookups, gaussian.head.count_lookups())

    def measure_lookups(self) -> dict[int, float]:
        """Return the seconds of one lookup by bit width: medians, all cores used."""

        def call(name: str, size: int) -> Callable[[], object]:
            value = self.module.client.encrypt(np.zeros(size, np.int64), function_name=name)
            return lambda: self.run(name, (value,))

        sizes = {width: benchmark_size(width) for width in self.widths}
        return {
            width: time_lookups(call(benchmark_name(width), size), size)
            for width, size in sizes.items()
        }

    def call(self, seed: int) -> HeadCall:
        """Encrypt q, k, v drawn with this seed, run the head, decrypt."""
        qkv, integers = self._draw(seed)
        called = self.call_encrypted(*integers)
        seconds = called.encrypt_s, called.run_s, called.decrypt_s
        sizes = called.request_bytes, called.response_bytes
        return self._judge(seconds, sizes, qkv, integers, called.output)

    def simulate(self, seed: int) -> HeadCall:
        """Do the same with Concrete's simulation: its noise and rounding, nothing encrypted."""
        qkv, integers = self._draw(seed)
        start = time.perf_counter()
        h = self.module.functions()[FUNCTION].simulate(*integers)
        return self._judge((0.0, time.perf_counter() - start, 0.0), (0, 0), qkv, integers, h)

    def _draw(self, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
        qkv = self.gaussian.draw(np.random.default_rng(seed))
        return qkv, [x[0] for x in self.gaussian.quantize(qkv)]

    def _judge(
        self,
        seconds: tuple[float, float, float],
        sizes: tuple[int, int],
        qkv: np.ndarray,
        integers: list[np.ndarray],
        h: Any,
    ) -> HeadCall:
        head = self.gaussian.head
        q, k, v = integers
        bounds = head.evaluate(interval(q), interval(k), interval(v), interval_lookup)
        h = np.asarray(h)
        return HeadCall(
            *seconds,
            *sizes,
            equal=float(np.mean(h == head.evaluate(q, k, v, exact_lookup))),
            inside=bool(((bounds.low <= h) & (h <= bounds.high)).all()),
            h=(h * self.gaussian.h_step).ravel().tolist(),
            expected=self.gaussian.float_head(qkv).ravel().tolist(),
        )


def benchmark_size(bit_width: int) -> int:
    """Return how many lookups to time at once: few of the slow ones.

    >>> benchmark_size(5), benchmark_size(8)
    (128, 4)
    """
    return max(4, 128 >> 2 * max(0, bit_width - 5))


def trace_head(head: AttentionHead) -> DeclaredFunction:
    """Return the function that Concrete compiles, its ranges proved.

    Raises VerificationError if an accumulator can leave its table.
    """
    shape = (head.n, head.head_dim)
    ranges = (head.qk_range, head.qk_range, head.v_range)
    try:
        proved = head.prove()
    except OverflowError as error:
        raise VerificationError(
            f"{head.circuit}: {error}: take fewer bits, tokens or channels, or longer tables"
        ) from error
    lookup = encrypted_lookup()

    def function(q: Any, k: Any, v: Any) -> Any:
        h = head.evaluate(q, k, v, lookup)
        declare(h, (int(proved.low.min()), int(proved.high.max())))
        return h

    function.__name__ = FUNCTION
    declared = DeclaredFunction(function, dict.fromkeys("qkv", "encrypted"))
    rng = np.random.default_rng(0)
    declared.inputset.extend(tuple(np.full(shape, r[end]) for r in ranges) for end in (0, 1))
    for _ in range(N_SAMPLES):
        declared.inputset.append(tuple(rng.choice(r, shape) for r in ranges))
    return declared
