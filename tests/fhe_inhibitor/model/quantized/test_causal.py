"""Causal models: in floats, in training's integers and in the circuits' alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from circuits.counts import count_lookups
from circuits.network import run
from compile.verifier import verify
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.model.configuration import ATTENTION_KINDS, InhibiDistilBertConfig
from fhe_inhibitor.model.quantized.network import QuantizedNetwork
from fhe_inhibitor.model.untrained import untrained_network
from tests.fhe_inhibitor.model.quantized.test_steps import SATURATING, N, make

torch.set_num_threads(1)  # tensors here are too small to share

CAUSAL: dict[str, Any] = {"causal": True}
BITS: dict[str, dict[str, Any]] = {
    "plain": {"key_bits": 3, "value_bits": 3, "weight_bits": 5, "table_bits": 6},
    "saturating": SATURATING,
}


def encrypted(model: Any, ids: torch.Tensor, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what a client encrypts of one text `[m]` in a bucket of n: padding comes first."""
    x = np.zeros((n, model.config.dim), np.int64)
    x[n - len(ids) :] = QuantizedNetwork(model).embed(ids[None]).detach().numpy()[0]
    return x, (np.arange(n) < n - len(ids)).astype(np.int64)


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
@pytest.mark.parametrize("query", ["cls", "constant"])
@pytest.mark.parametrize("window", [0, [2, 3]])
@pytest.mark.parametrize("bits", BITS)
def test_a_causal_network_is_converted_exactly(
    kind: str, query: str, window: Any, bits: str
) -> None:
    """Texts of several lengths, alone and after padding, with the very same logits."""
    changes = CAUSAL | {"classifier_query": query, "attention_window": window}
    model, ids, mask = make(kind, query, 10, BITS[bits], **changes)
    network, scale = QuantizedNetwork(model).to_circuit()
    assert network.causal and [x.causal for x in network.layers] == [True, query == "cls"]
    logits = model(ids, mask).logits.detach().numpy()
    seen = set()
    for row in range(0, 24, 2):
        text = ids[row, : int(mask[row].sum())]
        for n in {len(text), N}:
            integers = run(network, *encrypted(model, text, n))
            np.testing.assert_allclose(integers * scale, logits[row], atol=1e-4)
            seen.add(tuple(integers.tolist()))
    assert len(seen) > 2
    verify(network, N, max_bits=6)


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
@pytest.mark.parametrize("quantized", [False, True])
def test_each_position_is_what_its_text_alone_would_give(kind: str, quantized: bool) -> None:
    model, ids, mask = make(kind, "cls", 10, BITS["plain"], **CAUSAL)
    model.quantized = quantized
    every = model.every_position(ids)
    assert every.shape == (24, N, 2)
    for n in (1, 3, 6, N):
        alone = model(ids[:, :n]).logits
        torch.testing.assert_close(every[:, n - 1], alone, atol=1e-5, rtol=1e-5)
    last = model(ids, mask).logits
    torch.testing.assert_close(last[:12], every[:12, 5], atol=1e-6, rtol=1e-6)
    states = model(ids, mask, output_hidden_states=True).hidden_states
    assert [state.shape[1] for state in states] == [N, N, 1 if quantized else N]


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_training_reaches_every_parameter(kind: str) -> None:
    model, ids, mask = make(kind, "cls", 10, BITS["saturating"], **CAUSAL)
    model.train()
    model.every_position(ids, mask).square().sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None]
    assert not silent


def test_a_window_reads_fewer_keys_so_that_sums_are_narrower() -> None:
    shape = {"dim": 12, "n_heads": 2, "n_layers": 2, "attention_window": [3, 0], "n_tokens": 8}
    layers = [InhibiDistilBertConfig(**shape, causal=causal).layer(0) for causal in (False, True)]
    assert [layer.max_keys for layer in layers] == [7, 4]
    assert InhibiDistilBertConfig(**shape, causal=True).layer(1).max_keys == 8


def test_an_untrained_causal_network_costs_half_of_the_pairs() -> None:
    shape: dict[str, Any] = {"dim": 8, "n_heads": 2, "n_layers": 2, "hidden_dim": 0, "n_tokens": 8}
    shape |= {"normalization": "static", "quantization": {}, "vocab_size": 9}
    counts = []
    for causal in (False, True):
        network = untrained_network(InhibiDistilBertConfig(**shape, causal=causal))
        verify(network, 8)
        head = count_lookups(network, 8)["layer0.attend.head0"]
        counts.append(head.total() - 8 * 4)  # 8 outputs of 4 channels are no pairs
        assert count_lookups(network, 8)["layer1.attend.head0"].total() == 8 * (2 * 4 + 1) + 4
    assert counts == [64 * 9, 36 * 9]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling": 2, "n_tokens": 8}, "pooling is 2 in a causal model"),
        (
            {"quantization": {"keys_per_sum": 2}, "normalization": "static"},
            "keys_per_sum counts keys from the first one",
        ),
    ],
)
def test_what_causal_models_can_not_have_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        InhibiDistilBertConfig(dim=12, n_heads=2, n_layers=2, causal=True, **changes)


@pytest.mark.parametrize("changes", [{}, {"causal": True, "classifier_query": "constant"}])
def test_models_that_read_later_tokens_say_nothing_after_each_token(changes: dict) -> None:
    model, ids, _ = make("inhibitor", changes.get("classifier_query", "cls"), 0, {}, **changes)
    with pytest.raises(InputError, match="only a causal model whose last layer"):
        model.every_position(ids)
