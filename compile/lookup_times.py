"""Functions that measure the time of one lookup, with the same keys as the network's.

They are part of the module, one for each bit width that the network uses, so that a predicted
time (lookups by width times the time of one) can be compared with a run on the same machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import numpy as np
from concrete import fhe

from circuits.encrypted import encrypted_lookup
from circuits.lookups import Table
from compile.functions import DeclaredFunction
from compile.options import BENCHMARK_SIZE
from fhe_inhibitor.runtime.client import Client
from fhe_inhibitor.runtime.server import EvaluationKeys, Server, read_value

RUNS = 3


def benchmark_name(bit_width: int) -> str:
    """Return the name of the function that looks up values of this width."""
    return f"benchmark_{bit_width}_bits"


def trace_benchmark(bit_width: int, size: int = BENCHMARK_SIZE) -> DeclaredFunction:
    """Return a function of one lookup in each of `size` values of `bit_width` bits."""
    top = (1 << bit_width) - 1
    table = Table(np.arange(top, -1, -1, dtype=np.int64))
    lookup = encrypted_lookup()

    def function(x: object) -> object:
        with fhe.tag("benchmark"):
            return lookup(x, table)

    function.__name__ = benchmark_name(bit_width)
    declared = DeclaredFunction(function, {"x": "encrypted"})
    declared.inputset.extend(np.full(size, end) for end in (0, top))
    return declared


def measure_lookups(
    client: Client, server: Server, evaluation_keys: EvaluationKeys
) -> dict[int, float]:
    """Return the seconds of one lookup by bit width, as `time_lookups` does."""

    def call(bit_width: int) -> Callable[[], object]:
        function = server.manifest.benchmarks[bit_width]
        value = read_value("benchmark", client.encrypt_benchmark(bit_width))
        return lambda: server.call(function, [value], evaluation_keys)

    size = server.manifest.benchmark_size
    return {width: time_lookups(call(width), size) for width in server.manifest.benchmarks}


def time_lookups(call: Callable[[], object], size: int) -> float:
    """Return the seconds of one lookup: the median of `RUNS` calls, all cores used.

    call: runs a function of `size` lookups; its linear operations take little beside them, and so
    do not count.
    """
    call()  # unpacks the keys
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return median(seconds) / size
