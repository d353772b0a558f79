"""Static normalisation in place of a trained student's LayerNorm: what can be compiled.

LayerNorm divides each token by its own deviation, which costs too much under encryption. Here an
affine map per channel, y = weight x + bias, replaces each LayerNorm of a layer, from the bottom up.
Weight and bias are fitted by least squares on some texts. The input of the fit comes from the
student whose lower norms are static already, its target from the float student. So each norm makes
up for a part of what those below it miss. The embeddings keep their LayerNorm: the client computes
it, in the clear.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.model.blocks import StaticNorm
from fhe_inhibitor.text.batches import pad


@torch.no_grad()
def make_static(model: Any, rows: Sequence[Sequence[int]]) -> None:
    """Replace each layer's LayerNorms in place, fitted on the token ids of some texts.

    The affines are parameters: they can learn. Raises InputError for a student without LayerNorm,
    and for one that pools positions.
    """
    if model.config.stride > 1:
        raise InputError(
            "the student pools positions, which the fit doesn't know: set pooling to 1, or train "
            'with normalization="static" from the start'
        )
    if model.config.normalization != "layer_norm":
        raise InputError("the student's normalisation is static already; name one with LayerNorm")
    model.eval()
    tokens, mask = (t.to(model.device) for t in pad(rows, model.config.pad_token_id))
    read = mask.bool()
    target = model.distilbert.embeddings(tokens)
    own = target
    for block in model.distilbert.transformer.layer:
        target = target + block.attention(target, mask)
        own = own + block.attention(own, mask)
        target = block.sa_layer_norm(target)
        block.sa_layer_norm = fit_static(own[read], target[read])
        own = block.sa_layer_norm(own)
        target = target + block.ffn(target)
        own = own + block.ffn(own)
        target = block.output_layer_norm(target)
        block.output_layer_norm = fit_static(own[read], target[read])
        own = block.output_layer_norm(own)
    model.config.normalization, model.config.embedding_layer_norm = "static", True


def fit_static(x: Tensor, y: Tensor) -> StaticNorm:
    """Return the affine per channel of x `[tokens, dim]` that is nearest to y."""
    norm = StaticNorm(x.shape[1]).to(x.device)
    mean_x, mean_y = x.mean(dim=0), y.mean(dim=0)
    covariance = ((x - mean_x) * (y - mean_y)).mean(dim=0)
    weight = covariance / x.var(dim=0, unbiased=False).clamp(min=1e-12)
    norm.weight = nn.Parameter(weight)
    norm.bias = nn.Parameter(mean_y - weight * mean_x)
    return norm
