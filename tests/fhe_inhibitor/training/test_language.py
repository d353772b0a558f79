"""Language models learn what comes next, go on where they stopped, and are measured right."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from circuits.network import run
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.model.quantized.network import QuantizedNetwork
from fhe_inhibitor.text.characters import FIRST_ID, LABELS, character_stream
from fhe_inhibitor.training import language
from fhe_inhibitor.training.language import (
    LanguageTraining,
    language_model,
    measure_perplexity,
    train_language,
)

torch.set_num_threads(1)  # tensors here are too small to share

TINY: dict[str, Any] = {
    "max_position_embeddings": 0,
    "dim": 12,
    "n_layers": 1,
    "n_heads": 2,
    "hidden_dim": 0,
    "n_tokens": 6,
    "threshold": "head_offset",
    "normalization": "static",
    "initializer_range": 0.2,
}
QUANTIZED = {"key_bits": 3, "value_bits": 3, "weight_bits": 5, "feature_bits": 2, "logit_bits": 8}
TRAINING = LanguageTraining(steps=120, batch_size=16, learning_rate=2e-2, ema_decay=0.9)
STREAM = character_stream(["abcabcabcabc"] * 30)


@pytest.mark.parametrize("kind", ["inhibitor", "dot_product"])
def test_a_model_learns_what_follows(kind: str) -> None:
    """After a, b and c comes one character for sure; only where a sentence ends is a guess."""
    model = language_model(0, attention_kind=kind, **TINY)
    before = measure_perplexity(model, STREAM, 6)
    train_language(model, STREAM, TRAINING)
    after = measure_perplexity(model, STREAM, 6)
    assert before.value > 15 and after.value < 2 and before.n == after.n == 6 * (389 // 6)


def test_perplexity_is_that_of_a_plain_loop() -> None:
    model = language_model(1, **TINY)
    losses = []
    for start in range(0, 60, 6):
        for n in range(1, 7):
            ids = torch.from_numpy(STREAM[start : start + n])[None]
            shares = model(ids).logits[0].detach().softmax(dim=0)
            losses.append(-math.log(shares[STREAM[start + n] - FIRST_ID]))
    found = measure_perplexity(model, STREAM[:61], 6)
    assert found.value == pytest.approx(math.exp(np.mean(losses)), rel=1e-4)
    spread = np.std(np.reshape(losses, (10, 6)).mean(axis=1), ddof=1) / math.sqrt(10)
    assert found.standard_error == pytest.approx(found.value * spread, rel=1e-3)


def test_an_interrupted_training_ends_where_it_would_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the middle of the quantized part, whose noise is drawn again."""
    monkeypatch.setattr(language, "CHECKPOINT_STEPS", 8)
    training = LanguageTraining(steps=24, batch_size=4, float_fraction=0.5)
    shape = TINY | {"attention_kind": "inhibitor", "quantization": QUANTIZED}
    whole = language_model(0, **shape)
    train_language(whole, STREAM, training)
    for stopped_after in (9, 17):
        draw, path = language._draw, tmp_path / f"{stopped_after}.safetensors"

        def stopping(*arguments: Any, last: int = stopped_after, draw: Any = draw) -> Any:
            if arguments[-1] == last:
                raise KeyboardInterrupt
            return draw(*arguments)

        monkeypatch.setattr(language, "_draw", stopping)
        with pytest.raises(KeyboardInterrupt):
            train_language(language_model(0, **shape), STREAM, training, checkpoint=path)
        monkeypatch.setattr(language, "_draw", draw)
        resumed = language_model(0, **shape)
        train_language(resumed, STREAM, training, checkpoint=path)
        assert resumed.quantized
        for name, weight in whole.state_dict().items():
            assert torch.equal(weight, resumed.state_dict()[name]), name
    with pytest.raises(InputError, match="other settings or data"):
        train_language(language_model(0, **shape), STREAM[1:], training, checkpoint=path)


def test_a_student_learns_its_teacher_s_probabilities() -> None:
    """From a teacher that says the opposite of the text."""
    reversed_text = character_stream(["cbacbacbacba"] * 30)
    teacher = language_model(0, attention_kind="dot_product", **TINY)
    train_language(teacher, reversed_text, TRAINING)
    student = language_model(1, attention_kind="inhibitor", **TINY)
    soft = LanguageTraining(**{**vars(TRAINING), "hard": 0.0})
    train_language(student, reversed_text, soft, teacher)
    ids = torch.from_numpy(character_stream(["cbacb"])[:5])[None]
    assert LABELS[int(student(ids).logits.argmax())] == "a"


def test_the_trained_integers_are_those_of_the_circuits() -> None:
    shape = TINY | {"attention_kind": "inhibitor", "quantization": QUANTIZED}
    model = language_model(0, **shape)
    train_language(model, STREAM, LanguageTraining(steps=40, batch_size=8, learning_rate=1e-2))
    network, scale = QuantizedNetwork(model).to_circuit()
    ids = torch.from_numpy(STREAM[:6])[None]
    every = model.every_position(ids)[0].detach().numpy()
    for n in (1, 4, 6):
        x = QuantizedNetwork(model).embed(ids[:, :n]).detach().numpy().astype(np.int64)[0]
        integers = run(network, x, np.zeros(n, np.int64))
        np.testing.assert_allclose(integers * scale, every[n - 1], atol=1e-4)
        assert np.abs(integers).max() < 128 and len(integers) == 30
    assert measure_perplexity(model, STREAM, 6, seed=0) == measure_perplexity(
        model, STREAM, 6, seed=0
    )
    assert not model.noisy


def test_text_that_is_no_longer_than_a_window_is_refused() -> None:
    model = language_model(0, **TINY)
    with pytest.raises(InputError, match="6 characters of text: wanted more than a window, 6"):
        train_language(model, STREAM[:6], TRAINING)
    with pytest.raises(InputError, match="6 characters of text"):
        measure_perplexity(model, STREAM[:6], 6)
