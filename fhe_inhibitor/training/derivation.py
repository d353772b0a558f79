"""The best start of a student of full size: gamma, eta and delta of each head, from its teacher.

`from_distilbert` copies every weight of a DistilBERT. With "dot_product" attention the result *is*
the teacher. With inhibitor attention the result is wrong at first, and gamma, eta and delta decide
how wrong. `derive` reads a few texts and chooses them so that each head's output is as close as
possible to the teacher's, T = softmax(q k^T / sqrt(d)) v. It does so in two parts.

1. Move keys and values where that doesn't change the teacher. Softmax doesn't notice a constant
   added to all keys. A constant added to all values only changes the output bias. The inhibitor
   notices both: a distance says little while queries and keys lie far apart, and its sum over
   keys isn't normalised, so it grows with the number of keys unless the values have mean 0. So
   the values are moved to mean 0, and the keys by a share of their way to the mean query. This
   changes only the biases of `k_lin`, `v_lin` and `out_lin`.
2. Choose by least squares. Let D_ij = sum_k |q_ik - k_jk| / sqrt(d). A key nearer than D0 should
   be read in full, a key at D1 or beyond not at all: Z = gamma D - delta is 0 at D0 and the 99%
   quantile of |v| at D1. So gamma = v99 / (D1 - D0) and delta = gamma D0. A grid of quantiles of
   D gives D0 and D1; the keys' share of part 1 is another axis of the grid. Let G be the output
   of inhibitor attention with eta = 1; with the means of G and T taken away, the best eta is
   <G, T> / <G, G>. Each head keeps the point of the grid with the least |T - eta G|^2. What the
   heads still miss on average is added to the output bias.

The unsigned inhibitor has no eta and loses the sign of its values. Its values are moved up by a
multiple of their deviation (one more axis of the grid), and eta is multiplied into `out_lin`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fhe_inhibitor.model import attention as attention_functions
from fhe_inhibitor.model.blocks import ATTENTION, SelfAttention
from fhe_inhibitor.model.modeling import InhibiDistilBertForSequenceClassification
from fhe_inhibitor.text.batches import pad

READ_IN_FULL = (0.0, 0.05, 0.2, 0.5)  # quantiles of the distance, D0
NOT_READ = (0.1, 0.3, 0.6, 0.9, 1.0)  # D1
KEY_SHARES = (0.0, 1.0)  # of the way from the mean key to the mean query
VALUE_OFFSETS = (0.0, 1.0, 2.0)  # standard deviations, unsigned only
CALIBRATION_TEXTS = 32
MAX_SAMPLES = 100_000


@dataclass(frozen=True)
class LayerFit:
    """Mean squared error of one layer's attention output, and the teacher's mean square.

    Both read the hidden states that the teacher has before this layer. before: as
    `from_distilbert` makes it, an inhibitor with gamma = eta = 1 and the configuration's shift;
    after: with the derived values.
    """

    before: float
    after: float
    teacher: float


@torch.no_grad()
def derive(
    student: InhibiDistilBertForSequenceClassification, rows: Sequence[Sequence[int]]
) -> list[LayerFit]:
    """Set each head's gamma, shift (delta) and eta from the teacher's activations, in place.

    student: fresh from `from_distilbert`, so that its projections are the teacher's. rows:
    token ids of a few dozen texts. Returns each layer's error before and after. A student with
    dot-product attention has no error and is not changed.
    """
    tokens, mask = pad(rows, student.config.pad_token_id)
    tokens, mask = (t.to(student.device) for t in (tokens, mask))
    x = student.distilbert.embeddings(tokens)
    fits = []
    for block in student.distilbert.transformer.layer:
        layer = block.attention
        read = mask.bool()
        target = layer.join(_softmax_heads(layer, x, mask))  # before any weight moves
        before = (layer(x, mask) - target)[read].square().mean()
        if layer.kind != "dot_product":
            _derive_layer(layer, x, mask)
            # What the heads miss on average is a bias.
            layer.out_lin.bias += (target - layer(x, mask))[read].mean(dim=0)
        after = (layer(x, mask) - target)[read].square().mean()
        fits.append(LayerFit(float(before), float(after), float(target[read].square().mean())))
        x = block.finish(x, target)
    return fits


def _softmax_heads(layer: SelfAttention, x: Tensor, mask: Tensor) -> Tensor:
    """The teacher's heads on `x`, `[B, H, n, d_v]`; an inhibitor's queries hold its gamma."""
    pairs = layer.mask(mask, x.shape[1])
    gamma = layer.gamma[:, :, None] if layer.kind == "dot_product" else 1.0
    return attention_functions.dot_product(*layer.project(x), pairs, gamma=gamma, shift=0.0)


class _Choice(NamedTuple):
    """One point of the grid, or the best ones: each `[H]`."""

    gamma: Tensor
    shift: Tensor
    eta: Tensor
    key_share: Tensor
    value_offset: Tensor


def _derive_layer(layer: SelfAttention, x: Tensor, mask: Tensor) -> None:
    read = mask.bool()
    values = layer.v_lin(x[read]).mean(dim=0)
    layer.v_lin.bias -= values
    layer.out_lin.bias += layer.out_lin.weight @ values
    way = (layer.q_lin(x[read]) - layer.k_lin(x[read])).mean(dim=0)  # [H d]
    best = _search(layer, x, mask, way.unflatten(0, (layer.shape.n_heads, -1)))
    layer.gamma.copy_(best.gamma[:, None])
    layer.shift.copy_(best.shift[:, None])
    layer.k_lin.bias += way * best.key_share.repeat_interleave(layer.shape.key_head_dim)
    width = layer.shape.value_head_dim
    if layer.kind == "inhibitor_signed":
        layer.eta.copy_(best.eta[:, None])
    else:
        layer.v_lin.bias += best.value_offset.repeat_interleave(width)
        layer.out_lin.weight *= best.eta.repeat_interleave(width)


def _search(layer: SelfAttention, x: Tensor, mask: Tensor, way: Tensor) -> _Choice:
    """Return each head's best point of the grid; way: `[H, d]`, from mean key to mean query."""
    read, pairs = mask.bool(), layer.mask(mask, x.shape[1])
    target = _centred(_softmax_heads(layer, x, mask), read)  # [H, tokens, d_v]
    q, k, v = layer.project(x)
    deviation = _token_rows(v, read).std(dim=(1, 2))  # [H]
    signed = layer.kind == "inhibitor_signed"
    function = ATTENTION[layer.kind]
    more = {"eta": 1.0} if signed else {}
    least = torch.full_like(deviation, torch.inf)
    best = torch.zeros(len(_Choice._fields), len(deviation), device=x.device)
    for share, multiple in itertools.product(KEY_SHARES, (0.0,) if signed else VALUE_OFFSETS):
        moved = k + share * way[:, None, :]
        offset = multiple * deviation
        lifted = v + offset[:, None, None]
        real = pairs & read[:, None, :, None]  # padding is no query to take quantiles of
        for gamma, shift in _thresholds(q, moved, _token_rows(lifted, read), real):
            scalars = (gamma[:, None, None], shift[:, None, None])
            output = _centred(function(q, moved, lifted, pairs, *scalars, **more), read)
            energy = output.square().sum(dim=(1, 2)).clamp(min=1e-12)
            eta = (output * target).sum(dim=(1, 2)) / energy
            error = (target - eta[:, None, None] * output).square().sum(dim=(1, 2))
            choice = _Choice(gamma, shift, eta, torch.full_like(eta, share), offset)
            better = error < least
            least = torch.where(better, error, least)
            best = torch.where(better, torch.stack(choice), best)
    return _Choice(*best)


