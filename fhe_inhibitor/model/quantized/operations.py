"""What `functions` computes, in torch's operations: for a GPU, where the kernels don't run.

Integers are those of the kernels. Scales and gradients are sums in another order, so that their
last bits may differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def round_ste(x: Tensor) -> Tensor:
    """Round half up; the gradient passes straight through.

    >>> round_ste(torch.tensor([0.4, 0.5, -1.5])).tolist()
    [0.0, 1.0, -1.0]
    """
    return x + ((x + 0.5).floor() - x).detach()


def readable(x: Tensor, n_queries: int, window: int) -> Tensor:
    """Return the rows of x `[B, n, ...]` that each query may read: `[B, n_queries, m, ...]`.

    m is n for full attention (window 0), else 2 window + 1, with 0 beyond the ends.
    """
    if not window:
        return x[:, None].expand(-1, n_queries, *x.shape[1:])
    edge = x.new_zeros(x.shape[0], window, *x.shape[2:])
    padded = torch.cat([edge, x, edge], dim=1)
    shifted = [padded[:, start : start + n_queries] for start in range(2 * window + 1)]
    return torch.stack(shifted, dim=2)


def read_table(
    accumulator: Tensor, table: Tensor, slope: Tensor, lsbs: int, noise: Tensor
) -> Tensor:
    """See `functions.read_table`; noise: drawn already, in steps, as the accumulators or empty."""
    rows = accumulator.reshape(-1, accumulator.shape[-1])
    position = (rows.detach() + (0.5 if lsbs else 0.0)) / (1 << lsbs)
    if len(noise):
        position = position + noise
    index = (position + 0.5).floor().clamp(0, len(table) - 1).nan_to_num().long()
    out = table.gather(0, index) + slope.gather(0, index) * (rows - rows.detach())
    return out.reshape(accumulator.shape)


@torch.no_grad()
def fit_rows(
    rows: Tensor, span: Tensor, terms: Tensor, bounds: Sequence[float], n_kept: int, fixed: int
) -> Tensor:
    """Return scales and smallest weights of rows `[out, in]`, `[out, 2]`; see the kernel."""
    largest, norm, limit, slack = bounds
    magnitude = rows.abs()
    free = magnitude[:, : rows.shape[1] - fixed]
    smallest = torch.zeros_like(magnitude[:, 0])
    if n_kept < free.shape[1]:
        smallest = free.topk(n_kept, dim=1).values[:, -1]
        free *= free >= smallest[:, None]
    norms = (magnitude.square() @ terms).sqrt() / (slack * norm)
    reaches = magnitude @ span / (slack * limit)
    scale = torch.stack([magnitude.amax(dim=1) / largest, norms, reaches]).amax(dim=0)
    scale = scale.clamp(min=1e-8)
    while True:
        integers = (magnitude / scale[:, None] + 0.5).floor()
        beyond = (integers @ span > limit) | (integers.square() @ terms > norm * norm)
        if not beyond.any():
            return torch.stack([scale, smallest], dim=1)
        scale = torch.where(beyond, 1.02 * scale, scale)


def round_rows(rows: Tensor, fits: Tensor, fixed: int) -> Tensor:
    """Return the integers of rows, with the scales and smallest weights of `fit_rows`."""
    kept = rows.detach().abs() >= fits[:, 1:]
    kept[:, rows.shape[1] - fixed :] = True
    return round_ste(rows * kept / fits[:, :1])


def distances(q: Tensor, k: Tensor, window: int) -> Tensor:
    """See `functions.distances`."""
    keys = readable(k, q.shape[1], window)
    there = readable(torch.ones_like(k[..., 0]), q.shape[1], window)
    return (q[:, :, None] - keys).abs().sum(dim=-1) * there


def inhibit(v: Tensor, z: Tensor, window: int, signed: bool) -> Tensor:
    """See `functions.inhibit`."""
    return inhibited(v, z, window, signed).sum(dim=2)


def inhibited(v: Tensor, z: Tensor, window: int, signed: bool) -> Tensor:
    """Return what z leaves of each value that a query reads, `[B, n_q, m, d_v]`."""
    v, z = readable(v, z.shape[1], window), z[..., None]
    above = (v - z).clamp(min=0)
    return above - (-v - z).clamp(min=0) if signed else above
