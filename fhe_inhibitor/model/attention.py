"""Attention in torch, as defined: two inhibitors and the dot product, one pure function each.

All take q `[B, H, n_q, d]`, k `[B, H, n, d]`, v `[B, H, n, d_v]`, a boolean mask that
broadcasts to `[B, H, n_q, n]` (True where a query may read a key), and a threshold that
broadcasts to `[H, n_q, n]`; all return `[B, H, n_q, d_v]`, float. A masked key contributes
exactly nothing: the additive mask of dot products, a large negative score, would be wrong
for a distance.

With `causal` the n_q queries are the last of the n positions, and none reads a key after it
(`causal_mask`). The equations stay the papers': their sums over j end at j = i.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def manhattan(q: Tensor, k: Tensor) -> Tensor:
    """Return sum_k |q_ik - k_jk|, `[B, H, n_q, n]`, without an n * n * d tensor.

    >>> manhattan(torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[0.0, 4.0]]]])).item()
    3.0
    """
    return torch.cdist(q, k, p=1.0)


def inhibitor(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
    gamma: Tensor | float,
    shift: Tensor | float,
    causal: bool = False,
) -> Tensor:
    """Return H_il = sum_j (v_jl - Z_ij^+)^+ (Brännvall 2023, eq. 7-8).

    Z_ij = gamma / sqrt(d) sum_k |q_ik - k_jk| - shift; the paper has gamma = 1 and a constant
    shift (its alpha), here both may be learned. Needs memory for n_q * n * d_v values;
    `fused_attention.inhibitor` does not.
    """
    z = inhibition(q, k, gamma, shift)
    kept = (v[:, :, None, :, :] - z[..., None]).clamp(min=0)  # [B, H, n_q, n, d_v]
    return (kept * _readable(mask, z, causal)[..., None]).sum(dim=-2)


def inhibitor_signed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
    gamma: Tensor | float,
    shift: Tensor | float,
    eta: Tensor | float,
    causal: bool = False,
) -> Tensor:
    """Return H_il = eta sum_j [(v_jl^+ - Z_ij)^+ + (v_jl^- + Z_ij)^-] (arXiv 2503.15983, eq. 3).

    Z_ij = (gamma / sqrt(d) sum_k |q_ik - k_jk| - delta)^+, with delta = `shift`. Each term is
    v_jl soft-thresholded by Z_ij. gamma, eta, delta: learned, `[H, 1, 1]`.
    """
    z = inhibition(q, k, gamma, shift)[..., None]
    values = v[:, :, None, :, :]
    kept = (values.clamp(min=0) - z).clamp(min=0) + (values.clamp(max=0) + z).clamp(max=0)
    return eta * (kept * _readable(mask, z[..., 0], causal)[..., None]).sum(dim=-2)


def dot_product(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
    gamma: Tensor | float,
    shift: Tensor | float,
    causal: bool = False,
) -> Tensor:
    """Return softmax(gamma q k^T / sqrt(d) + shift) v over the unmasked keys.

    gamma = 1 and a constant shift are conventional attention; a shift per relative offset is a
    relative position bias. A query that may read no key returns 0.
    """
    scores = gamma * (q @ k.transpose(-1, -2)) / math.sqrt(q.shape[-1]) + shift
    mask = _readable(mask, scores, causal)
    weights = scores.masked_fill(~mask, -torch.inf).softmax(dim=-1)
    return torch.where(mask, weights, 0.0) @ v


def inhibition(q: Tensor, k: Tensor, gamma: Tensor | float, shift: Tensor | float) -> Tensor:
    """Return Z^+ = (gamma / sqrt(d) sum_k |q_ik - k_jk| - shift)^+, `[B, H, n_q, n]`."""
    return (gamma * manhattan(q, k) / math.sqrt(q.shape[-1]) - shift).clamp(min=0)


def causal_mask(n_queries: int, n: int, device: torch.device | None = None) -> Tensor:
    """Return which keys the last `n_queries` of n positions may read: bool `[n_queries, n]`.

    >>> causal_mask(2, 3).tolist()
    [[True, True, False], [True, True, True]]
    """
    ones = torch.ones(n_queries, n, dtype=torch.bool, device=device)
    return ones.tril(n - n_queries)


def relative_offsets(
    n_queries: int, n: int, max_offset: int, device: torch.device | None = None
) -> Tensor:
    """Return the row of each pair in a table per offset: int64 `[n_queries, n]`."""
    position = torch.arange(max(n, n_queries), device=device)
    offset = position[None, :n] - position[:n_queries, None]
    return offset.clamp(-max_offset, max_offset) + max_offset


def _readable(mask: Tensor, scores: Tensor, causal: bool) -> Tensor:
    """Return the mask of scores `[..., n_q, n]`, of a causal layer without what comes later."""
    n_queries, n = scores.shape[-2:]
    return mask & causal_mask(n_queries, n, mask.device) if causal else mask
