"""The formulas of operations count what plain loops do, one number after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import pytest

from fhe_inhibitor.benchmark import reference
from fhe_inhibitor.benchmark.kernels import (
    DIM,
    EXPONENTIALS,
    INHIBITION_BITS,
    KERNELS,
    LARGEST_Z,
    LONGEST,
    RECIPROCAL_BITS,
    SCORE_BITS,
    SHIFT,
)
from fhe_inhibitor.benchmark.operations import COUNTS, count_operations

N = 3
Row = Sequence[int]


class Processor:
    """Does arithmetic, and counts it."""

    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()

    def add(self, a: int, b: int) -> int:
        self.counted["additions"] += 1
        return a + b

    def subtract(self, a: int, b: int) -> int:
        self.counted["additions"] += 1
        return a - b

    def multiply(self, a: int, b: int) -> int:
        self.counted["multiplications"] += 1
        return a * b

    def divide(self, a: int, b: int) -> int:
        self.counted["divisions"] += 1
        return a // b

    def choose(self, function: Callable[..., int], *values: int) -> int:
        self.counted["choices"] += 1
        return function(*values)

    def shift(self, a: int, bits: int) -> int:
        self.counted["shifts"] += 1
        return a << -bits if bits < 0 else a >> bits

    def sum(self, values: Sequence[int]) -> int:
        total = 0
        for value in values:
            total = self.add(total, value)
        return total


def inhibition(p: Processor, distance: int) -> int:
    z = p.subtract(p.shift(distance, int(INHIBITION_BITS)), int(SHIFT))
    return p.choose(min, p.choose(max, z, 0), int(LARGEST_Z))


def distance(p: Processor, q: Row, k: Row) -> int:
    return p.sum([p.choose(abs, p.subtract(a, b)) for a, b in zip(q, k, strict=True)])


def inhibitor(p: Processor, q: list[Row], k: list[Row], v: list[Row]) -> list[list[int]]:
    rows = []
    for query in q:
        z = [inhibition(p, distance(p, query, key)) for key in k]
        rows.append([p.sum(kept(p, v, z, c)) for c in range(DIM)])
    return rows


def kept(p: Processor, v: list[Row], z: Row, c: int) -> list[int]:
    return [p.choose(max, p.subtract(value[c], own), 0) for value, own in zip(v, z, strict=True)]


def inhibitor_lean(p: Processor, q: list[Row], k: list[Row], v: list[Row]) -> list[list[int]]:
    values, rows = [p.sum([value[c] for value in v]) for c in range(DIM)], []
    for query in q:
        z = [inhibition(p, distance(p, query, key)) for key in k]
        of_z, row = p.sum(z), []
        for c in range(DIM):
            far = [
                p.choose(abs, p.subtract(value[c], own)) for value, own in zip(v, z, strict=True)
            ]
            row.append(p.shift(p.subtract(p.add(p.sum(far), values[c]), of_z), 1))
        rows.append(row)
    return rows


def inhibitor_maximum(p: Processor, q: list[Row], k: list[Row], v: list[Row]) -> list[list[int]]:
    keys, rows = [p.sum(key) for key in k], []
    for query in q:
        own, z = p.sum(query), []
        for key, of_key in zip(k, keys, strict=True):
            largest = p.sum([p.choose(max, a, b) for a, b in zip(query, key, strict=True)])
            z.append(inhibition(p, p.subtract(p.shift(largest, -1), p.add(own, of_key))))
        of_z = p.sum(z)
        maxima = [
            [p.choose(max, value[c], one) for value, one in zip(v, z, strict=True)]
            for c in range(DIM)
        ]
        rows.append([p.subtract(p.sum(column), of_z) for column in maxima])
    return rows


def dot_product(p: Processor, q: list[Row], k: list[Row], v: list[Row]) -> list[list[int]]:
    rows = []
    for query in q:
        scores = [p.sum([p.multiply(a, b) for a, b in zip(query, key, strict=True)]) for key in k]
        top = scores[0]
        for score in scores:
            top = p.choose(max, top, score)
        e = []
        for score in scores:
            behind = p.shift(p.subtract(top, score), int(SCORE_BITS))
            steps = p.choose(min, behind, int(LONGEST))
            p.counted["lookups"] += 1
            p.counted["shifts"] += 1  # the mask of the table's index
            e.append(p.shift(int(EXPONENTIALS[steps & 31]), p.shift(steps, 5)))
        reciprocal, row = p.divide(1 << RECIPROCAL_BITS, p.sum(e)), []
        for c in range(DIM):
            mixed = p.sum([p.multiply(own, value[c]) for own, value in zip(e, v, strict=True)])
            scaled = p.add(p.multiply(mixed, reciprocal), 1 << (RECIPROCAL_BITS - 1))
            row.append(p.shift(scaled, RECIPROCAL_BITS))
        rows.append(row)
    return rows


LOOPS = {
    "inhibitor": inhibitor,
    "inhibitor_lean": inhibitor_lean,
    "inhibitor_maximum": inhibitor_maximum,
    "dot_product": dot_product,
    "dot_product_scalar": dot_product,
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_formula_counts_what_a_loop_does(kernel: str) -> None:
    drawn = np.random.default_rng(0).integers(-256, 256, (3, N, DIM))
    processor = Processor()
    rows = LOOPS[kernel](processor, *drawn.tolist())
    expected = reference.inhibitor if kernel.startswith("inhibitor") else reference.dot_product
    assert np.array_equal(rows, expected(*drawn))
    counted = asdict(count_operations(kernel, N))
    sizes = {name: counted.pop(name) for name in ("operand_bytes", "cache_bytes")}
    assert {name: count for name, count in counted.items() if count} == processor.counted
    assert sizes["operand_bytes"] == N * DIM * (3 * 2 + 4)


def test_every_kernel_is_counted_and_only_dot_products_multiply() -> None:
    assert set(COUNTS) == set(KERNELS)
    for kernel in KERNELS:
        found = count_operations(kernel, 64)
        assert (found.multiplications > 0) == kernel.startswith("dot_product")
        pairs = 2 * (6 if kernel.startswith("dot_product") else 4)
        assert found.cache_bytes == 64 * 64 * (pairs + 2 * 2 * DIM // 16)
