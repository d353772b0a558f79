"""The inhibitors of `attention`, fast and in little memory: what models train and run with.

Same arguments, same results, same gradients as `attention.inhibitor` and `inhibitor_signed`, but
no tensor of n * n * d values, on no device:

    processor     compiled kernels (`fused_kernels`), on as many threads as torch may use
    elsewhere     the definition itself, a block of queries at a time, computed again for its
                  gradients

With `causal` the kernels end each row at the query's own key, which is half of the work. What is
of half precision, as under autocast, is computed in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from fhe_inhibitor.model import attention, fused_kernels
from fhe_inhibitor.model.fused_kernels import Gradients, Heads

SHARED_WORK = 1 << 20  # differences; from there on a second thread is worth its start
BLOCK_VALUES = 1 << 24  # (query, key, channel) values at a time where there are no kernels


def inhibitor(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
    gamma: Tensor | float,
    shift: Tensor | float,
    causal: bool = False,
) -> Tensor:
    """Return `attention.inhibitor` of the same arguments; gamma broadcasts to `[H, 1, 1]`."""
    if not _has_kernels(q):
        return _blockwise(attention.inhibitor, q, k, v, mask, gamma, shift, causal)
    return _fused(q, k, v, mask, gamma, shift, signed=False, causal=causal)


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
    """Return `attention.inhibitor_signed`, eta sum_j of v_jl soft-thresholded by Z_ij.

    For z >= 0, (v^+ - z)^+ + (v^- + z)^- = (v - z)^+ - (-v - z)^+.
    """
    if not _has_kernels(q):
        definition = partial(attention.inhibitor_signed, eta=1.0)
        return eta * _blockwise(definition, q, k, v, mask, gamma, shift, causal)
    return eta * _fused(q, k, v, mask, gamma, shift, signed=True, causal=causal)


def _has_kernels(q: Tensor) -> bool:
    return q.device.type == "cpu" and not torch.compiler.is_compiling()


def _fused(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
    gamma: Tensor | float,
    shift: Tensor | float,
    signed: bool,
    causal: bool,
) -> Tensor:
    """Bring the arguments into the kernels' layout, and the result back."""
    heads, n = k.shape[1:3]
    dtype = torch.promote_types(q.dtype, torch.float32)
    result = torch.result_type(v, gamma)
    factor = torch.as_tensor(gamma, dtype=dtype).reshape(-1).expand(heads) / math.sqrt(q.shape[-1])
    shift = torch.as_tensor(shift, dtype=dtype)
    rows = shift.shape[-2] if shift.dim() > 1 else 1
    by_position = [x.to(dtype).transpose(1, 2).contiguous() for x in (q, k, v)]
    out = _Inhibitor.apply(
        *by_position,
        _compact(mask, n),
        factor.contiguous(),
        shift.expand(heads, rows, n).contiguous(),
        signed,
        causal,
    )
    return out.transpose(1, 2).to(result)


def _compact(mask: Tensor, n: int) -> Tensor:
    """Return the mask as `[B or 1, H or 1, n_q or 1, n]`, contiguous, expanded axes undone."""
    mask = mask[(None,) * (4 - mask.dim())]
    mask = mask[tuple(slice(0, 1) if step == 0 else slice(None) for step in mask.stride())]
    return mask.expand(*mask.shape[:3], n).contiguous()


class _Inhibitor(torch.autograd.Function):
    """`fused_kernels` with gradients; tensors in their layout, gamma / sqrt(d) as factor."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *tensors, signed, causal = arguments
        ctx.flags = signed, causal
        ctx.save_for_backward(*tensors)
        q, _, v = tensors[:3]
        out = torch.empty(*q.shape[:3], v.shape[3], dtype=q.dtype)
        _share(fused_kernels.attend, Heads._make([*_arrays(tensors), *ctx.flags]), out.numpy())
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, mask, factor, shift = ctx.saved_tensors
        batch, _, heads, _ = q.shape
        gradients = [
            *(torch.empty_like(x) for x in (q, k, v)),
            q.new_zeros(batch, heads),
            q.new_zeros(batch, *shift.shape),
        ]
        _share(
            fused_kernels.differentiate,
            Heads._make([*_arrays(ctx.saved_tensors), *ctx.flags]),
            grad.contiguous().numpy(),
            Gradients(*_arrays(gradients)),
        )
        dq, dk, dv, dfactor, dshift = gradients
        return dq, dk, dv, None, dfactor.sum(dim=0), dshift.sum(dim=0), None, None


def _arrays(tensors: Iterable[Tensor]) -> list[np.ndarray]:
    return [x.detach().numpy() for x in tensors]


def _share(kernel: Callable[..., None], heads: Heads, *arguments: Any) -> None:
    """Run a kernel over all heads, on torch's number of threads if there is work for them.

    The threads end with the call: none is left for a fork to lose, and each starts with the
    caller's floating-point settings.
    """
    (batch, n_queries, n_heads, key_dim), (_, n, _, value_dim) = heads.q.shape, heads.v.shape
    n_pairs = batch * n_heads
    work = n_pairs * n_queries * n * (key_dim + value_dim)
    threads = min(torch.get_num_threads(), n_pairs) if work >= SHARED_WORK else 1
    if threads == 1:
        kernel(heads, *arguments, 0, n_pairs)
        return
    bounds = [n_pairs * part // threads for part in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(partial(kernel, heads, *arguments), bounds[:-1], bounds[1:]))


def _blockwise(
    definition: Callable[..., Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
    gamma: Tensor | float,
    shift: Tensor | float,
    causal: bool,
) -> Tensor:
    """Evaluate a definition on blocks of queries, each computed again for its gradients.

    Half precision is computed in float32, as the kernels do: torch has no distances of it.
    """
    result = (v[:0] * gamma).dtype  # torch.result_type, which torch.compile can't trace
    q, k, v = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (q, k, v))
    n_queries, n = q.shape[2], k.shape[2]
    rows = max(1, BLOCK_VALUES // (v.numel() or 1))
    if causal:
        mask = mask & attention.causal_mask(n_queries, n, mask.device)
    mask = mask.expand(*torch.broadcast_shapes(mask.shape, (n_queries, n)))
    shift = torch.as_tensor(shift, device=q.device)
    shift = shift.expand(*torch.broadcast_shapes(shift.shape, (n_queries, n)))
    blocks = [
        checkpoint(
            definition,
            q[:, :, i : i + rows],
            k,
            v,
            mask[..., i : i + rows, :],
            gamma,
            shift[..., i : i + rows, :],
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for i in range(0, n_queries, rows)
    ]
    return torch.cat(blocks, dim=2).to(result)
