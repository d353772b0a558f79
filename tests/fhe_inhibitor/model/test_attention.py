"""Every attention equals a naive triple loop; padding and what comes later contribute nothing."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from fhe_inhibitor.model import fused_attention as fused_inhibitor
from fhe_inhibitor.model.attention import dot_product, inhibitor, inhibitor_signed

B, H, N, D, DV = 2, 3, 5, 4, 6
GAMMA, SHIFT, ETA = 0.7, 0.4, 1.3
KINDS = {
    "inhibitor": partial(inhibitor, gamma=GAMMA, shift=SHIFT),
    "inhibitor_signed": partial(inhibitor_signed, gamma=GAMMA, shift=SHIFT, eta=ETA),
    "fused inhibitor": partial(fused_inhibitor.inhibitor, gamma=GAMMA, shift=SHIFT),
    "fused inhibitor_signed": partial(
        fused_inhibitor.inhibitor_signed, gamma=GAMMA, shift=SHIFT, eta=ETA
    ),
    "dot_product": partial(dot_product, gamma=1.0, shift=0.0),
}


def draw(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(B, H, N, D, generator=generator)
    k = torch.randn(B, H, N, D, generator=generator)
    v = torch.randn(B, H, N, DV, generator=generator)
    mask = torch.rand(B, 1, N, N, generator=generator) < 0.7
    mask[..., 0] = True
    return q, k, v, mask


def loop(kind: str, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """The equations as written, one (i, j, l) at a time."""
    out = torch.zeros(B, H, N, DV)
    for b in range(B):
        for h in range(H):
            for i in range(N):
                keys = [j for j in range(N) if mask[b, 0, i, j]]
                scores = [float(q[b, h, i] @ k[b, h, j]) / math.sqrt(D) for j in keys]
                total = sum(math.exp(s) for s in scores)
                for position, j in enumerate(keys):
                    distance = sum(abs(float(q[b, h, i, c] - k[b, h, j, c])) for c in range(D))
                    z = max(GAMMA * distance / math.sqrt(D) - SHIFT, 0.0)
                    for c in range(DV):
                        value = float(v[b, h, j, c])
                        if kind == "dot_product":
                            term = math.exp(scores[position]) / total * value
                        elif kind.endswith("inhibitor_signed"):
                            plus, minus = max(value, 0.0), min(value, 0.0)
                            term = ETA * (max(plus - z, 0.0) + min(minus + z, 0.0))
                        else:
                            term = max(value - z, 0.0)
                        out[b, h, i, c] += term
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_attention_equals_a_triple_loop(kind: str) -> None:
    q, k, v, mask = draw()
    torch.testing.assert_close(
        KINDS[kind](q, k, v, mask), loop(kind, q, k, v, mask), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("kind", KINDS)
def test_causal_attention_equals_a_loop_that_ends_at_the_query(kind: str) -> None:
    q, k, v, mask = draw()
    earlier = mask & (torch.arange(N)[None, :] <= torch.arange(N)[:, None])
    expected = loop(kind, q, k, v, earlier)
    found = KINDS[kind](q, k, v, mask, causal=True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    alone = KINDS[kind](q[:, :, :1], k[:, :, :1], v[:, :, :1], mask[..., :1, :1], causal=True)
    torch.testing.assert_close(found[:, :, :1], alone, atol=1e-6, rtol=1e-6)
    last = KINDS[kind](q[:, :, 2:], k, v, mask[:, :, 2:], causal=True)
    torch.testing.assert_close(found[:, :, 2:], last, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_masked_keys_contribute_nothing(kind: str) -> None:
    q, k, v, _ = draw()
    mask = torch.ones(B, 1, N, N, dtype=torch.bool)
    mask[..., 3:] = False
    expected = KINDS[kind](q, k[:, :, :3], v[:, :, :3], mask[..., :3])
    k[:, :, 3:], v[:, :, 3:] = 100.0, -100.0
    torch.testing.assert_close(KINDS[kind](q, k, v, mask), expected, atol=1e-4, rtol=1e-4)


def test_query_without_keys_gives_zero() -> None:
    q, k, v, mask = draw()
    mask[:] = False
    for kind, function in KINDS.items():
        for causal in (False, True):
            assert function(q, k, v, mask, causal=causal).abs().max() < 1e-5, kind
