"""Distillation on made-up words: a student learns, resumes, converts; texts are cut as served."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordPiece

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.model.configuration import InhibiDistilBertConfig
from fhe_inhibitor.model.conversion import save_checkpoint
from fhe_inhibitor.model.modeling import InhibiDistilBertForSequenceClassification
from fhe_inhibitor.system.files import file_sha256
from fhe_inhibitor.training.corpus import TokenizedTexts
from fhe_inhibitor.training.distillation import (
    DistillationConfig,
    distil,
    predict,
    select_tokens,
    text_table,
)
from fhe_inhibitor.training.embeddings import (
    BagOfWords,
    fold_embedding,
    with_feature_embedding,
)
from fhe_inhibitor.training.losses import Observed
from tests.observers import Recording, interrupt_at

torch.set_num_threads(1)  # tensors here are too small to share

VOCAB, FEATURES, N_TEXTS = 60, 9, 800
CONFIG = DistillationConfig(
    steps=150, batch_size=64, token_counts=(4, 6), token_weights=(0.5, 0.5), word_dropout=0.0
)


@pytest.fixture(scope="module")
def task() -> tuple[TokenizedTexts, np.ndarray, np.ndarray]:
    """Texts whose label is the sign of a sum over words, word features, and importance."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(VOCAB, FEATURES)).astype(np.float32)
    lengths = rng.integers(2, 10, N_TEXTS)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = rng.integers(2, VOCAB, offsets[-1]).astype(np.int32)
    score = np.add.reduceat(features[ids, 0], offsets[:-1])
    logits = np.stack([-score, score], axis=1).astype(np.float32)
    texts = TokenizedTexts(ids, offsets, logits, (score > 0).astype(np.int64))
    return texts, features, np.abs(features[:, 0])


def make_student(
    features: np.ndarray, width: int = 256, free_dim: int | None = None, **changes: Any
) -> InhibiDistilBertForSequenceClassification:
    torch.manual_seed(0)
    shape = {
        "vocab_size": VOCAB,
        "max_position_embeddings": 0,
        "dim": 8,
        "n_layers": 2,
        "n_heads": 1,
        "hidden_dim": 0,
        "key_head_dim": [2, 3],
        "value_head_dim": 4,
        "attention_window": [1, 0],
        "threshold": "head_offset",
        "classifier_query": "constant",
        "normalization": "static",
        "dropout": 0.0,
        "initializer_range": 0.3,
        "n_tokens": 6,
        "buckets": [4, 6],
        "token_importance": "public",
        "quantization": {"key_bits": 2, "value_bits": 2},
    }
    model = InhibiDistilBertForSequenceClassification(InhibiDistilBertConfig(**shape | changes))
    return with_feature_embedding(model, torch.from_numpy(features), width, free_dim)


def accuracy(model: torch.nn.Module, task, n: int) -> float:
    texts, _, importance = task
    logits = predict(model, text_table(texts, importance), importance, n)
    return float((logits.argmax(axis=1) == texts.labels).mean())


def test_student_and_baseline_learn_a_small_task(task, tmp_path: Path) -> None:
    texts, features, importance = task
    table = text_table(texts, importance)
    student = distil(make_student(features), table, importance, replace(CONFIG, ema_decay=0.95))
    assert student.quantized
    assert accuracy(student, task, 6) > 0.8
    bag = BagOfWords(torch.from_numpy(features), 2)
    bag = distil(bag, table, importance, replace(CONFIG, ema_decay=0.95))
    assert accuracy(bag, task, 6) > 0.85


def test_a_student_follows_a_reference_and_loses_inputs(task) -> None:
    texts, features, importance = task
    table = text_table(texts, importance)
    quantization = {"key_bits": 3, "value_bits": 4, "weight_bits": 5, "fan_in": 12}
    sizes = {"dim": 16, "hidden_dim": 24, "quantization": quantization, "classifier_query": "cls"}
    target = make_student(features, **sizes)
    asked = []

    def reference(ids: torch.Tensor, mask: torch.Tensor) -> Observed:
        asked.append((ids.shape, mask.sum()))
        with torch.no_grad():
            output = target(ids, mask, output_hidden_states=True)
        return Observed(output.logits, states=list(output.hidden_states))

    @torch.no_grad()
    def error(student: torch.nn.Module) -> float:
        ids, mask = select_tokens(table.ids, table.lengths, torch.from_numpy(importance), 6)
        states = student(ids, mask, output_hidden_states=True).hidden_states
        wanted = reference(ids, mask).states
        pairs = zip(states, wanted, strict=True)
        return sum(float((a - b[:, : a.shape[1]]).square().mean()) for a, b in pairs)

    def perturbed() -> InhibiDistilBertForSequenceClassification:
        student = make_student(features, width=32, free_dim=3, **sizes)
        with torch.no_grad():
            for parameter in student.distilbert.transformer.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
        return student

    config = replace(CONFIG, hidden_weight=5.0, pruned_between=(0.2, 0.8), ema_decay=0.9)
    in_float = replace(config, float_fraction=1.0)
    student = distil(perturbed(), table, importance, in_float, reference=reference)
    assert len(asked) == config.steps
    assert error(student) < 0.5 * error(perturbed())
    weights = student.distilbert.transformer.layer[0].ffn.lin2.weight.abs()  # 24 inputs
    assert weights.topk(12, dim=1).values.sum() > 0.95 * weights.sum()
    rows = student.get_input_embeddings()(torch.arange(VOCAB))
    assert torch.equal(rows, fold_embedding(student).get_input_embeddings().weight)
    short = distil(perturbed(), table, importance, replace(config, steps=20), reference=reference)
    assert short.quantized


