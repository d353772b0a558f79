"""Static norms in a trained student: LayerNorm where its statistics are constant, else near."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.model.blocks import StaticNorm
from fhe_inhibitor.model.configuration import ATTENTION_KINDS
from fhe_inhibitor.model.from_distilbert import from_distilbert
from fhe_inhibitor.model.modeling import InhibiDistilBertForSequenceClassification
from fhe_inhibitor.training.derivation import derive
from fhe_inhibitor.training.static_norm import fit_static, make_static
from tests.tiny_teacher import tiny_teacher

torch.set_num_threads(1)

GENERATOR = torch.Generator().manual_seed(0)
IDS = torch.randint(5, 14, (24, 7), generator=GENERATOR)
# Rows of different lengths: what is padding must not be fitted on.
ROWS = [row[: 3 + index % 5] for index, row in enumerate(IDS.tolist())]


@pytest.fixture(params=ATTENTION_KINDS)
def student(request: pytest.FixtureRequest) -> Any:
    student = from_distilbert(tiny_teacher(initializer_range=0.1).model, request.param)
    derive(student, ROWS)
    return student


def test_where_statistics_are_constant_it_is_layer_norm() -> None:
    """Tokens that permute the same values have one mean and one deviation."""
    x = torch.stack([torch.randperm(16, generator=GENERATOR).float() for _ in range(50)])
    norm = nn.LayerNorm(16)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    with torch.no_grad():
        torch.testing.assert_close(fit_static(x, norm(x))(x), norm(x), atol=1e-4, rtol=1e-4)


def test_it_is_the_nearest_affine() -> None:
    x = torch.randn(200, 8, generator=GENERATOR) * torch.rand(200, 1, generator=GENERATOR)
    with torch.no_grad():
        y = nn.LayerNorm(8)(x)
        norm = fit_static(x, y)
        least = (norm(x) - y).square().mean()
        for weight in (norm.weight, norm.bias):
            for change in (0.01, -0.01):
                weight += change
                assert (norm(x) - y).square().mean() > least
                weight -= change


def test_a_constant_channel_keeps_its_value() -> None:
    x = torch.randn(20, 4, generator=GENERATOR)
    x[:, 1] = 3
    y = x.clone()
    with torch.no_grad():
        torch.testing.assert_close(fit_static(x, y)(x), y)


def test_every_layer_is_static_and_embeddings_stay(student: Any) -> None:
    wanted = student(IDS).logits
    model = copy.deepcopy(student)
    make_static(model, ROWS)
    norms = [n for n, m in model.named_modules() if isinstance(m, nn.LayerNorm)]
    assert norms == ["distilbert.embeddings.LayerNorm"]
    assert sum(isinstance(m, StaticNorm) for m in model.modules()) == 4
    assert (model(IDS).logits - wanted).square().mean() < 0.3 * wanted.var()
    with pytest.raises(InputError, match="static already"):
        make_static(model, ROWS)


def test_what_is_padding_does_not_count(student: Any) -> None:
    rows = [row[:3] for row in ROWS]
    alone, padded = copy.deepcopy(student), copy.deepcopy(student)
    make_static(alone, rows)
    padded.config.pad_token_id = 7
    make_static(padded, [*rows, rows[0] * 4])
    make_static(student, [*rows, rows[0] * 4])
    for name, weight in padded.state_dict().items():
        torch.testing.assert_close(weight, student.state_dict()[name])
    assert not torch.equal(alone(IDS).logits, student(IDS).logits)


def test_a_saved_student_computes_the_same(student: Any, tmp_path: Path) -> None:
    make_static(student, ROWS)
    student.save_pretrained(tmp_path)
    loaded = InhibiDistilBertForSequenceClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(IDS).logits, student(IDS).logits)
