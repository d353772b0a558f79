"""The functions of quantized training: compiled ones give what torch's operations do."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fhe_inhibitor.model.configuration import QuantizationConfig
from fhe_inhibitor.model.quantized import functions, operations
from fhe_inhibitor.model.quantized.functions import (
    Bounds,
    distances,
    inhibit,
    integer_rows,
    read_table,
    row_scales,
)
from fhe_inhibitor.model.quantized.operations import readable, round_ste
from fhe_inhibitor.model.quantized.steps import Step, TableLinear, round_to_step

torch.set_num_threads(1)  # tensors here are too small to share

seeds = st.integers(0, 2**31)


@pytest.fixture(params=["kernels", "operations"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the processor, and as on a GPU."""
    if request.param == "operations":
        monkeypatch.setattr(functions, "_has_kernels", lambda x: False)


def gradients(out: Tensor, *inputs: Tensor) -> list[Tensor]:
    """Return those of a sum in which every output counts differently."""
    weight = torch.linspace(-1, 1, out.numel()).reshape(out.shape)
    return list(torch.autograd.grad((out * weight).sum(), inputs, retain_graph=True))


def assert_same(ours: Tensor, wanted: Tensor, *inputs: Tensor) -> None:
    """Outputs are integers, and equal; gradients are sums in another order."""
    assert torch.equal(ours, wanted)
    for own, reference in zip(gradients(ours, *inputs), gradients(wanted, *inputs), strict=True):
        torch.testing.assert_close(own, reference, atol=1e-4, rtol=1e-4)


def linear(residual: bool, fan_in: int) -> tuple[TableLinear, list[Tensor]]:
    """A linear layer whose every parameter learns, and those parameters."""
    step, output = Step.signed(8, 4), Step.unsigned(6, 3, has_zero_point=True)
    for parameter, values in ((step.log_size, torch.rand(8)), (output.log_size, torch.rand(6))):
        parameter.data = values
    weight = torch.randn(6, 8, requires_grad=True)
    bias = torch.randn(6, requires_grad=True)
    residual_step = Step.signed(6, 4) if residual else None
    bits = QuantizationConfig(weight_bits=4, weight_norm=9.0, table_bits=5, fan_in=fan_in)
    layer = TableLinear(weight, bias, step, torch.nn.functional.gelu, output, bits, residual_step)
    learned = [weight, bias, step.log_size, output.log_size, output.zero_point]
    return layer, learned + ([residual_step.log_size] if residual_step else [])


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("fan_in", [0, 3])
@pytest.mark.parametrize("noise_std", [0.0, 0.1])
def test_a_table_gives_what_its_function_does(
    way: None, residual: bool, fan_in: int, noise_std: float
) -> None:
    torch.manual_seed(0)
    layer, learned = linear(residual, fan_in)
    x = torch.randint(-8, 8, (50, 3, 8)).float().requires_grad_()
    r = torch.randint(-8, 8, (50, 3, 6)).float().requires_grad_() if residual else None
    inputs = [x, *learned] + ([r] if residual else [])
    torch.manual_seed(1)
    ours = layer(x, r, noise_std)
    layer.calibrating = True  # nothing here fits its step: the function itself
    torch.manual_seed(1)
    assert_same(ours, layer(x, r, noise_std), *inputs)
    assert ours.unique().numel() > 4


def test_a_table_is_not_read_beyond_its_ends() -> None:
    table = torch.arange(8.0).reshape(4, 2)
    far = torch.tensor([[-9.0, 1e9], [torch.nan, 3.0]])
    out = read_table(far, table, torch.zeros(4, 2), 0, 0.0)
    assert out[0].tolist() == [0.0, 7.0] and out[1, 1] == 7.0 and out[1, 0] in table[:, 0]
    out = operations.read_table(far, table, torch.zeros(4, 2), 0, torch.empty(0, 0))
    assert out[0].tolist() == [0.0, 7.0] and out[1, 1] == 7.0 and out[1, 0].isnan()


@settings(deadline=None)
@given(seeds, st.integers(1, 40), st.booleans(), st.data())
def test_rows_keep_their_largest_and_every_bound(
    seed: int, n_inputs: int, keep_last: bool, data: st.DataObject
) -> None:
    n_kept = data.draw(st.integers(1 + keep_last, max(n_inputs, 1 + keep_last)))
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(5, n_inputs, generator=generator)
    rows[0] = 0
    rows[1] *= 1e-6
    rows.requires_grad_()
    span, bounds = torch.full((n_inputs,), 15.0), Bounds(15.0, 11.0, 31.0 * 64)
    integers, scale = integer_rows(rows, span, bounds, n_kept, keep_last)

    magnitude = rows.detach().abs()
    if keep_last:
        magnitude[:, -1] = torch.inf
    if n_kept < n_inputs:
        kept = rows * (magnitude >= magnitude.topk(n_kept, dim=1).values[:, -1:])
    else:
        kept = rows * 1
    assert torch.equal(scale, row_scales(kept, span, bounds))
    assert_same(integers, round_ste(kept / scale[:, None]), rows)
    terms = torch.ones_like(span)
    limits = ((*bounds, functions.RANGE_SLACK), n_kept - keep_last, int(keep_last))
    fits = operations.fit_rows(rows.detach(), span, terms, *limits)
    torch.testing.assert_close(fits[:, 0], scale)
    fits[:, 0] = scale  # their last bits may differ, and what they are rounded to
    assert_same(operations.round_rows(rows, fits, int(keep_last)), integers, rows)
    absolute = integers.detach().abs()
    assert absolute.max() <= bounds.largest and absolute.norm(dim=1).max() <= bounds.norm
    assert (absolute @ span).max() <= bounds.reach
    assert (absolute > 0).sum(dim=1).max() <= n_kept


@pytest.mark.parametrize("window", [0, 2])
@pytest.mark.parametrize("n_queries", [1, 7])
@pytest.mark.parametrize("signed", [False, True])
def test_attention_is_that_of_torch(way: None, window: int, n_queries: int, signed: bool) -> None:
    torch.manual_seed(0)
    q = torch.randint(0, 4, (3, n_queries, 5)).float().requires_grad_()
    k = torch.randint(0, 4, (3, 7, 5)).float().requires_grad_()
    v = torch.randint(-4 * signed, 8, (3, 7, 6)).float().requires_grad_()
    mask = torch.rand(3, 7) < 0.7
    read = readable(mask, n_queries, window)
    there = readable(torch.ones(3, 7, dtype=torch.bool), n_queries, window)

    keys = readable(k, n_queries, window)
    wanted = (q[:, :, None] - keys).abs().sum(dim=-1) * there
    assert_same(distances(q, k, window), wanted, q, k)

    z = torch.randint(0, 5, read.shape).float().masked_fill(~read, torch.inf).requires_grad_()
    values = readable(v, n_queries, window)
    kept = (values - z[..., None]).clamp(min=0)
    if signed:
        kept = kept - (-values - z[..., None]).clamp(min=0)
    assert_same(inhibit(v, z, window, signed), kept.sum(dim=2), v, z)


def test_noise_is_that_of_rounding(way: None) -> None:
    x = torch.randint(0, 31 << 4, (200, 9)).float()
    table = torch.arange(32.0)[:, None].expand(-1, 9).contiguous()
    torch.manual_seed(3)
    entries = read_table(x, table, torch.zeros_like(table), 4, 0.1)
    torch.manual_seed(3)
    assert torch.equal(16 * entries, round_to_step(x, 4, 0.1))