def test_infinite_importance_is_read_first_and_always(task) -> None:
    texts, _, importance = task
    importance = importance.astype(np.float32)
    importance[1] = np.inf
    table = text_table(texts, importance)
    ids = torch.cat([torch.ones(len(table), 1, dtype=torch.int64), table.ids], dim=1)
    kept, mask = select_tokens(ids, table.lengths + 1, torch.from_numpy(importance), 3, 0.9)
    assert (kept[:, 0] == 1).all() and mask[:, 0].all()


def test_an_interrupted_training_ends_as_if_it_had_not_been(
    task, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("fhe_inhibitor.training.distillation.CHECKPOINT_STEPS", 20)
    texts, features, importance = task
    table, config = text_table(texts, importance), replace(CONFIG, steps=50)
    whole = distil(make_student(features), table, importance, config)

    arguments = (table, importance, config, tmp_path / "s")
    with pytest.raises(KeyboardInterrupt):
        distil(make_student(features), *arguments, observer=interrupt_at("distil s", 45))
    observer = Recording()
    resumed = distil(make_student(features), *arguments, observer=observer)
    assert observer.planned == observer.finished == {"distil s": 10}  # 40 were kept
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_a_checkpoint_of_another_run_is_refused(task, tmp_path: Path, monkeypatch) -> None:
    """Before, a finished run's weights came back as the result of other hyperparameters."""
    monkeypatch.setattr("fhe_inhibitor.training.distillation.CHECKPOINT_STEPS", 10)
    texts, features, importance = task
    table, config = text_table(texts, importance), replace(CONFIG, steps=10)
    path = tmp_path / "s"
    distil(make_student(features), table, importance, config, path)
    flipped = replace(table, labels=1 - table.labels)
    wider = make_student(features, hidden_dim=24)
    for student, data, other in (
        (make_student(features), table, replace(config, seed=1)),
        (make_student(features), flipped, config),
        (wider, table, config),
    ):
        with pytest.raises(InputError, match="checkpoint of other settings or data"):
            distil(student, data, importance, other, path)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="s is damaged, its SHA-256 is another one"):
        distil(make_student(features), table, importance, config, path)


@pytest.mark.parametrize("pooling", [1, 2])
def test_a_trained_student_converts_exactly(task, pooling: int, tmp_path: Path) -> None:
    """With pooling it has learned from texts of odd lengths too."""
    texts, features, importance = task
    table = text_table(texts, importance)
    config = replace(CONFIG, steps=40, token_counts=(3 + pooling, 6))
    student = distil(make_student(features, pooling=pooling), table, importance, config)
    student = fold_embedding(student)
    words = ["[PAD]", "[UNK]", *(f"w{i}" for i in range(2, VOCAB))]
    tokenizer = Tokenizer(WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model = save_checkpoint(student, tokenizer, importance, tmp_path / "student")
    config_json = json.loads((tmp_path / "student" / "config.json").read_text())
    assert config_json["tokenizer_sha256"] == file_sha256(tmp_path / "student" / "tokenizer.json")
    expected = predict(student, table, importance, 6)
    noisy = predict(student, table, importance, 6, seed=1)
    assert (noisy != expected).any()
    assert np.array_equal(noisy, predict(student, table, importance, 6, seed=1))
    for i in range(100):
        text = " ".join(words[token] for token in texts[i])
        tokens = model.tokenize(text, 6)
        logits = model.logits(model.integer_logits(*model.encode(tokens)))
        np.testing.assert_allclose(logits, expected[i], atol=1e-4)


def test_tokens_are_chosen_as_the_client_chooses_them(task) -> None:
    texts, _, importance = task
    importance = np.round(importance, 1)  # ties
    table = text_table(texts, importance)
    ids, mask = select_tokens(table.ids, table.lengths, torch.from_numpy(importance), 4)
    for i in range(50):
        order = np.sort(np.argsort(-importance[texts[i]], kind="stable")[:4])
        assert ids[i][mask[i].bool()].tolist() == texts[i][order].tolist()


def test_a_float_model_has_no_integers(tmp_path: Path) -> None:
    config = InhibiDistilBertConfig(vocab_size=9, dim=4, n_layers=1, n_heads=1, hidden_dim=4)
    model = InhibiDistilBertForSequenceClassification(config)
    with pytest.raises(InputError, match="only a quantized model"):
        save_checkpoint(
            model, Tokenizer(WordPiece({"[UNK]": 0}, unk_token="[UNK]")), None, tmp_path
        )
