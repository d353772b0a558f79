"""Pooling between layers: in floats, in training's integers and in the circuits' alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from circuits.linear import Linear
from circuits.network import run
from compile.verifier import verify
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.model.configuration import ATTENTION_KINDS, InhibiDistilBertConfig
from fhe_inhibitor.model.fake_quantization import quantize
from fhe_inhibitor.model.modeling import InhibiDistilBertForSequenceClassification
from fhe_inhibitor.model.quantized.network import QuantizedNetwork, centre_keys
from fhe_inhibitor.model.quantized.steps import PooledStep, Step
from fhe_inhibitor.model.untrained import untrained_network
from fhe_inhibitor.training.hyperparameters import Size
from fhe_inhibitor.training.static_norm import make_static
from tests.fhe_inhibitor.model.quantized.test_steps import SATURATING, make

torch.set_num_threads(1)  # tensors here are too small to share

POOLED: dict[str, Any] = {
    "n_layers": 3,
    "key_head_dim": [3, 3, 4],
    "value_head_dim": 4,
    "attention_window": [2, 1, 0],
    "pooling": [2, 3, 1],
    "n_tokens": 12,
    "buckets": [6, 12],
    "max_position_embeddings": 12,
}
BITS = {
    "plain": {"zero_points": True},
    "saturating": {**SATURATING, "keys_per_sum": [0, 0, 2]},
}


def encrypted(model: Any, ids: torch.Tensor, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what a client encrypts of one text `[m]` in a bucket of n: x and padding."""
    x = np.zeros((n, model.config.dim), np.int64)
    x[: len(ids)] = QuantizedNetwork(model).embed(ids[None]).detach().numpy()[0]
    return x, (np.arange(n) >= len(ids)).astype(np.int64)


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
@pytest.mark.parametrize("query", ["cls", "constant"])
@pytest.mark.parametrize("bits", BITS)
def test_a_pooled_network_is_converted_exactly(kind: str, query: str, bits: str) -> None:
    """Texts of many lengths, each in every bucket that it fits, with the very same logits."""
    model, ids, _ = make(kind, query, 10, BITS[bits], **POOLED)
    network, scale = QuantizedNetwork(model).to_circuit()
    assert (network.stride, network.lengths(12)) == (6, [12, 6, 2])
    seen = set()
    for n in (1, 4, 5, 6, 7, 12):
        text = ids[n, :n]
        integers = [
            run(network, *encrypted(model, text, bucket)).tolist()
            for bucket in (6, 12)
            if bucket >= n
        ]
        assert all(logits == integers[0] for logits in integers)
        logits = model(text[None]).logits.detach().numpy()[0]
        np.testing.assert_allclose(np.array(integers[0]) * scale, logits, atol=1e-4)
        seen.add(tuple(integers[0]))
    assert len(seen) > 2


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
@pytest.mark.parametrize("query", ["cls", "constant"])
@pytest.mark.parametrize("quantized", [False, True])
def test_padding_changes_nothing(kind: str, query: str, quantized: bool) -> None:
    model, ids, _ = make(kind, query, 10, {}, **POOLED)
    model.quantized = quantized
    for n in (1, 5, 6, 7):
        mask = (torch.arange(12) < n).long().expand(24, -1)
        short, padded = model(ids[:, :n]).logits, model(ids, mask).logits
        torch.testing.assert_close(padded, short, atol=0 if quantized else 1e-4, rtol=0)


@pytest.mark.parametrize("bits", BITS)
def test_ranges_of_sums_are_proved(bits: str) -> None:
    """No sum of positions leaves its table, nor leaves more than a half of it unused."""
    model, _, _ = make("inhibitor", "cls", 10, BITS[bits], **POOLED)
    network, _ = QuantizedNetwork(model).to_circuit()
    for n in (6, 12):
        proved = {stage.stage: stage.lookups for stage in verify(network, n)}
        for lookup in proved["layer1.project"] + proved["layer2.project"]:
            (low, high), (first, last) = lookup.accumulator, lookup.domain
            assert first <= low and high <= last and 2 * (high - low) > last - first


def test_a_sum_counts_as_often_in_the_norm_as_it_has_terms() -> None:
    """Each position is a ciphertext with noise of its own."""
    bits = {"weight_norm": 6.0, "weight_bits": 5, "table_bits": 6}
    model, _, _ = make("inhibitor", "cls", 10, bits, **POOLED)
    network, _ = QuantizedNetwork(model).to_circuit()
    for layer in network.layers:
        for head in layer.heads:
            for read in (head.query, head.key, head.value):
                assert read is not None and largest(read, layer.pooled) <= 36
        assert largest(layer.attention_output, 1, layer.pooled) <= 36
    assert max(largest(head.value, 3) for head in network.layers[2].heads) > 20


def largest(read: Linear, terms: int, residual_terms: int = 1) -> int:
    """Return the largest squared norm of what one lookup reads."""
    square = terms * np.square(read.weight).sum(axis=0)
    if read.residual is not None:
        square = square + residual_terms * np.square(read.residual)
    return int(square.max())


