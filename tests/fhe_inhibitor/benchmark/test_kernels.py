"""Every kernel equals the NumPy reference exactly, up to the corners of its stated ranges."""

from __future__ import annotations

import numpy as np
import pytest

from fhe_inhibitor.benchmark import reference
from fhe_inhibitor.benchmark.kernels import DIM, KERNELS, OPERANDS

LOW, HIGH = OPERANDS


def random_head(n: int, low: int = LOW, high: int = HIGH) -> list[np.ndarray]:
    drawn = np.random.default_rng(n).integers(low, high + 1, (3, n, DIM))
    return list(drawn.astype(np.int16))


def constant_head(n: int, q: int, k: int, v: int) -> list[np.ndarray]:
    return [np.full((n, DIM), value, np.int16) for value in (q, k, v)]


def alternating_head(n: int) -> list[np.ndarray]:
    """Distances and scores of 0 and the extremes, side by side."""
    signs = np.where(np.arange(n)[:, None] % 2, LOW, HIGH) * np.ones((1, DIM))
    return [signs.astype(np.int16), signs[::-1].astype(np.int16), signs.astype(np.int16)]


HEADS = {
    "random": random_head(32),
    "random, an odd number of vectors": random_head(96),
    "longest": random_head(1024),
    "small operands": random_head(64, -8, 7),
    "zero": constant_head(64, 0, 0, 0),
    "equal, largest": constant_head(1024, HIGH, HIGH, HIGH),
    "equal, smallest": constant_head(1024, LOW, LOW, LOW),
    "largest distance": constant_head(1024, HIGH, LOW, LOW),
    "largest distance, other sign": constant_head(1024, LOW, HIGH, HIGH),
    "alternating": alternating_head(128),
}


def reference_of(kernel: str):
    return reference.inhibitor if kernel.startswith("inhibitor") else reference.dot_product


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_equals_reference(kernel: str, head: str) -> None:
    expected = reference_of(kernel)(*HEADS[head])
    np.testing.assert_array_equal(KERNELS[kernel].attend(*HEADS[head]), expected)


def test_references_are_attention() -> None:
    """Random heads attend to something: neither mechanism is tested on zeros alone."""
    q, k, v = HEADS["longest"]
    assert (reference.inhibitor(q, k, v) > 0).mean() > 0.9
    scores = q.astype(float) @ k.T.astype(float)
    weights = 2.0 ** ((scores - scores.max(axis=1, keepdims=True)) / (32 * 4096))
    expected = weights @ v / weights.sum(axis=1, keepdims=True)
    assert np.abs(reference.dot_product(q, k, v) - expected).max() < 2
