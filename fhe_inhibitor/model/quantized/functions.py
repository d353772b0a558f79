"""What quantization-aware training computes most, as functions with gradients.

On the processor each does in one pass over memory (`kernels`) what torch's operations need ten or
more for (`operations`, for a GPU), and gives the same: integers in the forward pass,
straight-through gradients.

    read_table      an accumulator is rounded, with noise, and a table is read
    integer_rows    weights are cut to the largest few and scaled to integers within all bounds
    distances       Manhattan distances of queries and keys
    inhibit         sums over keys of (v - z)^+
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.model.quantized import kernels, operations

NOISE_REACH = 0.499  # steps: noise beyond half a step is cut off
RANGE_SLACK = 0.97


def rounding_noise(like: Tensor, noise_std: float) -> Tensor:
    """Draw the noise of encrypted rounding, in steps; beyond half a step it is cut off."""
    return torch.randn_like(like).mul_(noise_std).clamp_(-NOISE_REACH, NOISE_REACH)


def read_table(
    accumulator: Tensor, table: Tensor, slope: Tensor, lsbs: int, noise_std: float
) -> Tensor:
    """Return the entries of accumulators `[..., channels]`, rounded to multiples of 2^lsbs.

    table, slope: `[entries, channels]`, what the accumulators 0, 2^lsbs, 2 * 2^lsbs, ... become,
    and how fast; through them gradients go, to the table's own parameters and to the accumulator.
    noise_std: standard deviation in steps; rounding to multiples of 1 is exact.
    """
    rows = accumulator.detach().reshape(-1, accumulator.shape[-1])
    is_noisy = bool(noise_std and lsbs)
    noise = rounding_noise(rows, noise_std) if is_noisy else rows.new_empty(0, 0)
    function = _ReadTable.apply if _has_kernels(rows) else operations.read_table
    return function(accumulator, table, slope, lsbs, noise)


class _ReadTable(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, accumulator: Tensor, table: Tensor, slope: Tensor, lsbs: int, noise: Tensor
    ) -> Tensor:
        rows = accumulator.reshape(-1, accumulator.shape[-1])
        index, out = torch.empty_like(rows, dtype=torch.int16), torch.empty_like(rows)
        kernels.read_table(
            rows.numpy(), noise.numpy(), 1 << lsbs, table.numpy(), index.numpy(), out.numpy()
        )
        ctx.save_for_backward(index, slope)
        return out.reshape(accumulator.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        index, slope = ctx.saved_tensors
        above = grad.reshape(index.shape).contiguous()
        accumulator, table = torch.empty_like(above), torch.zeros_like(slope)
        kernels.read_table_back(
            above.numpy(), index.numpy(), slope.numpy(), accumulator.numpy(), table.numpy()
        )
        return accumulator.reshape(grad.shape), table, None, None, None


class Bounds(NamedTuple):
    """What the integers of a row must keep: |weight|, their 2-norm, their sum over any input."""

    largest: float
    norm: float
    reach: float


def row_scales(rows: Tensor, span: Tensor, bounds: Bounds) -> Tensor:
    """Return the smallest scale of each row `[out, in]` that keeps its integers within bounds.

    span: width of each input's range, `[in]`.
    """
    return _fit(rows, span, bounds, rows.shape[1], False)[:, 0]


def integer_rows(
    rows: Tensor,
    span: Tensor,
    bounds: Bounds,
    n_kept: int,
    keep_last: bool,
    terms: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return integers of the rows `[out, in]` and their scales `[out]`, as `row_scales` has them.

    n_kept: of each row the inputs of largest magnitude are kept, the others become 0. keep_last:
    the last input is one of them, whatever it is. terms: of how many ciphertexts each input is the
    sum, `[in]`, 1 if None; its weight then counts as often in the norm.
    """
    fits = _fit(rows, span, bounds, n_kept, keep_last, terms)
    function = _RoundRows.apply if _has_kernels(rows) else operations.round_rows
    return function(rows, fits, int(keep_last)), fits[:, 0]


