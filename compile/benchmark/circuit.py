"""One attention head as circuits and keys of its own, with each phase of a call apart.

circuit = HeadCircuit(make_head("inhibitor_rounded", n=4, head_dim=2, bits=4))
circuit.generate_keys()
circuit.measure_lookups()      # seconds of one lookup by bit width, with these keys
circuit.call(seed=0)           # encrypt, run, decrypt; what came back, and whether it is right

A head that is split is a function for each size of a block of queries, for workers elsewhere
(`compile.benchmark.elsewhere`); what isn't has one function.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from circuits.blocks import Blocked, block_names, cut
from circuits.intervals import interval, interval_lookup
from circuits.lookups import Lookup, exact_lookup
from circuits.plan import Stage, Wire
from circuits.single_head import AttentionHead
from compile.benchmark.results import Workers
from compile.functions import DeclaredFunction, StageCall, trace_stage
from compile.lookup_counts import check_lookups, compiled_lookups
from compile.lookup_times import benchmark_name, time_lookups, trace_benchmark
from compile.module import DEFAULT_P_ERROR, compile_functions
from compile.single_function import CompiledFunction
from compile.verifier import verify_stage
from fhe_inhibitor.benchmark.heads import GaussianHead

FUNCTION = "head"


@dataclass(frozen=True)
class HeadCall:
    """One encrypted, or simulated, call.

    equal: of the values that came back, which share is that of exact rounding. inside: whether
    all lie within the bounds of interval arithmetic for these inputs. h, expected: what came
    back, dequantized, and the float head's, both `[n * head_dim]`. calls_s: on the workers of a
    cluster, seconds of all tasks' calls added up; None in this process. workers: those workers.
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
    calls_s: float | None = None
    workers: tuple[Workers, ...] = ()


class HeadCircuit(CompiledFunction):
    """A compiled head; compiling proves its ranges and checks its counts.

    timed: by bit width, how many lookups are timed at once. calls, wires: of its blocks.

    measurable: compile functions that time single lookups as well. split: into how many blocks of
    queries the head is cut, more than its queries being one each; only a whole one can be called
    here. Raises VerificationError if a value could leave its bits or the counts differ from the
    formula, and InputError if no parameters reach p_error.
    """

    def __init__(
        self,
        gaussian: GaussianHead,
        p_error: float = DEFAULT_P_ERROR,
        measurable: bool = True,
        split: int = 1,
    ) -> None:
        self.gaussian, self.p_error = gaussian, p_error
        self.calls, self.wires = head_calls(gaussian.head, split)
        widths = sorted(gaussian.head.count_lookups()) if measurable else []
        self.timed = {width: benchmark_size(width) for width in widths}
        benchmarks = [trace_benchmark(width, size) for width, size in self.timed.items()]
        functions = {call.function.name: call.function for call in self.calls}
        traced = [*functions.values(), *benchmarks]
        super().__init__(compile_functions(traced, [], p_error), FUNCTION)
        counted = compiled_lookups(self.module)
        self.function_lookups = {name: counted[name] for name in functions}
        self.lookups, self.formula = Counter[int](), Counter[int]()
        for call, block in zip(self.calls, head_blocks(gaussian.head, split), strict=True):
            name, formula = call.function.name, block.count_lookups()
            check_lookups(self.module, name, counted[name], formula)
            self.lookups += counted[name]
            self.formula += formula

    @property
    def complexity(self) -> float:
        """The optimizer's, of the head alone if no benchmarks were compiled.

        Blocks of one size share a function, which the optimizer counts once. Each lookup counts
        alike here, which is exact where all blocks have one size.
        """
        once = sum(lookups.total() for lookups in self.function_lookups.values())
        return float(self.module.complexity) * self.lookups.total() / once

    def measure_lookups(self) -> dict[int, float]:
        """Return the seconds of one lookup by bit width: medians, all cores used."""

        def call(name: str, size: int) -> Callable[[], object]:
            value = self.module.client.encrypt(np.zeros(size, np.int64), function_name=name)
            return lambda: self.run(name, (value,))

        return {
            width: time_lookups(call(benchmark_name(width), size), size)
            for width, size in self.timed.items()
        }

    def call(self, seed: int) -> HeadCall:
        """Encrypt q, k, v drawn with this seed, run the head, decrypt."""
        qkv, integers = self.draw(seed)
        called = self.call_encrypted(*integers)
        seconds = called.encrypt_s, called.run_s, called.decrypt_s
        sizes = called.request_bytes, called.response_bytes
        return self.judge(seconds, sizes, qkv, integers, called.output)

    def simulate(self, seed: int) -> HeadCall:
        """Do the same with Concrete's simulation: its noise and rounding, nothing encrypted."""
        qkv, integers = self.draw(seed)
        start = time.perf_counter()
        h = self.module.functions()[FUNCTION].simulate(*integers)
        return self.judge((0.0, time.perf_counter() - start, 0.0), (0, 0), qkv, integers, h)

    def draw(self, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return float q, k, v of a seed, `[3, 1, n, head_dim]`, and their integers."""
        qkv = self.gaussian.draw(np.random.default_rng(seed))
        return qkv, [x[0] for x in self.gaussian.quantize(qkv)]

    def judge(
        self,
        seconds: tuple[float, float, float],
        sizes: tuple[int, int],
        qkv: np.ndarray,
        integers: list[np.ndarray],
        h: Any,
        **more: Any,
    ) -> HeadCall:
        """Return what came of a call; more: of HeadCall's fields, if any."""
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
            **more,
        )


