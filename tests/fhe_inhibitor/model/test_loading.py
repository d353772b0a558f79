"""Float checkpoints of every form through the one loader, and one error for what is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import DEFAULT_MODEL
from fhe_inhibitor.model.loading import load_config, load_model
from fhe_inhibitor.model.modeling import InhibiDistilBertForSequenceClassification
from tests.tiny_teacher import save_teacher, tiny_teacher


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_teacher(tiny_teacher(), tmp_path / "model")


def test_a_folder_gives_back_the_model_it_holds(folder: Path) -> None:
    loaded = load_model(folder)
    expected = tiny_teacher().model.state_dict()
    assert loaded.missing == () and not loaded.model.training
    for name, weight in loaded.model.state_dict().items():
        assert torch.equal(weight, expected[name]), name
    assert loaded.tokenizer("a film")["input_ids"] == [2, 5, 8, 3]


@pytest.mark.parametrize("name", [DEFAULT_MODEL, "inhibidistilbert-6-384-sst2-int8"])
def test_shipped_checkpoints_load_by_name(name: str) -> None:
    loaded = load_model(name)
    assert isinstance(loaded.model, InhibiDistilBertForSequenceClassification)
    assert loaded.model.config.vocab_size == load_config(name).vocab_size == len(loaded.tokenizer)


def test_a_new_classifier_is_the_same_one_each_time(folder: Path) -> None:
    tiny_teacher().model.distilbert.save_pretrained(folder)  # without its classifier
    first, again = (load_model(folder, new_labels=3) for _ in range(2))
    assert "classifier.weight" in first.missing
    weight = first.model.state_dict()["classifier.weight"]
    assert weight.shape == (3, 32) and torch.equal(weight, again.model.classifier.weight)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("content", [None, "no such thing"])
def test_what_is_damaged_is_refused(folder: Path, file: str, content: str | None) -> None:
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    with pytest.raises(
        InputError, match=r"no model could be loaded from .* \(.+\); pass a shipped"
    ):
        load_model(folder)


def test_weights_of_another_shape_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_dim": 16}))
    with pytest.raises(InputError, match="no model could be loaded"):
        load_model(folder)


def test_nothing_is_no_model() -> None:
    for load in (load_config, load_model):
        with pytest.raises(InputError, match="no model could be loaded from '/nowhere'"):
            load("/nowhere")
