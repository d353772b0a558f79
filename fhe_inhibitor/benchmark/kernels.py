"""Compiled int16 attention in the clear: three forms of the inhibitor, two of the dot product.

All take q, k, v, int16 `[n, 64]` in [-256, 255], and return int32 `[n, 64]`. n is a multiple of
32 up to 1024. For query i, key j, key channel k, value channel l:

    inhibitor            Z_ij = clip((sum_k |q_ik - k_jk| >> 6) - 16, 0, 255)
                         H_il = sum_j (v_jl - Z_ij)^+
    inhibitor_lean       the same H = 1/2 (sum_j v - sum_j Z + sum_j |v - Z|)
    inhibitor_maximum    the same from maxima: |a - b| = 2 max(a, b) - a - b and
                         (v - Z)^+ = max(v, Z) - Z; the sums that are subtracted need no pairs
    dot_product          S_ij = sum_k q_ik k_jk,  t_ij = min((max_j S_ij - S_ij) >> 12, 511)
                         E_ij = table[t_ij % 32] >> (t_ij // 32),  about 4095 * 2^(-t / 32)
                         H_il = round( (sum_j E_ij v_jl) / sum_j E_ij )
    dot_product_scalar   the same, its table read one entry at a time, as NumPy or C would

Shifts by 6 and 12 stand for 1 / sqrt(64) and the scales of the operands, 16 for the paper's
shift, 255 is the largest v: a larger Z contributes as little (Brännvall 2023, eq. 7-8). The dot
product is normalised once per row and channel by a reciprocal of 40 bits, as flash attention
does, with no division per pair.

Nothing overflows: a Manhattan distance is at most 64 * 511 = 32,704, a sum of maxima lies in
[-16,384, 16,320], and a block of 64 keys adds at most 64 * |v - Z| <= 64 * 511 to an int16 lane
before it goes to int32, where H is at most 1024 * 511. |S| <= 64 * 2^16 = 2^22, the sum of E v
is at most 1024 * 4095 * 256 < 2^30, times the reciprocal, below 2^29, it is below 2^59 in int64.

Every kernel runs the same loop nest, `_kernel`, over blocks of 16 queries and 64 keys, with the
register tile of `tiles`; what differs is the step inside the tile and the work per pair
between the two products, `weigh`. They are compiled in every process: numba's cache (`cache=True`)
would hide the assembly that `assembly` reads, and would not notice a change of `tiles`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from fhe_inhibitor.benchmark import tiles
from fhe_inhibitor.benchmark.tiles import LANES, ROWS, VECTORS, make_tile

DIM = 64
OPERANDS = (-256, 255)
MAX_LENGTH = 1024
LENGTH_STEP = 32
QUERIES, KEYS = 16, 64  # a block, chosen so that what it reads stays in a cache of 32 KiB
PADDING = 32  # of rows that lie below each other, which at powers of two would share cache sets
INHIBITION_BITS, SHIFT, LARGEST_Z = np.int16(6), np.int16(16), np.int16(OPERANDS[1])
SCORE_BITS, LONGEST = np.int32(12), np.int32(16 * tiles.TABLE_ENTRIES - 1)
EXPONENTIALS = np.round(4095 * 2.0 ** (-np.arange(tiles.TABLE_ENTRIES) / 32)).astype(np.int16)
RECIPROCAL_BITS = 40


@dataclass(frozen=True)
class Kernel:
    """One form of attention: `attend(q, k, v)` and the stages that it calls, all compiled.

    pack(k, v): keys, values as the tiles read them, and their sums where the form needs them.
    score(q, keys, scores, n): of a block of queries. weigh(q, key_sums, scores, weights, row):
    Z or E, and their sum by row. mix(weights, values, out). finish(out, row, value_sums).
    """

    name: str
    score_type: Any
    pack: Any
    score: Any
    weigh: Any
    mix: Any
    finish: Any
    attend: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def _kernel(
    name: str, score_type: Any, pack: Any, score: Any, weigh: Any, mix: Any, finish: Any
) -> Kernel:
    """Return the one loop nest of all kernels, around these stages."""

    @njit
    def attend(q: Any, k: Any, v: Any) -> Any:
        n = len(q)
        keys, values, key_sums, value_sums = pack(k, v)
        scores = np.empty((QUERIES, n + PADDING), score_type)
        weights = np.empty((QUERIES, n), np.int16)
        row = np.empty(QUERIES, np.int64)
        out = np.zeros((n, DIM), np.int32)
        for i in range(0, n, QUERIES):
            queries, block = q[i : i + QUERIES], out[i : i + QUERIES]
            score(queries, keys, scores, n)
            weigh(queries, key_sums, scores, weights, row)
            mix(weights, values, block)
            finish(block, row, value_sums)
        return out

    return Kernel(name, score_type, pack, score, weigh, mix, finish, attend)


def _scorer(step: tiles.Step) -> Any:
    """Return score(q, keys, scores, n): one tile after the other, keys outermost."""
    lanes = LANES // 2 if step is tiles.product else LANES
    depth = DIM // 2 if step is tiles.product else DIM
    tile, narrow_tile = make_tile(step), make_tile(step, vectors=1)

    @njit
    def score(q: Any, keys: Any, scores: Any, n: int) -> None:
        whole = n - n % (VECTORS * lanes)
        for j in range(0, whole, VECTORS * lanes):
            for i in range(0, QUERIES, ROWS):
                tile(q, keys, scores, i, j, 0, depth)
        for j in range(whole, n, lanes):
            for i in range(0, QUERIES, ROWS):
                narrow_tile(q, keys, scores, i, j, 0, depth)

    return score


def _mixer(step: tiles.Step) -> Any:
    """Return mix(weights, values, out): adds to out, key block by key block."""
    pairs = step is tiles.product
    lanes, keys_per_step = (LANES // 2, 2) if pairs else (LANES, 1)
    tile = make_tile(step, accumulate=True)

    @njit
    def mix(weights: Any, values: Any, out: Any) -> None:
        n = weights.shape[1]
        for j in range(0, n, KEYS):
            start, stop = j // keys_per_step, min(j + KEYS, n) // keys_per_step
            for i in range(0, QUERIES, ROWS):
                for channel in range(0, DIM, VECTORS * lanes):
                    tile(weights, values, out, i, channel, start, stop)

    return mix


@njit
def _pack(k: Any, v: Any) -> Any:
    """Keys transposed, `[64, n]`."""
    return _transpose(k), v, np.zeros(0, np.int16), np.zeros(0, np.int32)


@njit
def _pack_lean(k: Any, v: Any) -> Any:
    """The same, and the sum of every value channel, `[64]`."""
    return _transpose(k), v, np.zeros(0, np.int16), _sum_columns(v)


@njit
def _pack_maximum(k: Any, v: Any) -> Any:
    """The same as `_pack`, and the sum of every key, `[n]`."""
    keys = _transpose(k)
    return keys, v, _sum_columns(keys)[: len(k)].astype(np.int16), np.zeros(0, np.int32)


@njit
def _pack_pairs(k: Any, v: Any) -> Any:
    """Keys `[32, n, 2]` in pairs of channels, values `[n / 2, 64, 2]` in pairs of keys."""
    n = len(k)
    pairs = _transpose(k.view(np.int32))
    values = np.empty((n // 2, DIM, 2), np.int16)
    for j in range(n // 2):
        for channel in range(DIM):
            values[j, channel, 0] = v[2 * j, channel]
            values[j, channel, 1] = v[2 * j + 1, channel]
    keys = pairs.view(np.int16).reshape((DIM // 2, n + PADDING, 2))
    return keys, values, np.zeros(0, np.int16), np.zeros(0, np.int32)


@njit
def _transpose(x: Any) -> Any:
    """Return x transposed and padded, 32 rows at a time, so that it writes whole cache lines."""
    n, width = x.shape
    out = np.empty((width, n + PADDING), x.dtype)
    for start in range(0, n, LENGTH_STEP):
        for column in range(width):
            for row in range(start, start + LENGTH_STEP):
                out[column, row] = x[row, column]
    return out


@njit
def _sum_columns(x: Any) -> Any:
    total = np.zeros(x.shape[1], np.int32)
    for row in range(x.shape[0]):
        for column in range(x.shape[1]):
            total[column] += x[row, column]
    return total


@njit
def _inhibit(q: Any, key_sums: Any, scores: Any, weights: Any, row: Any) -> None:
    """Z from Manhattan distances.

    The plain inhibitor shares this with the lean one and doesn't read the sums of Z: an addition a
    pair, beside 256 of its score and mixing, which its measured times have and `operations`
    doesn't count.
    """
    for i in range(QUERIES):
        for j in range(weights.shape[1]):
            z = np.int16((scores[i, j] >> INHIBITION_BITS) - SHIFT)
            weights[i, j] = min(max(z, np.int16(0)), LARGEST_Z)
        row[i] = _sum(weights[i])


@njit
def _inhibit_maximum(q: Any, key_sums: Any, scores: Any, weights: Any, row: Any) -> None:
    """Z from sums of maxima; int16 wraps on the way, the distance itself fits."""
    for i in range(QUERIES):
        query_sum = np.int16(_sum(q[i]))
        for j in range(weights.shape[1]):
            distance = np.int16(np.int16(2 * scores[i, j]) - np.int16(query_sum + key_sums[j]))
            z = np.int16((distance >> INHIBITION_BITS) - SHIFT)
            weights[i, j] = min(max(z, np.int16(0)), LARGEST_Z)
        row[i] = _sum(weights[i])


@njit
def _exponentiate_scalar(q: Any, key_sums: Any, scores: Any, weights: Any, row: Any) -> None:
    """E, one table entry at a time."""
    for i in range(QUERIES):
        top = _largest(scores[i, : weights.shape[1]])
        for j in range(weights.shape[1]):
            steps = min(np.int32((top - scores[i, j]) >> SCORE_BITS), LONGEST)
            weights[i, j] = EXPONENTIALS[steps & 31] >> (steps >> 5)
        row[i] = _sum(weights[i])


@njit
def _exponentiate_vector(q: Any, key_sums: Any, scores: Any, weights: Any, row: Any) -> None:
    """E, a vector at a time, the table in registers."""
    for i in range(QUERIES):
        top = _largest(scores[i, : weights.shape[1]])
        for j in range(0, weights.shape[1], LANES):
            tiles.exponentials(scores, weights, EXPONENTIALS, i, j, top, SCORE_BITS)
        row[i] = _sum(weights[i])


@njit
def _largest(scores: Any) -> Any:
    top = scores[0]
    for j in range(len(scores)):
        top = max(top, scores[j])
    return top


@njit
def _sum(values: Any) -> Any:
    total = np.int32(0)
    for j in range(len(values)):
        total = np.int32(total + np.int32(values[j]))
    return total


@njit
def _finish(out: Any, row: Any, value_sums: Any) -> None:
    """The sum is H already."""


@njit
def _finish_lean(out: Any, row: Any, value_sums: Any) -> None:
    for i in range(QUERIES):
        for channel in range(DIM):
            out[i, channel] = (out[i, channel] + value_sums[channel] - row[i]) >> 1


@njit
def _finish_maximum(out: Any, row: Any, value_sums: Any) -> None:
    for i in range(QUERIES):
        for channel in range(DIM):
            out[i, channel] -= row[i]


@njit
def _normalise(out: Any, row: Any, value_sums: Any) -> None:
    for i in range(QUERIES):
        reciprocal = (1 << RECIPROCAL_BITS) // row[i]
        for channel in range(DIM):
            scaled = out[i, channel] * reciprocal + (1 << (RECIPROCAL_BITS - 1))
            out[i, channel] = scaled >> RECIPROCAL_BITS


_exponentiate = _exponentiate_vector if "avx2" in tiles.FEATURES else _exponentiate_scalar
_distances, _maxima, _products = map(_scorer, (tiles.distance, tiles.maximum, tiles.product))
_mixed_products = _mixer(tiles.product)

KERNELS = {
    kernel.name: kernel
    for kernel in (
        _kernel(
            "inhibitor", np.int16, _pack, _distances, _inhibit, _mixer(tiles.rectified), _finish
        ),
        _kernel(
            "inhibitor_lean",
            np.int16,
            _pack_lean,
            _distances,
            _inhibit,
            _mixer(tiles.distance),
            _finish_lean,
        ),
        _kernel(
            "inhibitor_maximum",
            np.int16,
            _pack_maximum,
            _maxima,
            _inhibit_maximum,
            _mixer(tiles.maximum),
            _finish_maximum,
        ),
        _kernel(
            "dot_product",
            np.int32,
            _pack_pairs,
            _products,
            _exponentiate,
            _mixed_products,
            _normalise,
        ),
        _kernel(
            "dot_product_scalar",
            np.int32,
            _pack_pairs,
            _products,
            _exponentiate_scalar,
            _mixed_products,
            _normalise,
        ),
    )
}
