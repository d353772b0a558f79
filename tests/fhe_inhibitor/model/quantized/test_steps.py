"""Quantization: small bounded functions, and a conversion that is exact for every shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.inhibitor import InhibitorParameters
from circuits.intervals import full, interval_lookup
from circuits.linear import linear as linear_circuit
from circuits.lookups import (
    AntiperiodicTable,
    SaturatingTable,
    Table,
    exact_lookup,
    noisy_lookup,
)
from circuits.network import run
from circuits.stages import Head
from compile.verifier import verify
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.model.configuration import (
    ATTENTION_KINDS,
    InhibiDistilBertConfig,
    QuantizationConfig,
)
from fhe_inhibitor.model.modeling import InhibiDistilBertForSequenceClassification
from fhe_inhibitor.model.quantized.attention import SaturatingSums
from fhe_inhibitor.model.quantized.functions import Bounds, row_scales
from fhe_inhibitor.model.quantized.network import QuantizedNetwork, calibrate
from fhe_inhibitor.model.quantized.steps import (
    Step,
    TableLinear,
    clamp_leaky,
    round_ste,
    round_to_step,
)
from tests.networks import n_beyond

torch.set_num_threads(1)  # tensors here are too small to share

N = 10
SATURATING = {
    "sum_reach": 1.5,
    "table_bits": 4,
    "key_bits": 3,
    "value_bits": 3,
    "weight_bits": 5,
    "fan_in": 3,  # a sum of few inputs often reaches far
}


@given(st.floats(-1e3, 1e3, width=32))
def test_rounding_is_to_the_nearest_integer_with_gradient_one(value: float) -> None:
    x = torch.tensor(value, requires_grad=True)
    rounded = round_ste(x)
    rounded.backward()
    assert rounded.item() == pytest.approx(np.floor(np.float32(value) + np.float32(0.5)))
    assert x.grad.item() == 1.0


@given(st.integers(2, 8), st.integers(0, 2**31))
def test_steps_stay_in_their_bits_and_err_by_half_a_step(n_bits: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(64, 3, generator=generator)
    for make in (Step.signed, Step.symmetric, Step.unsigned, Step.centred):
        step = make(3, n_bits)
        step.calibrate(x)
        codes = step(x).detach()
        assert codes.min() >= step.low and codes.max() <= step.high
        back = (codes - step.centre) * step.size
        inside = (codes > step.low) & (codes < step.high)
        assert ((back - x).abs() <= 0.5 * step.size + 1e-5)[inside].all()


def test_a_clamped_value_finds_its_way_back() -> None:
    x = torch.tensor([-2.0, 0.5, 9.0], requires_grad=True)
    clamp_leaky(x, 0, 7).sum().backward()
    assert x.grad.tolist() == pytest.approx([0.05, 1.0, 0.05])


def test_rounding_noise_moves_at_most_one_step() -> None:
    torch.manual_seed(0)
    x = torch.randint(0, 4000, (20_000,)).float()
    exact, noisy = round_to_step(x, 7, 0.0), round_to_step(x, 7, 0.1)
    assert set((noisy - exact).div(128).unique().tolist()) == {-1.0, 0.0, 1.0}
    # A uniform value crosses a boundary with probability E|noise| = 0.1 sqrt(2 / pi).
    assert (noisy != exact).float().mean().item() == pytest.approx(0.08, abs=0.01)


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 8), st.integers(1, 40))
def test_integer_weights_keep_every_bound(seed: int, weight_bits: int, fan_in: int) -> None:
    rows = torch.randn(5, fan_in, generator=torch.Generator().manual_seed(seed))
    span = torch.full((fan_in,), 15.0)
    limit, norm = 31.0 * 64, 11.0
    largest = (1 << (weight_bits - 1)) - 1
    scale = row_scales(rows, span, Bounds(largest, norm, limit))
    integers = (rows / scale[:, None] + 0.5).floor()
    assert integers.abs().max() <= largest
    assert (integers.abs() @ span).max() <= limit
    assert integers.norm(dim=1).max() <= norm


def test_table_linear_is_a_linear_layer_up_to_its_rounding() -> None:
    torch.manual_seed(0)
    weight, bias, size = torch.randn(6, 8), torch.randn(6), torch.rand(8) + 0.5
    bits = QuantizationConfig(weight_bits=8, weight_norm=1e6, table_bits=8)
    step = Step.signed(8, 4)
    step.log_size.data = size.log()
    fine = Step(1, -(10**6), 10**6)
    fine.log_size.data.fill_(-9.0)
    linear = TableLinear(weight, bias, step, lambda real: real, fine, bits)
    x = torch.randint(-8, 8, (100, 8)).float()
    expected = (x * size) @ weight.T + bias
    assert (fine.reals(linear(x)) - expected).abs().max() < 0.02 * expected.abs().max()


def make(
    kind: str, query: str, hidden_dim: int, bits: dict[str, Any], seed: int = 0, **changes: Any
):
    """A model with random weights, calibrated on random texts, and those texts."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = {
        "vocab_size": 200,
        "max_position_embeddings": N,
        "dim": 12,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": hidden_dim,
        "key_head_dim": [3, 4],
        "value_head_dim": [4, 6],
        "attention_kind": kind,
        "attention_window": [2, 0],
        "threshold": "head_offset",
        "classifier_query": query,
        "normalization": "static",
        "n_tokens": N,
        "initializer_range": 0.3,
        "quantization": bits,
    }
    config = InhibiDistilBertConfig(**shape | changes)
    model = InhibiDistilBertForSequenceClassification(config).eval()
    ids = torch.randint(1, 200, (24, config.n_tokens))
    mask = torch.ones_like(ids)
    mask[:12, 6:] = 0
    calibrate(model, ids, mask)
    return model, ids, mask


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
@pytest.mark.parametrize("query", ["cls", "constant"])
@pytest.mark.parametrize("hidden_dim", [0, 10])
@pytest.mark.parametrize(("attention_bits", "zero_points"), [(2, False), (3, False), (3, True)])
def test_conversion_is_exact(
    kind: str, query: str, hidden_dim: int, attention_bits: int, zero_points: bool
) -> None:
    bits = {
        "key_bits": attention_bits,
        "value_bits": [attention_bits, 4],
        "keys_per_sum": [0, 3 * (attention_bits - 2)],
        "weight_bits": 5,
        "table_bits": 6,
        "zero_points": zero_points,
    }
    model, ids, mask = make(kind, query, hidden_dim, bits)
    network, scale = QuantizedNetwork(model).to_circuit()
    x = QuantizedNetwork(model).embed(ids).detach().numpy().astype(np.int64)
    padding = 1 - mask.numpy()
    integers = np.stack([run(network, *text) for text in zip(x, padding, strict=True)])
    logits = model(ids, mask).logits.detach().numpy()
    np.testing.assert_allclose(integers * scale, logits, atol=1e-4)
    assert len(np.unique(integers)) > 2


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
@pytest.mark.parametrize("query", ["cls", "constant"])
@pytest.mark.parametrize(("hidden_dim", "zero_points"), [(0, False), (10, False), (10, True)])
@pytest.mark.parametrize("key_bits", [2, 3])
def test_conversion_is_exact_where_tables_saturate(
    kind: str, query: str, hidden_dim: int, zero_points: bool, key_bits: int
) -> None:
    """Sums that lie beyond a table's entries, which training clamps, read the same."""
    bits = {
        **SATURATING,
        "key_bits": key_bits,
        "keys_per_sum": [0, 3],
        "zero_points": zero_points,
    }
    model, ids, mask = make(kind, query, hidden_dim, bits)
    network, scale = QuantizedNetwork(model).to_circuit()
    x = QuantizedNetwork(model).embed(ids).detach().numpy().astype(np.int64)
    beyond = 0

    def counting_lookup(accumulator: np.ndarray, table: Table) -> np.ndarray:
        nonlocal beyond
        beyond += n_beyond(accumulator, table)
        return exact_lookup(accumulator, table)

    integers = np.stack(
        [run(network, *text, counting_lookup) for text in zip(x, 1 - mask.numpy(), strict=True)]
    )
    logits = model(ids, mask).logits.detach().numpy()
    np.testing.assert_allclose(integers * scale, logits, atol=1e-4)
    assert len(np.unique(integers)) > 2 and beyond > 0


