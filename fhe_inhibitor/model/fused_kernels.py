"""The inhibitor row by row, compiled for processors: forward, and gradients that recompute.

For each batch entry and head, one query i at a time, with a row of n keys in the first cache:

    s_j = sum_c |q_c - k_jc|,    z_j = (factor s_j - shift_j)^+, infinite where the mask is False
    out_l = sum_j (v_jl - z_j)^+             unsigned
    out_l = sum_j (v_jl - z_j)^+ - (-v_jl - z_j)^+             signed: soft thresholding

Nothing of n * n values is ever stored: the gradients compute s and z again, as flash attention
does. Of a causal layer query i, the (n - n_q + i)th position, ends its row at its own key.
Subgradients are torch's: of (x)^+ it is 1 at 0, of |x| it is 0 at 0.

All arrays are contiguous, of float32 or float64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

CHANNELS = 4  # that one pass over a row of keys adds up; widths are padded to multiples
REORDERED = {"reassoc", "contract"}  # lets sums over a row use vectors


class Heads(NamedTuple):
    """What the kernels read.

    q `[B, n_q, H, d]`, k `[B, n, H, d]`, v `[B, n, H, d_v]`, mask bool `[B, H, n_q, n]`, factor
    `[H]`, shift `[H, n_q, n]`; of mask and shift the axes before the last may have length 1.
    """

    q: Any
    k: Any
    v: Any
    mask: Any
    factor: Any
    shift: Any
    signed: bool
    causal: bool


class Gradients(NamedTuple):
    """What `differentiate` writes: q, k, v as in `Heads`.

    factor `[B, H]` and shift `[B, H, n_q or 1, n]` are added to.
    """

    q: Any
    k: Any
    v: Any
    factor: Any
    shift: Any


@njit(nogil=True, cache=True)
def attend(heads: Any, out: Any, first: int, last: int) -> None:
    """Write the attended values to out `[B, n_q, H, d_v]`, for some (batch entry, head) pairs.

    first, last: which of the B * H pairs, so that threads can share the work.
    """
    q, v, n_heads = heads.q, heads.v, heads.q.shape[2]
    keys = _room(heads.k)
    values = np.empty((v.shape[1], v.shape[3]), v.dtype)
    query = np.zeros(keys.shape[0], q.dtype)
    distance, z = np.empty(v.shape[1], q.dtype), np.empty(v.shape[1], q.dtype)
    for pair in range(first, last):
        b, h = pair // n_heads, pair % n_heads
        _transpose(heads.k, b, h, keys)
        values[:] = v[b, :, h]
        for i in range(q.shape[1]):
            m = _reach(heads, i)
            query[: q.shape[3]] = q[b, i, h]
            _distances(query, keys, distance[:m])
            shift, mask = _shifts(heads, h, i), _mask(heads, b, h, i)
            _inhibit(distance[:m], heads.factor[h], shift, mask, z[:m])
            if heads.signed:
                _add_softened(values, z[:m], out[b, i, h])
            else:
                _add_rectified(values, z[:m], out[b, i, h])


@njit(nogil=True, cache=True)
def differentiate(heads: Any, above: Any, below: Any, first: int, last: int) -> None:
    """Write the gradients of some pairs to `below`, given that of `attend`'s out, `above`."""
    q, n, n_heads = heads.q, heads.k.shape[1], heads.q.shape[2]
    keys, values = _room(heads.k), _room(heads.v)
    dk, dv = np.empty_like(keys), np.empty_like(values)
    query, dq = np.zeros(keys.shape[0], q.dtype), np.empty(keys.shape[0], q.dtype)
    dout = np.zeros(values.shape[0], q.dtype)
    row, z_row, dz_row = np.empty(n, q.dtype), np.empty(n, q.dtype), np.empty(n, q.dtype)
    zero = q.dtype.type(0)
    for pair in range(first, last):
        b, h = pair // n_heads, pair % n_heads
        factor = heads.factor[h]
        _transpose(heads.k, b, h, keys)
        _transpose(heads.v, b, h, values)
        dk[:], dv[:] = zero, zero
        for i in range(q.shape[1]):
            m = _reach(heads, i)
            distance, z, dz = row[:m], z_row[:m], dz_row[:m]
            query[: q.shape[3]] = q[b, i, h]
            dout[: above.shape[3]] = above[b, i, h]
            shift, dshift = _shifts(heads, h, i), _row(below.shift[b], h, i)
            _distances(query, keys, distance)
            _inhibit(distance, factor, shift, _mask(heads, b, h, i), z)
            dz[:] = zero
            if heads.signed:
                _pass_softened(values, z, dout, dv, dz)
            else:
                _pass_rectified(values, z, dout, dv, dz)
            for j in range(m):
                dz[j] = dz[j] if factor * distance[j] >= shift[j] else zero
                dshift[j] -= dz[j]
            below.factor[b, h] += _dot(dz, distance)
            for j in range(m):
                dz[j] *= factor
            _pass_distances(query, keys, dz, dq, dk)
            below.q[b, i, h] = dq[: q.shape[3]]
        _transpose_back(dk, b, h, below.k)
        _transpose_back(dv, b, h, below.v)


