"""InhibiDistilBERT as a transformers model: DistilBERT's weights, Auto classes, saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    pipeline,
)

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import checkpoint_folder
from fhe_inhibitor.model.configuration import ATTENTION_KINDS, InhibiDistilBertConfig
from fhe_inhibitor.model.loading import load_model
from fhe_inhibitor.model.modeling import InhibiDistilBertForSequenceClassification
from fhe_inhibitor.training.hyperparameters import NANO

torch.set_num_threads(1)  # tensors here are too small to share

SHAPE: dict[str, Any] = {
    "vocab_size": 40,
    "max_position_embeddings": 16,
    "dim": 12,
    "n_layers": 2,
    "n_heads": 3,
    "hidden_dim": 24,
    "initializer_range": 0.5,
}


def make(**changes: Any) -> InhibiDistilBertForSequenceClassification:
    torch.manual_seed(0)
    config = InhibiDistilBertConfig(**{**SHAPE, "n_tokens": 16, **changes})
    return InhibiDistilBertForSequenceClassification(config).eval()


def test_dot_product_student_is_distilbert() -> None:
    """Same names, same arithmetic: DistilBERT's checkpoint loads and gives its logits."""
    torch.manual_seed(0)
    teacher = DistilBertForSequenceClassification(
        DistilBertConfig(**SHAPE, sinusoidal_pos_embds=False)
    ).eval()
    student = make(attention_kind="dot_product")
    missing, unexpected = student.load_state_dict(teacher.state_dict(), strict=False)
    assert not unexpected
    assert all(name.rsplit(".")[-1] in ("gamma", "shift") for name in missing)
    ids = torch.randint(1, 40, (3, 9))
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    torch.testing.assert_close(
        student(ids, mask).logits, teacher(ids, mask).logits, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
@pytest.mark.parametrize("query", ["cls", "constant"])
@pytest.mark.parametrize("window", [0, 2])
def test_padding_changes_nothing(kind: str, query: str, window: int) -> None:
    model = make(
        attention_kind=kind,
        classifier_query=query,
        attention_window=window,
        threshold="head_offset",
        normalization="static",
    )
    ids = torch.randint(1, 40, (4, 7))
    padded = torch.cat([ids, torch.randint(1, 40, (4, 5))], dim=1)
    mask = torch.cat([torch.ones(4, 7), torch.zeros(4, 5)], dim=1).long()
    torch.testing.assert_close(model(padded, mask).logits, model(ids).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ATTENTION_KINDS)
def test_a_saved_model_comes_back_through_auto_classes(kind: str, tmp_path: Path) -> None:
    model = make(
        attention_kind=kind,
        n_heads=[3, 2],
        key_head_dim=[2, 5],
        value_head_dim=[4, 3],
        hidden_dim=[0, 8],
        attention_window=[1, 0],
        normalization="static",
        quantization={"key_bits": 3, "value_bits": 3},
    )
    model.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), InhibiDistilBertConfig)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert isinstance(loaded, InhibiDistilBertForSequenceClassification)
    ids = torch.randint(1, 40, (2, 6))
    assert torch.equal(model(ids).logits, loaded(ids).logits)


@pytest.mark.parametrize("place", [{"variant": "fp16"}, {"subfolder": "float"}])
def test_a_model_comes_back_from_another_name_or_folder(
    place: dict[str, str], tmp_path: Path
) -> None:
    model = make()
    model.config.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path / place.get("subfolder", ""), variant=place.get("variant"))
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, **place)
    assert torch.equal(model.classifier.weight, loaded.classifier.weight)
    again = InhibiDistilBertForSequenceClassification.from_pretrained(tmp_path, **place)
    assert torch.equal(model.classifier.weight, again.classifier.weight)


@pytest.mark.parametrize("seed", range(5))
def test_no_seed_starts_with_everything_inhibited(seed: int) -> None:
    """A layer of zeros has no gradient: training may never leave it."""
    torch.manual_seed(seed)
    config = InhibiDistilBertConfig(**{**NANO, "vocab_size": 100, "quantization": None})
    model = InhibiDistilBertForSequenceClassification(config).eval()
    pooled = model.distilbert(torch.randint(1, 100, (64, 12))).last_hidden_state
    assert pooled.std(dim=0).mean() > 0.01


def test_a_window_hides_what_lies_outside() -> None:
    """With one layer and a window of 1, the first position doesn't see the third token."""
    model = make(n_layers=1, attention_window=1, threshold="head")
    ids = torch.randint(1, 40, (1, 6))
    far, near = ids.clone(), ids.clone()
    far[0, 2] = near[0, 1] = (ids[0, 2] % 39) + 1
    logits = model(ids).logits
    assert torch.equal(model(far).logits, logits)
    assert not torch.equal(model(near).logits, logits)