@pytest.mark.parametrize("bits", [{"feature_bits": 4}, SATURATING])
def test_a_head_with_a_tanh_is_converted_exactly(bits: dict[str, Any]) -> None:
    """Its codes are of both signs, in the table that a ReLU would have."""
    model, ids, mask = make("inhibitor", "cls", 0, bits, head_activation="tanh")
    network, scale = QuantizedNetwork(model).to_circuit()
    table = network.classifier.pre_classifier.table
    assert table.range[0] == -table.range[1] < 0
    x = QuantizedNetwork(model).embed(ids).detach().numpy().astype(np.int64)
    rows = [run(network, *text) for text in zip(x, 1 - mask.numpy(), strict=True)]
    logits = model(ids, mask).logits.detach().numpy()
    np.testing.assert_allclose(np.stack(rows) * scale, logits, atol=1e-4)
    assert len(np.unique(rows)) > 2 and np.abs(rows).max() < 64
    model.quantized = False
    features = model.pre_classifier(model.distilbert(ids, mask).last_hidden_state[:, 0])
    torch.testing.assert_close(model(ids, mask).logits, model.classifier(features.tanh()))


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
@pytest.mark.parametrize("query", ["cls", "constant"])
def test_sums_that_saturate_are_proved_to_fit_narrow_tables(kind: str, query: str) -> None:
    model, _, _ = make(kind, query, 10, SATURATING)
    network, _ = QuantizedNetwork(model).to_circuit()
    products = 5  # bits: two 3-bit values and their signs
    for stage in verify(network, N, max_bits=products if kind == "dot_product" else 4):
        assert kind == "dot_product" or stage.widest == 4
    for layer in network.layers:
        for head in layer.heads:
            _check_kinds(head, layer.constant_query, kind)
    rounded = [layer.attention_output.table for layer in network.layers]
    rounded += [network.classifier.pre_classifier.table]
    assert all(isinstance(table, SaturatingTable) for table in rounded)
    # As wide a domain as 24 entries have, of which there are 16.
    assert all((t.domain[1] - t.domain[0] + 1) >> t.lsbs >= 23 for t in rounded)