@njit(nogil=True, cache=True)
def _room(x: Any) -> Any:
    """Return room for one head of x, transposed, its channels padded: `[d, n]`, zeros."""
    padded = (x.shape[3] + CHANNELS - 1) // CHANNELS * CHANNELS
    return np.zeros((padded, x.shape[1]), x.dtype)


@njit(nogil=True, cache=True)
def _transpose(x: Any, b: int, h: int, out: Any) -> None:
    for j in range(x.shape[1]):
        for c in range(x.shape[3]):
            out[c, j] = x[b, j, h, c]


@njit(nogil=True, cache=True)
def _transpose_back(x: Any, b: int, h: int, out: Any) -> None:
    for j in range(out.shape[1]):
        for c in range(out.shape[3]):
            out[b, j, h, c] = x[c, j]


@njit(nogil=True, cache=True)
def _row(x: Any, h: int, i: int) -> Any:
    """Return x[h, i] of an x that may have one row, or one head, for all."""
    return x[h if x.shape[0] > 1 else 0, i if x.shape[1] > 1 else 0]


@njit(nogil=True, cache=True)
def _reach(heads: Any, i: int) -> int:
    """Return how many keys query i reads, from the first one on."""
    n = heads.k.shape[1]
    return max(n - heads.q.shape[1] + i + 1, 0) if heads.causal else n


@njit(nogil=True, cache=True)
def _shifts(heads: Any, h: int, i: int) -> Any:
    return _row(heads.shift, h, i)


@njit(nogil=True, cache=True)
def _mask(heads: Any, b: int, h: int, i: int) -> Any:
    return _row(heads.mask[b if heads.mask.shape[0] > 1 else 0], h, i)


@njit(nogil=True, cache=True)
def _distances(query: Any, keys: Any, distance: Any) -> None:
    """Manhattan distances of one query to the first keys, as many as there is room for."""
    distance[:] = 0
    for c in range(0, len(query), CHANNELS):
        q0, q1, q2, q3 = query[c], query[c + 1], query[c + 2], query[c + 3]
        k0, k1, k2, k3 = keys[c], keys[c + 1], keys[c + 2], keys[c + 3]
        for j in range(len(distance)):
            near = abs(q0 - k0[j]) + abs(q1 - k1[j])
            distance[j] += near + (abs(q2 - k2[j]) + abs(q3 - k3[j]))


@njit(nogil=True, cache=True)
def _inhibit(distance: Any, factor: Any, shift: Any, mask: Any, z: Any) -> None:
    zero, infinity = z.dtype.type(0), z.dtype.type(np.inf)
    for j in range(len(z)):
        z[j] = max(factor * distance[j] - shift[j], zero) if mask[j] else infinity