def need_finite(*weights: Tensor) -> None:
    """Raise InputError for weights that no integers can stand for: no scale is large enough."""
    if not all(torch.isfinite(weight).all() for weight in weights):
        raise InputError(
            "the weights have infinite or NaN values: the checkpoint is damaged, or the training "
            "diverged, which a lower learning rate prevents"
        )


def _fit(
    rows: Tensor,
    span: Tensor,
    bounds: Bounds,
    n_kept: int,
    keep_last: bool,
    terms: Tensor | None = None,
) -> Tensor:
    """Return scales and smallest weights of rows, `[out, 2]`; they must be finite."""
    need_finite(rows)
    terms = torch.ones_like(span) if terms is None else terms
    rows, span, terms = (x.detach().contiguous() for x in (rows, span, terms))
    limits, n_free, fixed = (*bounds, RANGE_SLACK), n_kept - keep_last, int(keep_last)
    if not _has_kernels(rows):
        return operations.fit_rows(rows, span, terms, limits, n_free, fixed)
    fits = rows.new_empty(len(rows), 2)
    numbers = (rows.numpy(), span.numpy(), terms.numpy())
    kernels.fit_rows(*numbers, limits, n_free, fixed, fits.numpy())
    return fits


def _has_kernels(x: Tensor) -> bool:
    """Whether x is where the kernels run: on the processor."""
    return x.device.type == "cpu"


class _RoundRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, fits: Tensor, fixed: int) -> Tensor:
        rows, ctx.fixed = rows.contiguous(), fixed
        out = torch.empty_like(rows)
        kernels.round_rows(rows.numpy(), fits.numpy(), fixed, out.numpy())
        ctx.save_for_backward(rows, fits)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, fits = ctx.saved_tensors
        out = torch.empty_like(rows)
        above = grad.contiguous().numpy()
        kernels.round_rows_back(above, rows.numpy(), fits.numpy(), ctx.fixed, out.numpy())
        return out, None, None


def distances(q: Tensor, k: Tensor, window: int) -> Tensor:
    """Return Manhattan distances `[B, n_q, m]` of queries `[B, n_q, d]` and keys `[B, n, d]`.

    m: the keys that a query reads, all n with window 0, else 2 window + 1 around its own position;
    beyond the ends they are 0.
    """
    function = _Distances.apply if _has_kernels(q) else operations.distances
    return function(q, k, window)


class _Distances(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, window: int) -> Tensor:
        q, k, ctx.window = q.contiguous(), k.contiguous(), window
        out = q.new_zeros(*q.shape[:2], 2 * window + 1 if window else k.shape[1])
        kernels.distances(q.numpy(), k.numpy(), window, out.numpy())
        ctx.save_for_backward(q, k)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k = ctx.saved_tensors
        dq, dk = torch.zeros_like(q), torch.zeros_like(k)
        above = grad.contiguous().numpy()
        kernels.distances_back(above, q.numpy(), k.numpy(), ctx.window, dq.numpy(), dk.numpy())
        return dq, dk, None


def inhibit(v: Tensor, z: Tensor, window: int, signed: bool) -> Tensor:
    """Return the sums over keys of (v - z)^+, less (-v - z)^+ if signed: `[B, n_q, d_v]`.

    v: `[B, n, d_v]`. z: `[B, n_q, m]`, infinite for keys that aren't there; for m and window see
    `distances`.
    """
    function = _Inhibit.apply if _has_kernels(v) else operations.inhibit
    return function(v, z, window, signed)


class _Inhibit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, z: Tensor, window: int, signed: bool) -> Tensor:
        v, z = v.contiguous(), z.contiguous()
        ctx.window, ctx.signed = window, signed
        out = v.new_zeros(*z.shape[:2], v.shape[2])
        kernels.inhibit(v.numpy(), z.numpy(), window, signed, out.numpy())
        ctx.save_for_backward(v, z)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        v, z = ctx.saved_tensors
        dv, dz = torch.zeros_like(v), torch.zeros_like(z)
        above = grad.contiguous().numpy()
        numbers = (v.numpy(), z.numpy(), ctx.window, ctx.signed)
        kernels.inhibit_back(above, *numbers, dv.numpy(), dz.numpy())
        return dv, dz, None, None
