"""The shipped checkpoints: two forms agree, they are small, and know good from bad."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from circuits.counts import count_lookups
from compile.verifier import verify
from fhe_inhibitor.integer.evaluation import evaluate
from fhe_inhibitor.integer.model import CHECKPOINTS, DEFAULT_MODEL, IntegerModel
from fhe_inhibitor.model.modeling import InhibiDistilBertForSequenceClassification
from fhe_inhibitor.text.data import read_tsv

FOLDER = CHECKPOINTS / DEFAULT_MODEL
SMALL, FULL_DEPTH = "inhibidistilbert-small-sst2", "inhibidistilbert-full-depth-sst2"
TEXTS = {
    "a gripping , funny film": "positive",
    "a dull , lifeless mess": "negative",
    "one of the best performances of the year": "positive",
    "the plot makes no sense and the jokes fall flat": "negative",
}


@pytest.fixture(scope="module")
def model() -> IntegerModel:
    return IntegerModel.load()


@pytest.fixture(scope="module")
def small() -> IntegerModel:
    return IntegerModel.load(SMALL)


@pytest.fixture(scope="module")
def full_depth() -> IntegerModel:
    return IntegerModel.load(FULL_DEPTH)


@pytest.fixture(scope="module")
def float_model() -> InhibiDistilBertForSequenceClassification:
    loaded = AutoModelForSequenceClassification.from_pretrained(FOLDER).eval()
    loaded.quantized = True
    return loaded


def differences(
    model: IntegerModel, float_model: InhibiDistilBertForSequenceClassification, texts: list[str]
) -> np.ndarray:
    """Integer logits minus fake-quantized float ones, in integer steps."""
    rows = []
    for text in texts:
        tokens = model.tokenize(text)
        integers = model.integer_logits(*model.encode(tokens))
        with torch.inference_mode():
            logits = float_model(torch.from_numpy(tokens.ids)[None]).logits[0].numpy()
        rows.append(integers - logits / model.logit_scale)
    return np.array(rows)


@pytest.mark.parametrize("shipped", ["model", "small", "full_depth"])
def test_texts_get_their_label(shipped: str, request: pytest.FixtureRequest) -> None:
    model: IntegerModel = request.getfixturevalue(shipped)
    for text, label in TEXTS.items():
        logits = model.integer_logits(*model.encode(model.tokenize(text)))
        assert model.labels[int(logits.argmax())] == label, text


def test_float_and_integer_model_agree(model: IntegerModel, float_model) -> None:
    assert np.abs(differences(model, float_model, list(TEXTS))).max() < 1e-3


def test_float_and_integer_model_agree_on_validation_sentences(
    model: IntegerModel, float_model, data_dir: Path
) -> None:
    rows = read_tsv(data_dir / "glue" / "sst2" / "dev.tsv")[::4]
    assert np.abs(differences(model, float_model, [row.text for row in rows])).max() < 1e-3


def test_accuracy_is_what_the_card_says(model: IntegerModel, data_dir: Path) -> None:
    rows = read_tsv(data_dir / "glue" / "sst2" / "dev.tsv")
    assert 0.835 < evaluate(model, rows, n_draws=1).value < 0.865


def test_every_length_is_proved_and_needs_no_lookup_beyond_four_bits(model: IntegerModel) -> None:
    assert model.buckets == (8, 10, 12, 16)
    for n in model.buckets:
        verify(model.network, n, max_bits=4)
    widths = {width for counts in count_lookups(model.network, 12).values() for width in counts}
    assert widths == {3, 4}


def test_the_folder_is_small_and_its_tokenizer_is_transformers(model: IntegerModel) -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 8e6
    tokenizer = AutoTokenizer.from_pretrained(FOLDER)
    text = next(iter(TEXTS))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == model.tokenize(text).ids.tolist()


def test_small_is_proved_and_needs_no_lookup_beyond_five_bits(small: IntegerModel) -> None:
    assert small.buckets == (8, 12, 14, 16, 24) and small.default_tokens == 16
    for n in (16, 24):
        verify(small.network, n, max_bits=5)
    assert sum(path.stat().st_size for path in (CHECKPOINTS / SMALL).iterdir()) < 12e6


def test_accuracy_of_small_is_near_its_card_s(small: IntegerModel, data_dir: Path) -> None:
    """On every fourth sentence: its 218 have a standard error of 2.3 points."""
    rows = read_tsv(data_dir / "glue" / "sst2" / "dev.tsv")[::4]
    assert 0.82 < evaluate(small, rows, n_draws=1).value < 0.91


def test_full_depth_is_proved_and_needs_no_lookup_beyond_six_bits(full_depth: IntegerModel) -> None:
    assert full_depth.buckets == (12, 16, 24) and full_depth.default_tokens == 24
    assert len(full_depth.network.layers) == 6
    for n in (16, 24):
        verify(full_depth.network, n, max_bits=6)
    assert sum(path.stat().st_size for path in (CHECKPOINTS / FULL_DEPTH).iterdir()) < 20e6


@pytest.mark.slow
def test_accuracy_of_full_depth_is_near_its_card_s(
    full_depth: IntegerModel, data_dir: Path
) -> None:
    """On every fourth sentence: its 218 have a standard error of 2.2 points."""
    rows = read_tsv(data_dir / "glue" / "sst2" / "dev.tsv")[::4]
    assert 0.82 < evaluate(full_depth, rows, n_draws=1).value < 0.93