def benchmark_size(bit_width: int) -> int:
    """Return how many lookups to time at once: few of the slow ones.

    >>> benchmark_size(5), benchmark_size(8)
    (128, 4)
    """
    return max(4, 128 >> 2 * max(0, bit_width - 5))


def head_blocks(head: AttentionHead, split: int) -> list[AttentionHead]:
    """Return a head's blocks of queries, the longer ones first; itself if it isn't cut."""
    return [head.block(len(rows)) for rows in cut(head.n, split)]


def head_calls(head: AttentionHead, split: int) -> tuple[list[StageCall], dict[str, Wire]]:
    """Return the calls of a head's blocks, and the shapes and ranges of what they read.

    Blocks of one size share a function. Raises VerificationError as `verify_stage` does, also for a
    lookup that is wider than the head's formula says.
    """
    q = Blocked("q", cut(head.n, split))
    wires = {
        name: Wire((len(rows), head.head_dim), *head.qk_range, q.rows_of(name))
        for name, rows in zip(q.names, q.blocks, strict=True)
    }
    for name, ends in (("k", head.qk_range), ("v", head.v_range)):
        wires[name] = Wire((head.n, head.head_dim), *ends)
    functions: dict[int, DeclaredFunction] = {}
    calls = []
    stages, outputs = (block_names(what, len(q.blocks)) for what in (FUNCTION, "h"))
    blocks = head_blocks(head, split)
    for stage_name, query, output, block in zip(stages, q.names, outputs, blocks, strict=True):
        stage = Stage(stage_name, (query, "k", "v"), (output,), _evaluate(block))
        size = block.n_queries
        if size not in functions:
            name = FUNCTION if size == head.n else f"{FUNCTION}_{size}_queries"
            proved = verify_stage(stage, wires, max(block.count_lookups()))
            functions[size] = trace_stage(name, stage, proved, wires, exact_rounding=False)
        calls.append(StageCall(stage, functions[size]))
    return calls, wires


def _evaluate(head: AttentionHead) -> Callable[[Sequence[Any], Lookup], tuple[Any, ...]]:
    def evaluate(values: Sequence[Any], lookup: Lookup) -> tuple[Any, ...]:
        q, k, v = values
        return (head.evaluate(q, k, v, lookup),)

    return evaluate
