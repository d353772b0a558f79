"""Fake quantization of students of full size: few values, close to float, with gradients."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.model.configuration import ATTENTION_KINDS, InhibiDistilBertConfig
from fhe_inhibitor.model.fake_quantization import Grid, on_grid, quantize
from fhe_inhibitor.model.from_distilbert import from_distilbert
from fhe_inhibitor.model.modeling import InhibiDistilBertForSequenceClassification
from fhe_inhibitor.onnx.float_graph import float_graph
from fhe_inhibitor.training.derivation import derive
from fhe_inhibitor.training.phases import choose_trained
from tests.tiny_teacher import tiny_teacher

torch.set_num_threads(1)

IDS = torch.randint(5, 14, (24, 7), generator=torch.Generator().manual_seed(0))
ROWS = IDS.tolist()


@pytest.fixture(scope="module", params=ATTENTION_KINDS)
def student(request: pytest.FixtureRequest) -> Any:
    """A float student of a random teacher, whose heads read something."""
    student = from_distilbert(tiny_teacher(initializer_range=0.3).model, request.param)
    derive(student, ROWS)
    return student


def quantized(student: Any, n_bits: int) -> Any:
    model = copy.deepcopy(student)
    quantize(model, n_bits, ROWS)
    return model


def test_eight_bits_are_close_and_four_are_further(student: Any) -> None:
    logits = student(IDS).logits
    errors = {n: (quantized(student, n)(IDS).logits - logits).square().mean() for n in (8, 6, 4)}
    assert errors[8] < errors[6] < errors[4]
    assert errors[8] < 2e-2 * logits.var()


@contextmanager
def outputs(modules: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """What each module returns the last time it is called."""
    seen: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
        for name, module in modules.items()
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("n_bits", [2, 4])
def test_weights_and_activations_have_no_more_values_than_bits_allow(
    student: Any, n_bits: int
) -> None:
    model = quantized(student, n_bits)
    linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    assert len(linears) == 2 * 6 + 2
    tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
    for weight in [*(linear.weight for linear in linears.values()), *tables]:
        assert max(len(row.unique()) for row in weight) <= 2**n_bits - 1
    read: dict[str, Tensor] = {}
    for name, linear in linears.items():
        linear.register_forward_hook(lambda _, x, out, name=name: read.update({name: x[0]}))
    last = [f"{name}_lin" for name in "qkv"]
    with outputs({n: m for n, m in linears.items() if n.rsplit(".")[-1] in last}) as said:
        model(IDS)
    assert len(read) == len(linears) and len(said) == 2 * 3
    for name, x in [*read.items(), *said.items()]:
        assert 1 < len(x.unique()) <= 2**n_bits, name


def test_a_distance_is_between_integers_of_one_step(student: Any) -> None:
    attention = quantized(student, 4).distilbert.transformer.layer[0].attention
    is_distance = attention.kind != "dot_product"
    assert hasattr(attention, "pair_grid") == is_distance
    assert hasattr(attention, "query_grid") == hasattr(attention, "key_grid") != is_distance


def test_gradients_reach_the_weights_and_every_step(student: Any) -> None:
    model = quantized(student, 4)
    choose_trained(model, learn_thresholds=True)
    model(IDS, output_hidden_states=True).logits.square().sum().backward()
    for name, weight in model.named_parameters():
        if name.endswith(("original", "change")):
            assert weight.grad is not None and weight.grad.abs().sum() > 0, name


def test_sizes_learn_what_rounds_best() -> None:
    """From a size that is a third too large, along LSQ's gradient."""
    x = torch.randn(4096, generator=torch.Generator().manual_seed(1))
    grid = Grid.of_tensor(4)
    grid.sample = [x]
    grid.fit_sample()
    best = (grid(x) - x).square().mean().item()
    grid.fitted *= 1.3
    optimizer = torch.optim.Adam(grid.parameters(), lr=1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        (grid(x) - x).square().mean().backward()
        optimizer.step()
    assert (grid(x) - x).square().mean().item() < 1.1 * best


def test_gradients_are_lsqs() -> None:
    """Inside the range 1 for x and round(x / s) - x / s for s, beyond it 0 and the code."""
    x = torch.tensor([0.4, 1.4, 9.0, -9.0], requires_grad=True)
    size = torch.tensor([1.0], requires_grad=True)
    on_grid(x, size, torch.tensor([2.0]), 0, 7).backward(torch.tensor([1.0, 1.0, 0.0, 0.0]))
    assert x.grad.tolist() == [1, 1, 0, 0]
    assert size.grad.item() == pytest.approx(-0.8)
    x.grad = size.grad = None
    on_grid(x, size, torch.tensor([2.0]), 0, 7)[2:].sum().backward()
    assert x.grad.tolist() == [0, 0, 0, 0] and size.grad.item() == 5 - 2


@pytest.mark.parametrize(("low", "high"), [(0.0, 3.0), (-1.0, 1.0), (-0.2, 5.0), (0.0, 0.0)])
def test_ranges_follow_the_sample(low: float, high: float) -> None:
    """Evenly spread values lose nearly nothing to clamping; 0 is always on the grid."""
    x = torch.linspace(low, high, 1000)
    grid = Grid.of_tensor(6)
    grid.sample = []
    assert torch.equal(grid(x), x)  # unchanged while they are sampled
    grid.fit_sample()
    assert grid.size.item() == pytest.approx(max((high - low) / 63, 1e-8 / 63), rel=0.05)
    assert grid(torch.zeros(1)).item() == 0
    assert (grid(x) - x).abs().max() <= 0.6 * grid.size


def test_an_outlier_does_not_stretch_the_grid() -> None:
    x = torch.cat(
        [torch.randn(20_000, generator=torch.Generator().manual_seed(2)), 40 * torch.ones(1)]
    )
    grid = Grid.of_tensor(4)
    grid.sample = [x]
    grid.fit_sample()
    assert grid.size * 15 < 15


def test_a_saved_student_computes_the_same(student: Any, tmp_path: Path) -> None:
    model = quantized(student, 4)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("change"):
                weight += 1e-2
    model.save_pretrained(tmp_path)
    loaded = InhibiDistilBertForSequenceClassification.from_pretrained(tmp_path).eval()
    assert loaded.config.fake_quantization_bits == 4
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)
    assert not torch.equal(loaded(IDS).logits, quantized(student, 4)(IDS).logits)
    again = quantized(student, 4)
    again.load_state_dict(model.state_dict())  # as a resumed run does
    assert torch.equal(again(IDS).logits, model(IDS).logits)


def test_what_cannot_be_quantized_is_refused(student: Any) -> None:
    model = quantized(student, 8)
    with pytest.raises(InputError, match="quantized already"):
        quantize(model, 4, ROWS)
    with pytest.raises(InputError, match="fake-quantized student can't be exported"):
        float_graph(model)
    with pytest.raises(InputError, match="fake_quantization_bits is 9"):
        InhibiDistilBertConfig(fake_quantization_bits=9)
    with pytest.raises(InputError, match="embeddings are integers"):
        InhibiDistilBertConfig(
            normalization="static", quantization={"weight_bits": 4}, embedding_layer_norm=True
        )
    constant = InhibiDistilBertConfig(
        vocab_size=14, dim=8, n_layers=1, n_heads=2, hidden_dim=8, classifier_query="constant",
        fake_quantization_bits=8,
    )  # fmt: skip
    with pytest.raises(InputError, match="ends with a constant query"):
        InhibiDistilBertForSequenceClassification(constant)