def _check_kinds(head: Head, constant_query: bool, kind: str) -> None:
    """Check which tables of one head are antiperiodic, and how wide they are."""
    assert isinstance(head.value.table, SaturatingTable)
    # A distance to a constant query rises on both sides, so that its table isn't -c to c.
    flat = kind == "dot_product" or not constant_query
    assert isinstance(head.key.table, SaturatingTable) == flat
    if isinstance(head.attention, InhibitorParameters):
        for table in (head.attention.distance, head.attention.threshold):
            assert isinstance(table, AntiperiodicTable) and table.bit_width <= 3


def falling_model(kind: str, bits: dict[str, Any]):
    """A calibrated model in which every other channel's static normalisation is negative."""
    model, ids, mask = make(kind, "cls", 10, bits)
    with torch.no_grad():
        for block in model.distilbert.transformer.layer:
            for norm in (block.sa_layer_norm, block.output_layer_norm):
                norm.weight[::2] *= -1
    calibrate(model, ids, mask)
    return model, ids, mask


def test_a_falling_function_saturates_with_the_other_sign() -> None:
    model, ids, mask = falling_model("inhibitor", SATURATING)
    network, scale = QuantizedNetwork(model).to_circuit()
    for layer in network.layers:
        assert layer.output is not None
        for table in (layer.attention_output.table, layer.output.table):
            assert table.values[:, 0].tolist() == [7, -7] * 6
            assert table.values[:, -1].tolist() == [-7, 7] * 6
    assert verify(network, N, max_bits=4)
    x = QuantizedNetwork(model).embed(ids).detach().numpy().astype(np.int64)
    integers = np.stack([run(network, *text) for text in zip(x, 1 - mask.numpy(), strict=True)])
    np.testing.assert_allclose(integers * scale, model(ids, mask).logits.detach(), atol=1e-4)


