"""Float graphs: torch's logits, from standard operators, for any batch and length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedModel,
)

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import CHECKPOINTS, DEFAULT_MODEL
from fhe_inhibitor.onnx.export import FLOAT_TOLERANCE, export_onnx
from fhe_inhibitor.onnx.float_graph import float_graph
from fhe_inhibitor.onnx.runtime import OnnxClassifier
from tests.fhe_inhibitor.model.test_modeling import SHAPE, make

KINDS = ("inhibitor", "inhibitor_signed", "dot_product")


def draw_tokens(batch: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids and a mask that hides another number of last tokens in each row."""
    ids = torch.randint(1, SHAPE["vocab_size"], (batch, n))
    hidden = torch.arange(batch)[:, None] % n
    return ids, (torch.arange(n)[None, :] < n - hidden).long()


def assert_same_logits(model: PreTrainedModel, shapes: list[tuple[int, int]]) -> None:
    run = OnnxClassifier(float_graph(model))
    assert run.inputs == {name: ["batch", "tokens"] for name in ("input_ids", "attention_mask")}
    for batch, n in shapes:
        ids, mask = draw_tokens(batch, n)
        with torch.inference_mode():
            expected = model(ids, attention_mask=mask).logits.numpy()
        found = run.logits(ids.numpy(), mask.numpy())
        np.testing.assert_allclose(found, expected, atol=FLOAT_TOLERANCE, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "changes",
    [
        {"shift": 0.1},
        {
            "classifier_query": "constant",
            "threshold": "head_offset",
            "attention_window": 2,
            "normalization": "static",
            "activation": "relu",
            "shift": 0.1,
        },
        {"threshold": "head_offset", "max_position_embeddings": 0, "hidden_dim": [0, 8]},
        {"n_heads": [3, 2], "key_head_dim": [2, 5], "value_head_dim": [4, 3]},
        {"n_layers": 3, "pooling": [2, 4, 1], "attention_window": 2},
        {"causal": True, "attention_window": [2, 0], "threshold": "head_offset", "shift": 0.1},
    ],
)
def test_a_student_s_graph_gives_torch_s_logits(kind: str, changes: dict[str, Any]) -> None:
    model = make(attention_kind=kind, **changes)
    with torch.no_grad():  # of every head and offset another
        for name, parameter in model.named_parameters():
            if name.rsplit(".")[-1] in ("gamma", "shift", "eta"):
                parameter.mul_(torch.rand_like(parameter) + 0.5)
    assert_same_logits(model, [(1, 1), (3, 7), (2, 16)])


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_a_teacher_s_graph_gives_torch_s_logits(activation: str) -> None:
    torch.manual_seed(0)
    config = DistilBertConfig(**SHAPE, activation=activation, num_labels=3)
    assert_same_logits(
        DistilBertForSequenceClassification(config).eval(), [(1, 1), (3, 7), (2, 16)]
    )


def test_the_shipped_float_model_s_graph_gives_torch_s_logits() -> None:
    model = AutoModelForSequenceClassification.from_pretrained(CHECKPOINTS / DEFAULT_MODEL)
    assert_same_logits(model.eval(), [(2, 12), (1, 24)])


@pytest.mark.parametrize("kind", KINDS)
def test_operators_are_standard_and_pairs_never_meet_channels(kind: str) -> None:
    graph = float_graph(make(attention_kind=kind))
    assert {(entry.domain, entry.version) for entry in graph.opset_import} == {("", 21)}
    assert all(node.domain == "" for node in graph.graph.node)
    scans = [node for node in graph.graph.node if node.op_type == "Scan"]
    assert len(scans) == (0 if kind == "dot_product" else 2 * SHAPE["n_layers"])
    inferred = onnx.shape_inference.infer_shapes(graph, strict_mode=True, data_prop=True)
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim) for value in inferred.graph.value_info
    }
    assert ranks and max(ranks.values()) == 4  # [B, H, n, n] or [B, H, n, d]; a fifth would be both


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_student_of_full_depth_gives_torch_s_logits(kind: str) -> None:
    torch.manual_seed(0)
    shape = {"dim": 384, "n_layers": 6, "n_heads": 12, "hidden_dim": 1536, "n_tokens": 128}
    model = make(**shape, attention_kind=kind, max_position_embeddings=512, initializer_range=0.05)
    assert_same_logits(model, [(1, 5), (2, 128)])


def test_another_architecture_is_refused() -> None:
    config = GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=8)
    with pytest.raises(InputError, match="a 'gpt2' can't be exported"):
        float_graph(GPT2ForSequenceClassification(config))


def test_a_bert_s_graph_gives_torch_s_logits() -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=SHAPE["vocab_size"], hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=12, max_position_embeddings=16, initializer_range=0.5, num_labels=3,
    )  # fmt: skip
    assert_same_logits(BertForSequenceClassification(config).eval(), [(1, 1), (3, 7), (2, 16)])


def test_an_activation_without_operator_is_refused() -> None:
    with pytest.raises(InputError, match="'silu' can't be exported; wanted one of relu, gelu"):
        float_graph(make(activation="silu"))


def test_a_graph_that_computes_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fhe_inhibitor.onnx.float_graph.LARGEST", 0.0)
    monkeypatch.setattr("fhe_inhibitor.onnx.float_graph.ACTIVATIONS", {"gelu": "Relu"})
    model = make(attention_kind="dot_product")
    monkeypatch.setattr("fhe_inhibitor.onnx.export.load_model", lambda folder: (model, None, ()))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RuntimeError, match="off by"):
        export_onnx(tmp_path, tmp_path / "wrong.onnx")
    assert not (tmp_path / "wrong.onnx").exists()
