"""Float checkpoints of every form through the one loader, and one error for what is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import DistilBertConfig

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import DEFAULT_MODEL
from fhe_inhibitor.model.loading import load_config, load_model, name_labels
from fhe_inhibitor.model.modeling import InhibiDistilBertForSequenceClassification
from fhe_inhibitor.text.tasks import SENTIMENT, Example
from fhe_inhibitor.training.rows import encode_examples, predict_rows
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


def test_a_folder_without_its_tokenizer_is_refused(tmp_path: Path) -> None:
    """For a configuration that names a known kind, transformers makes up one of 5 tokens."""
    tiny_teacher().model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no tokenizer, or one that knows no word"):
        load_model(tmp_path)


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    save_teacher(tiny_teacher(vocab_size=12), tmp_path)
    with pytest.raises(InputError, match="has 15 tokens, the model 12: files of different models"):
        load_model(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    teacher = tiny_teacher()
    with torch.no_grad():
        teacher.model.get_input_embeddings().weight[3, 1] = value
    save_teacher(teacher, tmp_path)
    with pytest.raises(InputError, match="word_embeddings.weight holds NaN or an infinity"):
        load_model(tmp_path)


def test_a_classifier_that_the_file_lacks_is_not_made_up(tmp_path: Path) -> None:
    teacher = tiny_teacher()
    teacher.tokenizer.save_pretrained(tmp_path)
    teacher.model.distilbert.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="lacks the weights .*'classifier.weight'"):
        load_model(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_is_loaded_as_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    teacher = tiny_teacher()
    teacher.model.to(dtype)
    save_teacher(teacher, tmp_path)
    model = load_model(tmp_path).model
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert model(input_ids=torch.tensor([[2, 5, 3]])).logits.isfinite().all()


def test_a_tokenizer_cuts_to_the_positions_of_the_model(tmp_path: Path) -> None:
    save_teacher(tiny_teacher(max_position_embeddings=6), tmp_path)
    model, tokenizer, _ = load_model(tmp_path)
    (row,) = encode_examples(tokenizer, [Example(("a very fine film " * 9,), 1)])
    assert len(row.ids) == 6
    assert predict_rows(model, [row]).shape == (1, 2)


@pytest.mark.parametrize(
    "names", [("LABEL_0", "LABEL_1"), ("NEGATIVE", "Positive"), ("neg", "pos"), ("0", "1")]
)
def test_labels_of_a_task_are_known_by_name(names: tuple[str, ...]) -> None:
    config = DistilBertConfig(id2label=dict(enumerate(names)))
    name_labels(config, SENTIMENT, "model")
    assert config.id2label == {0: "negative", 1: "positive"}
    assert config.label2id == {"negative": 0, "positive": 1}


@pytest.mark.parametrize(
    "names",
    [("POSITIVE", "NEGATIVE"), ("LABEL_1", "LABEL_0"), ("acceptable", "unacceptable"), ("", "")],
)
def test_labels_of_another_task_or_order_are_refused(names: tuple[str, ...]) -> None:
    config = DistilBertConfig(id2label=dict(enumerate(names)))
    with pytest.raises(InputError, match="wanted negative, positive, in this order"):
        name_labels(config, SENTIMENT, "model")


def test_own_labels_are_known_in_capitals_too() -> None:
    config = DistilBertConfig(id2label={0: "very bad", 1: "Good"})
    name_labels(config, ["Very-Bad", "GOOD"], "model")
    assert config.id2label == {0: "Very-Bad", 1: "GOOD"}


def test_a_regression_has_no_order_of_labels() -> None:
    name_labels(DistilBertConfig(num_labels=1, id2label={0: "score"}), ["similarity"], "model")
    with pytest.raises(InputError, match="has 2 outputs; wanted 1"):
        name_labels(DistilBertConfig(), ["similarity"], "model")


def test_a_mistyped_folder_is_not_looked_up_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: object, **__: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    for part in ("AutoConfig", "AutoTokenizer"):
        monkeypatch.setattr(f"fhe_inhibitor.model.loading.{part}.from_pretrained", ask)
    for name in ("runs/nosuch", "./nosuch", "a/b/nosuch", "nosuch/", str(tmp_path / "nosuch")):
        for load in (load_config, load_model):
            with pytest.raises(InputError, match=r"\(no such folder\); pass a shipped"):
                load(name)