def saturating_layer(slope: float, sum_reach: float = 1.5) -> TableLinear:
    """Sixteen inputs of -7 ... 7 added up, of which three or four reach an output's ends."""
    step, output = Step.symmetric(1, 4), Step.symmetric(2, 4)
    bits = QuantizationConfig(table_bits=4, weight_bits=4, sum_reach=sum_reach)
    output.log_size.data.fill_(np.log(4.0))
    weight = torch.ones(2, 16, requires_grad=True)
    bias = torch.zeros(2, requires_grad=True)
    joined = Step.symmetric(16, 4)
    assert step.range == joined.range
    return TableLinear(weight, bias, joined, lambda real: slope * real, output, bits)


@pytest.mark.parametrize("slope", [1.0, -1.0])
def test_a_clamped_sum_finds_its_way_back(slope: float) -> None:
    """A flat end has a small gradient, of the sign that the function's slope has."""
    gradients = []
    for code in (-7.0, 0.0, 7.0):
        x = torch.full((1, 16), code, requires_grad=True)
        out = saturating_layer(slope)(x)
        assert code == 0 or (out == np.sign(slope * code) * 7).all()
        out.sum().backward()
        gradients.append(x.grad * slope)
    low, middle, high = gradients
    assert (low > 0).all() and (high > 0).all()
    assert (torch.maximum(low, high) < 0.1 * middle).all()


@pytest.mark.parametrize("sum_reach", [1.01, 1.25, 1.5, 1.75, 1.99])
def test_every_reach_has_a_table_that_reads_it_right(sum_reach: float) -> None:
    layer = saturating_layer(1.0, sum_reach)
    circuit = layer.to_circuit()
    x = torch.cat([torch.randint(-7, 8, (200, 16)), torch.full((1, 16), 7)]).float()
    x[:100] = x[:100].abs() * x[:100, :1].sign()
    wanted = layer(x).detach().numpy()
    assert np.array_equal(linear_circuit(x.long().numpy(), circuit, exact_lookup), wanted)
    assert set(np.unique(wanted)) >= {-7, 7} and circuit.table.bit_width == 4
    low, high = circuit.table.reach
    assert high - low + 1 >= max(18, int(16 * sum_reach))


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
@pytest.mark.parametrize("query", ["cls", "constant"])
@pytest.mark.parametrize(
    "bits",
    [{}, {"keys_per_sum": [0, 4]}, SATURATING, {**SATURATING, "keys_per_sum": [0, 4]}],
    ids=["plain", "partial", "saturating", "saturating partial"],
)
def test_no_input_and_no_noise_leaves_the_tables(
    kind: str, query: str, bits: dict[str, Any]
) -> None:
    model, _, _ = make(kind, query, 10, bits)
    network, _ = QuantizedNetwork(model).to_circuit()
    low, high = network.input_range
    bounds = run(network, full((N, 12), low, high), full((N,), 0, 1), interval_lookup)
    assert bounds.low.min() >= -64 and bounds.high.max() < 64
    rng = np.random.default_rng(0)
    for _ in range(20):
        x = rng.integers(low, high + 1, (N, 12))
        padding = (np.arange(N) >= rng.integers(1, N + 1)).astype(np.int64)
        noisy = run(network, x, padding, noisy_lookup(rng, 0.1))
        assert (bounds.low <= noisy).all() and (noisy <= bounds.high).all()


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_padding_changes_nothing_in_integers(kind: str) -> None:
    model, ids, _ = make(kind, "constant", 0, {"keys_per_sum": [0, 4]})
    network, _ = QuantizedNetwork(model).to_circuit()
    x = QuantizedNetwork(model).embed(ids[:1]).detach().numpy().astype(np.int64)[0]
    short = run(network, x[:6], np.zeros(6, np.int64), exact_lookup)
    padded = run(network, x, (np.arange(N) >= 6).astype(np.int64), exact_lookup)
    assert np.array_equal(short, padded)


def test_partial_sums_saturate_at_what_one_key_contributes() -> None:
    """Four keys of 0 ... 15 fit 5 bits in steps of 2, so one key counts 7 steps."""
    sums = SaturatingSums(keys=4, low=0, high=15, table_bits=5)
    assert (sums.lsbs, sums.range) == (1, (0, 7))
    x = torch.tensor([9.0, 0, 0, 0, 15, 15, 15, 15, 3]).reshape(1, 1, 9, 1)
    assert sums(x, 0.0).item() == 5 + 7 + 2
    signed = SaturatingSums(keys=2, low=-7, high=7, table_bits=5)
    assert (signed.lsbs, signed.range) == (0, (-7, 7))
    x = torch.tensor([-7.0, -7, 3, 1]).reshape(1, 1, 4, 1)
    assert signed(x, 0.0).item() == -7 + 4


