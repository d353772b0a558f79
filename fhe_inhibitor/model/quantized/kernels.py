"""The loops of quantization-aware training, compiled for processors: see `functions`.

Arrays are contiguous and of float32, integers held in floats, but for the indices of tables.
Each function that ends in `_back` gives the gradients of the one before it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from fhe_inhibitor.model.fused_kernels import REORDERED

ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)


@njit(nogil=True, cache=True)
def read_table(accumulator: Any, noise: Any, step: Any, table: Any, index: Any, out: Any) -> None:
    """Round accumulators `[rows, channels]` to multiples of `step` and read their entries.

    table: `[entries, channels]`, of the multiples 0, 1, ... noise: as the accumulators, in steps,
    or of no rows where there is none. Writes the entries to `out`, their numbers to `index`, int16;
    beyond an end of the table it reads the entry there.
    """
    shift = HALF if step > 1 else ZERO  # half a unit, as Concrete adds it
    inverse, last = ONE / np.float32(step), np.float32(len(table) - 1)
    for row in range(len(accumulator)):
        for c in range(accumulator.shape[1]):
            position = (accumulator[row, c] + shift) * inverse
            if len(noise):
                position += noise[row, c]
            index[row, c] = np.int16(min(max(np.floor(position + HALF), ZERO), last))
        for c in range(accumulator.shape[1]):
            out[row, c] = table[index[row, c], c]


@njit(nogil=True, cache=True)
def read_table_back(above: Any, index: Any, slope: Any, accumulator: Any, table: Any) -> None:
    """Write the gradients of accumulators, and add those of the table to `table`.

    above: the gradient of `out`. slope: of each entry with respect to the accumulator.
    """
    for row in range(len(above)):
        for c in range(above.shape[1]):
            accumulator[row, c] = above[row, c] * slope[index[row, c], c]
            table[index[row, c], c] += above[row, c]


@njit(nogil=True, cache=True)
def fit_rows(
    rows: Any, span: Any, terms: Any, bounds: Any, n_kept: Any, fixed: Any, fits: Any
) -> None:
    """Write the scale of each row `[out, in]` to `fits[:, 0]`, its smallest weight to `fits[:, 1]`.

    The n_kept largest magnitudes of a row are kept, besides the last `fixed` ones. The scale is the
    smallest that keeps their integers within bounds: largest |weight|, 2-norm, in which a weight
    counts `terms` times, and the sum over inputs that span `span`; the last of the bounds is by
    what share the other two are first undercut, since rounding can push a row over them.
    """
    largest, norm, limit, slack = bounds
    bits = np.empty(rows.shape[1], np.int32)
    magnitude, integers = bits.view(np.float32), np.empty(rows.shape[1], np.float32)
    for o in range(len(rows)):
        for i in range(len(magnitude)):
            magnitude[i] = abs(rows[o, i])
        smallest = _nth_largest(bits[: len(bits) - fixed], n_kept)
        for i in range(len(magnitude) - fixed):
            magnitude[i] = magnitude[i] if magnitude[i] >= smallest else ZERO
        most, square, reach = _extent(magnitude, span, terms)
        scale = max(most / largest, np.sqrt(square) / (slack * norm), reach / (slack * limit))
        scale = np.float32(max(scale, 1e-8))
        while True:
            for i in range(len(magnitude)):
                integers[i] = np.floor(magnitude[i] / scale + HALF)
            _, square, reach = _extent(integers, span, terms)
            if reach <= limit and square <= norm * norm:
                break
            scale *= np.float32(1.02)
        fits[o, 0], fits[o, 1] = scale, smallest


@njit(nogil=True, cache=True)
def _nth_largest(bits: Any, n: Any) -> Any:
    """Return the n-th largest of floats that are not negative, given as int32, or 0."""
    low, high = 0, 0x7F800001  # at least n of them are >= low, fewer are >= high
    while n < len(bits) and high - low > 1:
        middle, count = (low + high) // 2, np.int32(0)
        bound = np.int32(middle)
        for i in range(len(bits)):
            count += np.int32(bits[i] >= bound)
        if count >= n:
            low = middle
        else:
            high = middle
    return np.array([low], np.int32).view(np.float32)[0]


@njit(nogil=True, cache=True, fastmath=REORDERED)
def _extent(magnitude: Any, span: Any, terms: Any) -> Any:
    """Return the largest, the sum of squares times `terms`, and the sum times `span`."""
    most, square, reach = ZERO, ZERO, ZERO
    for i in range(len(magnitude)):
        most = max(most, magnitude[i])
        square += terms[i] * (magnitude[i] * magnitude[i])
        reach += magnitude[i] * span[i]
    return most, square, reach


@njit(nogil=True, cache=True)
def round_rows(rows: Any, fits: Any, fixed: Any, out: Any) -> None:
    """Write the integers of rows, with the scales and smallest weights of `fit_rows`."""
    for o in range(len(rows)):
        scale, smallest = fits[o, 0], fits[o, 1]
        for i in range(rows.shape[1] - fixed):
            kept = rows[o, i] if abs(rows[o, i]) >= smallest else ZERO
            out[o, i] = np.floor(kept / scale + HALF)
        for i in range(rows.shape[1] - fixed, rows.shape[1]):
            out[o, i] = np.floor(rows[o, i] / scale + HALF)


@njit(nogil=True, cache=True)
def round_rows_back(above: Any, rows: Any, fits: Any, fixed: Any, out: Any) -> None:
    """Write the gradients of rows: through the rounding, none to what isn't kept."""
    for o in range(len(rows)):
        inverse, smallest = ONE / fits[o, 0], fits[o, 1]
        for i in range(rows.shape[1] - fixed):
            out[o, i] = above[o, i] * inverse if abs(rows[o, i]) >= smallest else ZERO
        for i in range(rows.shape[1] - fixed, rows.shape[1]):
            out[o, i] = above[o, i] * inverse


