"""The encoder of small experiments: padding changes nothing, mechanisms differ in nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fhe_inhibitor.model.encoder import Encoder

SHAPE = {"dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 8, "initializer_range": 0.3}


def encoder(kind: str, pools: bool = True) -> Encoder:
    torch.manual_seed(0)
    return Encoder(nn.Embedding(20, 8), 6, 3, kind, pools, **SHAPE).eval()


@pytest.mark.parametrize("kind", ["inhibitor", "inhibitor_signed", "dot_product"])
def test_padding_changes_nothing(kind: str) -> None:
    model, ids = encoder(kind), torch.tensor([[3, 4, 5]])
    padded = torch.tensor([[3, 4, 5, 9, 9]])
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    torch.testing.assert_close(model(padded, mask), model(ids))
    assert not torch.allclose(model(padded), model(ids))


def test_mechanisms_begin_with_the_same_weights() -> None:
    weights = [encoder(kind).state_dict() for kind in ("inhibitor", "dot_product")]
    differing = [k for k in weights[0] if not torch.equal(weights[0][k], weights[1][k])]
    assert {name.rsplit(".", 1)[-1] for name in differing} == {"shift"}


def test_the_head_reads_each_token_or_their_mean() -> None:
    ids = torch.tensor([[3, 4, 5, 6]])
    each, pooled = (encoder("inhibitor", pools)(ids) for pools in (False, True))
    torch.testing.assert_close(each.mean(dim=1), pooled)


def test_a_mask_of_its_own_is_where_the_input_is() -> None:
    """A tensor on "meta" has a shape and no values; one on the processor doesn't mix with it."""
    model, ids = encoder("dot_product").to("meta"), torch.ones(2, 4, dtype=torch.int64)
    states, mask = model.states(ids.to("meta"))
    assert mask.is_meta and states[-1].is_meta