def test_a_layer_makes_no_tensor_on_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that comes from the processor would make a GPU wait in each layer."""
    made: list[torch.Tensor] = []

    def arange(*args: Any, **kwargs: Any) -> torch.Tensor:
        made.append(whole(*args, **kwargs))
        return made[-1]

    whole = torch.arange
    monkeypatch.setattr(torch, "arange", arange)
    shape = {"threshold": "head_offset", "max_relative_offset": 2, "attention_window": 3}
    model = make(**shape).to("meta")
    made.clear()
    ids = torch.ones(2, 6, dtype=torch.int64, device="meta")
    assert model.distilbert(ids).last_hidden_state.is_meta
    assert len(made) > 2 and all(tensor.is_meta for tensor in made)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attention_kind": "softmax"}, "attention_kind is 'softmax'"),
        ({"quantization": {"weight_bits": 9}, "normalization": "static"}, "weight_bits is 9"),
        ({"n_heads": [1]}, "n_heads has 1"),
        ({"quantization": {"weight_bits": 4}}, 'normalization="static"'),
        ({"quantization": {"keys_per_sum": 1}, "normalization": "static"}, "keys_per_sum is 1"),
        (
            {
                "quantization": {"keys_per_sum": 4},
                "normalization": "static",
                "attention_window": 2,
            },
            "keys_per_sum needs full attention",
        ),
        ({"buckets": [4, 8], "n_tokens": 16}, "buckets are"),
        ({"buckets": [8.0, 16.0], "n_tokens": 16}, "buckets are"),
        ({"buckets": 16, "n_tokens": 16}, "buckets are 16"),
        ({"n_heads": 0}, "n_heads is 0, wanted an integer from 1 to 16384, or one for each"),
        ({"n_heads": "2"}, "n_heads is '2'"),
        ({"n_heads": 13}, "heads have no channel; wanted fewer"),
        ({"dim": 10**9}, "dim is 1000000000, wanted an integer from 1 to 16384$"),
        ({"dim": 24.5}, "dim is 24.5"),
        ({"hidden_dim": -8}, "hidden_dim is -8"),
        ({"key_head_dim": -1}, "key_head_dim is -1, .* or None"),
        ({"attention_window": [1.5, 0]}, r"attention_window is \[1.5, 0\]"),
        ({"max_relative_offset": -1}, "max_relative_offset is -1"),
        ({"max_position_embeddings": -3}, "max_position_embeddings is -3"),
        ({"default_tokens": 99, "n_tokens": 16}, "default_tokens is 99, wanted at most"),
        ({"default_tokens": -5}, "default_tokens is -5"),
        ({"id2label": []}, r"id2label is \[\]"),
        ({"id2label": {}}, "id2label is {}"),
        ({"id2label": {0: "a", 2: "b"}}, "wanted a dictionary with a name for each"),
        ({"num_labels": 0}, "num_labels is 0"),
        ({"activation": "nosuch"}, "activation is 'nosuch'"),
        ({"causal": "false"}, "causal is 'false', wanted one of False, True"),
        ({"shift": "a"}, "shift is 'a', wanted a finite number$"),
        ({"shift": 10**400}, "shift is 1000"),
        ({"dropout": 5}, "dropout is 5, wanted a finite number from 0 to below 1"),
        ({"p_error": 0}, "p_error is 0"),
        ({"p_error": float("nan")}, "p_error is nan"),
        ({"dtype": "float99"}, "dtype is 'float99', wanted one of float16"),
        ({"pad_token_id": -7}, "pad_token_id is -7"),
        ({"pad_token_id": 40}, "pad_token_id is 40, wanted one of the vocabulary of 40"),
        ({"output_attentions": True, "attn_implementation": "sdpa"}, "transformers can't use"),
        ({"quantization": []}, r"quantization is \[\]"),
        ({"quantization": {"table_bits": [4, 4]}}, r"table_bits is \[4, 4\]"),
        ({"quantization": {"key_bits": [3, 3, 3]}}, "key_bits has 3 entries for 2 layers"),
        ({"quantization": {"keys_per_sum": []}}, "keys_per_sum has 0 entries"),
        ({"quantization": {"zero_points": "false"}}, "zero_points is 'false'"),
        ({"quantization": {"weight_norm": "11"}}, "weight_norm is '11'"),
    ],
)
def test_configurations_that_no_model_fits_are_refused(changes: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        InhibiDistilBertConfig(**{**SHAPE, **changes})


@pytest.mark.parametrize(
    "name",
    [
        "inhibidistilbert-small-sst2",
        "inhibidistilbert-full-depth-sst2",
        "inhibidistilbert-6-384-sst2-int8",
    ],
)
def test_transformers_is_told_that_a_checkpoint_has_another_form(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} has no model.safetensors.*IntegerModel.load"):
        InhibiDistilBertForSequenceClassification.from_pretrained(checkpoint_folder(name))


def test_an_int8_student_is_a_pipeline() -> None:
    loaded = load_model("inhibidistilbert-6-384-sst2-int8")
    classify = pipeline("text-classification", model=loaded.model, tokenizer=loaded.tokenizer)
    assert [answer["label"] for answer in classify(["a warm , funny film", "a dull mess"])] == [
        "positive",
        "negative",
    ]


def test_what_these_models_do_not_give_is_refused() -> None:
    model = make(attention_kind="inhibitor")
    ids, embedded = torch.tensor([[2, 5, 3]]), torch.zeros(1, 3, model.config.dim)
    for part in (model, model.distilbert):
        with pytest.raises(InputError, match="^inputs_embeds: these models read input_ids alone"):
            part(inputs_embeds=embedded)
        with pytest.raises(InputError, match="^output_attentions: .*no attention weights"):
            part(ids, output_attentions=True)
        with pytest.raises(InputError, match="^no input_ids"):
            part()
        part(ids, output_attentions=False, inputs_embeds=None)