def test_a_sum_stands_for_the_mean() -> None:
    step = Step.signed(2, 4, has_zero_point=True)
    step.log_size.data = torch.tensor([0.5, -1.0])
    assert step.zero_point is not None
    step.zero_point.data = torch.tensor([1.25, -2.0])
    pooled, codes = PooledStep(step, 3), torch.tensor([[-8.0, 7.0], [1.0, 2.0], [7.0, -8.0]])
    mean = (codes.sum(dim=0) - pooled.shift) * pooled.size
    torch.testing.assert_close(mean, step.reals(codes).mean(dim=0))
    assert pooled.range == (-24, 21)


@pytest.mark.parametrize("bits", BITS)
def test_training_reaches_every_parameter(bits: str) -> None:
    for kind in ATTENTION_KINDS:
        model, ids, mask = make(kind, "cls", 10, BITS[bits], **POOLED)
        model.train()
        model(ids, mask, labels=torch.randint(0, 2, (24,))).loss.backward()
        silent = [name for name, p in model.named_parameters() if p.grad is None]
        assert not silent, (kind, silent)


def test_hidden_states_have_the_lengths_of_their_layers() -> None:
    model, ids, mask = make("inhibitor", "cls", 10, {}, **POOLED)
    for quantized in (False, True):
        model.quantized = quantized
        states = model(ids[:, :7], mask[:, :7], output_hidden_states=True).hidden_states
        last = 1 if quantized else 2
        assert [state.shape[1] for state in states] == [12, 12, 6, last]


def test_centred_keys_leave_a_pooled_float_model_as_it_is() -> None:
    model, ids, mask = make("inhibitor", "cls", 10, {}, **POOLED)
    model.quantized = False
    before = model(ids, mask).logits
    centre_keys(model, ids, mask)
    torch.testing.assert_close(model(ids, mask).logits, before, atol=1e-4, rtol=1e-4)


def test_an_untrained_network_has_the_shape_of_the_trained_one() -> None:
    """Layers that pool, or are shorter, don't share weights with others."""
    shape = {**POOLED, "n_layers": 5, "pooling": [1, 2, 1, 3, 1], "key_head_dim": 3}
    shape |= {"attention_window": 1, "dim": 8, "n_heads": 2, "normalization": "static"}
    config = InhibiDistilBertConfig(**shape, vocab_size=9, hidden_dim=0, quantization={})
    network = untrained_network(config)
    assert [layer.pooled for layer in network.layers] == [1, 1, 2, 1, 3]
    assert network.layers[0] is network.layers[1] and network.lengths(12) == [12, 12, 6, 6, 2]
    verify(network, 12)
    assert run(network, *random_text(network)).shape == (2,)


def random_text(network: Any) -> tuple[np.ndarray, np.ndarray]:
    low, high = network.input_range
    x = np.random.default_rng(0).integers(low, high + 1, (6, network.dim))
    return x, np.zeros(6, np.int64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling": [2, 1]}, "pooling has 2 entries for 3 layers"),
        ({"pooling": [1, 2, 2]}, "1 for the last"),
        ({"pooling": 0}, "pooling is 0, wanted an integer from 1"),
        ({"pooling": [1.5, 1, 1]}, "wanted an integer from 1"),
        (
            {"pooling": 2, "n_tokens": 6, "buckets": None},
            r"buckets are \[6\], wanted multiples of 4",
        ),
        ({"buckets": [4, 12]}, r"wanted multiples of 6: with pooling \[2, 3, 1\]"),
    ],
)
def test_pooling_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    shape = {"n_heads": 2, "dim": 12, "n_layers": 3, "pooling": [2, 3, 1], "n_tokens": 12}
    with pytest.raises(InputError, match=message):
        InhibiDistilBertConfig(**{**shape, **changes})


def test_conversions_that_do_not_know_pooling_refuse_it() -> None:
    shape = {"n_heads": 2, "dim": 12, "n_layers": 2, "vocab_size": 9, "hidden_dim": 8}
    config = InhibiDistilBertConfig(**shape, pooling=2, n_tokens=8, max_position_embeddings=8)
    student = InhibiDistilBertForSequenceClassification(config)
    with pytest.raises(InputError, match="pools positions can't be fake-quantized"):
        quantize(student, 4, [[1, 2, 3]])
    with pytest.raises(InputError, match="the student pools positions, which the fit doesn't know"):
        make_static(student, [[1, 2, 3]])


@pytest.mark.parametrize("pooling", [2, [1, 2, 1]])
def test_a_student_that_starts_from_its_teacher_can_not_pool(pooling: Any) -> None:
    """It learns from hidden states, of which the teacher has one for each token."""
    with pytest.raises(InputError, match="pooling is .* hidden states.* leave pooling out"):
        Size({"pooling": pooling}, from_teacher=True)
    assert Size({"pooling": pooling}).student["pooling"] == pooling
    assert Size({"pooling": [1, 1]}, from_teacher=True).from_teacher


def test_one_number_pools_after_every_layer_but_the_last() -> None:
    config = InhibiDistilBertConfig(dim=12, n_heads=2, n_layers=3, pooling=2, n_tokens=8)
    layers = [config.layer(index) for index in range(3)]
    assert [(layer.pooled, layer.n_positions) for layer in layers] == [(1, 8), (2, 4), (2, 2)]
    assert config.stride == 4