def test_sums_in_which_one_key_counts_nothing_are_refused() -> None:
    """Before, every sum came out 0."""
    sums = SaturatingSums(keys=64, low=0, high=3, table_bits=5)
    with pytest.raises(InputError, match=r"64 keys of 0\.\.3 in 5 bits have steps of 8"):
        _ = sums.range


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["classifier.weight", "classifier.bias", "pre_classifier.weight"])
def test_weights_without_a_scale_are_refused(name: str, value: float) -> None:
    """Before, the search for a scale never ended, or NaN became 0."""
    model, _, _ = make("inhibitor", "cls", 10, {})
    with torch.no_grad():
        model.get_parameter(name).view(-1)[3 if name.endswith("t") else 1] = value
    with pytest.raises(InputError, match="infinite or NaN"):
        QuantizedNetwork(model).to_circuit()


@pytest.mark.parametrize("bits", [{}, SATURATING], ids=["plain", "saturating"])
def test_training_reaches_every_parameter(bits: dict[str, Any]) -> None:
    for kind in ATTENTION_KINDS:
        model, ids, mask = make(kind, "cls", 10, bits)
        model.train()
        model(ids, mask, labels=torch.randint(0, 2, (24,))).loss.backward()
        silent = [name for name, p in model.named_parameters() if p.grad is None]
        assert not silent, (kind, silent)


def test_labels_read_the_same_few_features() -> None:
    """Fewer leave each weight more of the logits' range."""
    model, ids, mask = make("inhibitor", "cls", 10, {"classifier_fan_in": 3})
    dense, _, _ = make("inhibitor", "cls", 10, {})
    weight = QuantizedNetwork(model).to_circuit()[0].classifier.weight
    assert 1 <= np.count_nonzero(weight.any(axis=1)) <= 3
    assert (
        np.abs(weight).max()
        > np.abs(QuantizedNetwork(dense).to_circuit()[0].classifier.weight).max()
    )
    states = model(ids, mask, output_hidden_states=True).hidden_states
    assert [len(state[0]) for state in states] == [ids.shape[1], ids.shape[1], 1]
    step = model.distilbert.transformer.layer[-1].output_step
    integers = (states[-1] / step.size).round()
    assert integers.min() >= step.low and integers.max() <= step.high


def test_a_zero_point_serves_a_channel_far_from_0() -> None:
    torch.manual_seed(0)
    x = torch.randn(500, 2) * torch.tensor([1.0, 0.1]) + torch.tensor([0.0, 5.0])
    errors = {}
    for has_zero_point in (False, True):
        step = Step.signed(2, 4, has_zero_point)
        step.calibrate(x)
        codes = step.integers(x)
        assert codes.min() >= -8 and codes.max() <= 7
        errors[has_zero_point] = (step.reals(codes) - x).square().mean(dim=0)
    assert errors[True][1] < 0.02 * errors[False][1]
    assert errors[True][0] < 1.3 * errors[False][0]


def test_a_classifier_without_any_weight_is_refused() -> None:
    """Sums of 64 features of 4 bits: no weight but 0 keeps them within 6 bits."""
    bits = {"feature_bits": 4, "logit_bits": 6}
    with pytest.raises(
        InputError, match="logits of 6 bits .* features of 4 bits.*classifier_fan_in"
    ):
        make("inhibitor", "cls", 0, bits, dim=64)
    make("inhibitor", "cls", 0, bits | {"classifier_fan_in": 2}, dim=64)


def test_integers_are_not_taken_of_a_model_on_another_device() -> None:
    model, _, _ = make("inhibitor", "cls", 0, {"weight_bits": 5})
    network = QuantizedNetwork(model.to("meta"))
    with pytest.raises(InputError, match=r'is on meta.*of the processor.*model.to\("cpu"\)'):
        network.to_circuit()