def _thresholds(
    q: Tensor, k: Tensor, values: Tensor, pairs: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield gamma and shift `[H]` of each point of the grid."""
    distance = attention_functions.inhibition(q, k, 1.0, 0.0).transpose(0, 1)  # [H, B, n, n]
    distance = distance[:, pairs[:, 0]]  # [H, pairs]
    reach = torch.quantile(_every_few(values.abs().flatten(1)), 0.99, dim=1)
    at = torch.tensor([*READ_IN_FULL, *NOT_READ], device=q.device)
    quantiles = torch.quantile(_every_few(distance), at, dim=1)
    for near, far in itertools.product(range(len(READ_IN_FULL)), range(len(READ_IN_FULL), len(at))):
        if at[near] < at[far]:
            gamma = reach / (quantiles[far] - quantiles[near]).clamp(min=1e-6)
            yield gamma, gamma * quantiles[near]


def _every_few(x: Tensor) -> Tensor:
    """Of `[H, n]`, as much as a quantile needs; torch refuses one of too many."""
    return x[:, :: 1 + x.shape[1] // MAX_SAMPLES]


def _token_rows(heads: Tensor, read: Tensor) -> Tensor:
    """`[B, H, n, d]` to `[H, tokens, d]`, padding left out."""
    return heads.transpose(0, 1)[:, read]


def _centred(heads: Tensor, read: Tensor) -> Tensor:
    tokens = _token_rows(heads, read)
    return tokens - tokens.mean(dim=1, keepdim=True)
