"""Functions that measure the time of one lookup, with the same keys as the network's.

They are part of the module, one for each bit width that the network uses, so that a predicted
time (lookups by width times the time of one) can be compared with a run on the same machine.
"""

from __future__ import annotations

import time

import numpy as np
from concrete import fhe

from circuits.encrypted import encrypted_lookup
from circuits.lookups import Table
from compile.functions import DeclaredFunction
from fhe_inhibitor.runtime.client import Client
from fhe_inhibitor.runtime.server import EvaluationKeys, Server, read_value

BENCHMARK_SIZE = 128
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
    """Return the seconds of one lookup by bit width: the median of `RUNS` runs, all cores used.

    Linear operations take little beside a lookup, and so do not count.
    """
    times = {}
    for bit_width, function in server.manifest.benchmarks.items():
        value = read_value("benchmark", client.encrypt_benchmark(bit_width))
        server.call(function, [value], evaluation_keys)  # unpacks the keys
        seconds = []
        for _ in range(RUNS):
            start = time.perf_counter()
            server.call(function, [value], evaluation_keys)
            seconds.append(time.perf_counter() - start)
        times[bit_width] = sorted(seconds)[RUNS // 2] / server.manifest.benchmark_size
    return times