@njit(nogil=True, cache=True)
def _add_rectified(values: Any, z: Any, out: Any) -> None:
    zero = z.dtype.type(0)
    out[:] = zero
    whole = len(z) - len(z) % 4
    for j in range(0, whole, 4):
        z0, z1, z2, z3 = z[j], z[j + 1], z[j + 2], z[j + 3]
        v0, v1, v2, v3 = values[j], values[j + 1], values[j + 2], values[j + 3]
        for c in range(len(out)):
            near = max(v0[c] - z0, zero) + max(v1[c] - z1, zero)
            out[c] += near + (max(v2[c] - z2, zero) + max(v3[c] - z3, zero))
    for j in range(whole, len(z)):
        for c in range(len(out)):
            out[c] += max(values[j, c] - z[j], zero)


@njit(nogil=True, cache=True)
def _add_softened(values: Any, z: Any, out: Any) -> None:
    zero = z.dtype.type(0)
    out[:] = zero
    whole = len(z) - len(z) % 2
    for j in range(0, whole, 2):
        z0, z1 = z[j], z[j + 1]
        v0, v1 = values[j], values[j + 1]
        for c in range(len(out)):
            plus = max(v0[c] - z0, zero) + max(v1[c] - z1, zero)
            out[c] += plus - (max(-v0[c] - z0, zero) + max(-v1[c] - z1, zero))
    for j in range(whole, len(z)):
        for c in range(len(out)):
            out[c] += max(values[j, c] - z[j], zero) - max(-values[j, c] - z[j], zero)


@njit(nogil=True, cache=True)
def _pass_rectified(values: Any, z: Any, dout: Any, dv: Any, dz: Any) -> None:
    """Add the gradients of `_add_rectified` to dv `[d_v, n]` and dz `[n]`."""
    zero = z.dtype.type(0)
    for c in range(0, len(dout), 2):
        g0, g1 = dout[c], dout[c + 1]
        v0, v1, dv0, dv1 = values[c], values[c + 1], dv[c], dv[c + 1]
        for j in range(len(z)):
            t0 = g0 if v0[j] >= z[j] else zero
            t1 = g1 if v1[j] >= z[j] else zero
            dv0[j] += t0
            dv1[j] += t1
            dz[j] -= t0 + t1


@njit(nogil=True, cache=True)
def _pass_softened(values: Any, z: Any, dout: Any, dv: Any, dz: Any) -> None:
    """Add the gradients of `_add_softened`; at z = 0 its two sides cancel."""
    zero = z.dtype.type(0)
    for c in range(len(dout)):
        g, v, dvc = dout[c], values[c], dv[c]
        for j in range(len(z)):
            plus = g if v[j] >= z[j] else zero
            minus = g if -v[j] >= z[j] else zero
            dvc[j] += plus + minus
            dz[j] -= plus - minus
    for j in range(len(z)):
        dz[j] = dz[j] if z[j] > zero else zero


@njit(nogil=True, cache=True, fastmath=REORDERED)
def _pass_distances(query: Any, keys: Any, dz: Any, dq: Any, dk: Any) -> None:
    """Write the gradients of `_distances` to dq `[d]` and add them to dk `[d, n]`."""
    zero = dz.dtype.type(0)
    for c in range(len(query)):
        q, key, dkc, total = query[c], keys[c], dk[c], zero
        for j in range(len(dz)):
            t = (dz[j] if q > key[j] else zero) - (dz[j] if q < key[j] else zero)
            dkc[j] -= t
            total += t
        dq[c] = total


@njit(nogil=True, cache=True, fastmath=REORDERED)
def _dot(a: Any, b: Any) -> Any:
    total = a.dtype.type(0)
    for j in range(len(a)):
        total += a[j] * b[j]
    return total