@njit(nogil=True, cache=True, fastmath=REORDERED)
def distances(q: Any, k: Any, window: Any, out: Any) -> None:
    """Write the Manhattan distances of q `[B, n_q, d]` and k `[B, n, d]` to `out` `[B, n_q, m]`.

    Each query i reads m keys: all n of them, or with a window the 2 window + 1 around key i, of
    which those beyond the ends are left as they are.
    """
    for b in range(len(q)):
        for i in range(q.shape[1]):
            first, last = _slots(i, window, k.shape[1])
            for slot in range(first, last):
                j, total = _key(i, slot, window), ZERO
                for c in range(q.shape[2]):
                    total += abs(q[b, i, c] - k[b, j, c])
                out[b, i, slot] = total


@njit(nogil=True, cache=True)
def distances_back(above: Any, q: Any, k: Any, window: Any, dq: Any, dk: Any) -> None:
    """Add the gradients of q and k to dq and dk; that of |x| is 0 at 0."""
    for b in range(len(q)):
        for i in range(q.shape[1]):
            first, last = _slots(i, window, k.shape[1])
            for slot in range(first, last):
                j, g = _key(i, slot, window), above[b, i, slot]
                for c in range(q.shape[2]):
                    difference = q[b, i, c] - k[b, j, c]
                    t = (g if difference > ZERO else ZERO) - (g if difference < ZERO else ZERO)
                    dq[b, i, c] += t
                    dk[b, j, c] -= t


@njit(nogil=True, cache=True)
def inhibit(v: Any, z: Any, window: Any, signed: Any, out: Any) -> None:
    """Add to out `[B, n_q, d_v]` the sums over keys of (v - z)^+, less (-v - z)^+ if signed.

    v: `[B, n, d_v]`. z: `[B, n_q, m]`, infinite for keys that aren't there; for m see `distances`.
    """
    for b in range(len(v)):
        for i in range(z.shape[1]):
            first, last = _slots(i, window, v.shape[1])
            for slot in range(first, last):
                j, threshold = _key(i, slot, window), z[b, i, slot]
                for c in range(v.shape[2]):
                    out[b, i, c] += max(v[b, j, c] - threshold, ZERO)
                if signed:
                    for c in range(v.shape[2]):
                        out[b, i, c] -= max(-v[b, j, c] - threshold, ZERO)


@njit(nogil=True, cache=True, fastmath=REORDERED)
def inhibit_back(above: Any, v: Any, z: Any, window: Any, signed: Any, dv: Any, dz: Any) -> None:
    """Add the gradients of v to dv and write those of z to dz; that of (x)^+ is 1 at 0."""
    for b in range(len(v)):
        for i in range(z.shape[1]):
            first, last = _slots(i, window, v.shape[1])
            for slot in range(first, last):
                j, threshold, total = _key(i, slot, window), z[b, i, slot], ZERO
                for c in range(v.shape[2]):
                    t = above[b, i, c] if v[b, j, c] >= threshold else ZERO
                    dv[b, j, c] += t
                    total -= t
                if signed:
                    for c in range(v.shape[2]):
                        t = above[b, i, c] if -v[b, j, c] >= threshold else ZERO
                        dv[b, j, c] += t
                        total += t
                dz[b, i, slot] = total


@njit(nogil=True, cache=True)
def _slots(i: Any, window: Any, n: Any) -> Any:
    """Return the first and one past the last of query i's slots that hold one of n keys."""
    return (max(0, window - i), min(2 * window + 1, n + window - i)) if window else (0, n)


@njit(nogil=True, cache=True)
def _key(i: Any, slot: Any, window: Any) -> Any:
    """Return the key in a slot of query i."""
    return slot + i - window if window else slot
