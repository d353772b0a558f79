"""What the plaintext kernels compute, written in NumPy with int64: the oracle of their results."""

from __future__ import annotations

import numpy as np

from fhe_inhibitor.benchmark.kernels import (
    EXPONENTIALS,
    INHIBITION_BITS,
    LARGEST_Z,
    LONGEST,
    RECIPROCAL_BITS,
    SCORE_BITS,
    SHIFT,
)


def inhibitor(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return H_il = sum_j (v_jl - Z_ij)^+ of int16 `[n, d]`, as int64 `[n, d]`.

    >>> inhibitor(*np.array([[[100]], [[100]], [[7]]])).item()
    7
    """
    q, k, v = (x.astype(np.int64) for x in (q, k, v))
    rows = []
    for query in q:
        distance = np.abs(query - k).sum(axis=1)  # [n]
        z = np.clip((distance >> INHIBITION_BITS) - SHIFT, 0, LARGEST_Z)
        rows.append(np.maximum(v - z[:, None], 0).sum(axis=0))
    return np.array(rows)


def dot_product(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return integer softmax attention of int16 `[n, d]`, as int64 `[n, d]`.

    >>> dot_product(*np.array([[[100]], [[100]], [[7]]])).item()
    7
    """
    q, k, v = (x.astype(np.int64) for x in (q, k, v))
    scores = q @ k.T  # [n, n]
    steps = np.minimum((scores.max(axis=1, keepdims=True) - scores) >> SCORE_BITS, LONGEST)
    e = EXPONENTIALS.astype(np.int64)[steps & 31] >> (steps >> 5)
    reciprocal = (1 << RECIPROCAL_BITS) // e.sum(axis=1, keepdims=True)
    return ((e @ v) * reciprocal + (1 << (RECIPROCAL_BITS - 1))) >> RECIPROCAL_BITS
