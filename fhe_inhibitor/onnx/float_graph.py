"""A float InhibiDistilBERT, or DistilBERT, as a graph of standard ONNX operators.

    input_ids, attention_mask  int64 [batch, tokens], both axes dynamic
    logits                     float32 [batch, labels]

The inhibitor takes two `Scan`s, so that nothing needs n * n * d values: one over the channels of
queries and keys adds up |q - k|, one over the channels of the values sums what Z leaves of them.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from torch import Tensor, nn
from transformers import (
    BertForSequenceClassification,
    DistilBertForSequenceClassification,
    PreTrainedModel,
)

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.model.blocks import SelfAttention, StaticNorm, TransformerBlock
from fhe_inhibitor.model.from_distilbert import from_distilbert
from fhe_inhibitor.model.modeling import InhibiDistilBertForSequenceClassification
from fhe_inhibitor.onnx.graph import (
    FLOAT,
    INPUTS,
    Graph,
    empty_padding,
    find_pairs,
    last_tokens,
    pool,
    pooled_mask,
    table_rows,
)

ACTIVATIONS = {"relu": "Relu", "gelu": "Gelu"}
HEAD_ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh"}
LARGEST = float(np.finfo(np.float32).max)


def float_graph(model: PreTrainedModel) -> onnx.ModelProto:
    """Return the graph of a classifier's float forward pass.

    Raises InputError for another architecture, an activation that ONNX has no operator for, or
    a fake-quantized student.
    """
    if isinstance(model, (DistilBertForSequenceClassification, BertForSequenceClassification)):
        model = from_distilbert(model)
    if not isinstance(model, InhibiDistilBertForSequenceClassification):
        raise InputError(
            f"a {model.config.model_type!r} can't be exported; wanted an 'inhibidistilbert', a "
            "'distilbert' or a 'bert' classifier"
        )
    if model.config.activation not in ACTIVATIONS:
        raise InputError(
            f"activation {model.config.activation!r} can't be exported; wanted one of "
            f"{', '.join(ACTIVATIONS)}"
        )
    if model.config.fake_quantization_bits:
        raise InputError(
            "a fake-quantized student can't be exported; export the float student it was made "
            "from, which --quantized --calibration FILE quantizes"
        )
    graph = Graph()
    with graph.scope("distilbert.embeddings"):
        x = _embed(graph, model)
    x, mask = empty_padding(graph, x, model.config.stride)
    for index, block in enumerate(model.distilbert.transformer.layer):
        last = index == len(model.distilbert.transformer.layer) - 1
        with graph.scope(f"distilbert.transformer.layer.{index}"):
            if block.shape.pooled > 1:
                x = pool(graph, x, block.shape.pooled, model.config.dim, "ReduceMean")
                mask = pooled_mask(graph, mask, block.shape.pooled)
            x = _block(graph, block, x, mask, last, ACTIVATIONS[model.config.activation])
    causal = model.distilbert.transformer.layer[-1].shape.causal
    x = last_tokens(graph, x) if causal else graph.add("Squeeze", x, [1])
    head = HEAD_ACTIVATIONS[model.config.head_activation]
    x = graph.add(head, _linear(graph, x, model.pre_classifier, "pre_classifier"))
    logits = _linear(graph, x, model.classifier, "classifier")
    return graph.to_model(
        INPUTS, {"logits": (logits, FLOAT, ["batch", model.num_labels])}, {"form": "float"}
    )


def _embed(graph: Graph, model: InhibiDistilBertForSequenceClassification) -> str:
    embeddings = model.distilbert.embeddings
    table = _weight(graph, embeddings.word_embeddings.weight, "word_embeddings.weight")
    x = graph.add("Gather", table, "input_ids")  # [B, n, dim]
    if embeddings.position_embeddings is not None:
        positions = _weight(
            graph, embeddings.position_embeddings.weight, "position_embeddings.weight"
        )
        n = graph.add("Shape", "input_ids", start=1, end=2)
        x = graph.add("Add", x, graph.add("Slice", positions, [0], n, [0]))
    if embeddings.LayerNorm is not None:
        x = _normalize(graph, x, embeddings.LayerNorm, "LayerNorm")
    return x


def _block(
    graph: Graph, block: TransformerBlock, x: str, mask: str, last: bool, activation: str
) -> str:
    single = last and not block.shape.causal  # what the classifier reads
    queries = graph.add("Slice", x, [0], [1], [1]) if single else x
    with graph.scope("attention"):
        attended = _attend(graph, block.attention, queries, x, mask, last)
    if not block.shape.constant_query:
        attended = graph.add("Add", attended, queries)
    x = _normalize(graph, attended, block.sa_layer_norm, "sa_layer_norm")
    if not block.shape.hidden_dim:
        return x
    with graph.scope("ffn"):
        hidden = graph.add(activation, _linear(graph, x, block.ffn.lin1, "lin1"))
        hidden = _linear(graph, hidden, block.ffn.lin2, "lin2")
    return _normalize(graph, graph.add("Add", x, hidden), block.output_layer_norm, "output_norm")


def _attend(
    graph: Graph, attention: SelfAttention, queries: str, x: str, mask: str, last: bool
) -> str:
    """Add one layer's attention: `[B, n_q, dim]`."""
    shape = attention.shape
    if shape.constant_query:
        q = _weight(graph, attention.query.reshape(1, shape.n_heads, 1, -1), "query")
    else:
        q = _split(graph, _linear(graph, queries, attention.q_lin, "q_lin"), shape.n_heads)
    k = _split(graph, _linear(graph, x, attention.k_lin, "k_lin"), shape.n_heads)
    v = _split(graph, _linear(graph, x, attention.v_lin, "v_lin"), shape.n_heads)
    near = find_pairs(graph, last, shape.attention_window, mask, shape.causal)
    if shape.max_offset:
        rows = table_rows(graph, near.offset, shape.max_offset)
        shift = graph.add("Gather", _weight(graph, attention.shift, "shift"), rows, axis=1)
    else:
        shift = _weight(graph, attention.shift[:, :, None], "shift")
    factor = _weight(graph, attention.gamma[:, :, None] / math.sqrt(shape.key_head_dim), "factor")
    if attention.kind == "dot_product":
        heads = _dot_product(graph, q, k, v, near.mask, factor, shift)
    else:
        heads = _inhibitor(graph, q, k, v, near.mask, factor, shift, attention.kind)
        if attention.kind == "inhibitor_signed":
            heads = graph.add("Mul", heads, _weight(graph, attention.eta[:, :, None], "eta"))
    joined = graph.add("Reshape", graph.add("Transpose", heads, perm=[0, 2, 1, 3]), [0, 0, -1])
    return _linear(graph, joined, attention.out_lin, "out_lin")


def _inhibitor(
    graph: Graph, q: str, k: str, v: str, mask: str, factor: str, shift: str, kind: str
) -> str:
    def add_distances(body: Graph, total: str, q_c: str, k_c: str) -> tuple[str]:
        difference = body.add(
            "Sub", body.add("Unsqueeze", q_c, [3]), body.add("Unsqueeze", k_c, [2])
        )
        return (body.add("Add", total, body.add("Abs", difference)),)  # [B, H, n_q, n]

    def sum_kept(body: Graph, z: str, v_l: str) -> tuple[str, str]:
        values = body.add("Unsqueeze", v_l, [2])  # [B, H, 1, n]
        kept = body.add("Relu", body.add("Sub", values, z))
        if kind == "inhibitor_signed":
            negated = body.add("Sub", body.add("Neg", values), z)
            kept = body.add("Sub", kept, body.add("Relu", negated))
        return body.add("Identity", z), body.add("ReduceSum", kept, [3], keepdims=0)  # [B, H, n_q]

    shape = graph.add(
        "Concat",
        graph.add("Shape", k, start=0, end=2),
        graph.add("Shape", q, start=2, end=3),
        graph.add("Shape", k, start=2, end=3),
        axis=0,
    )
    zeros = graph.add("Expand", 0.0, shape)
    distance = graph.scan(add_distances, zeros, [q, k], axis=3)
    z = graph.add("Relu", graph.add("Sub", graph.add("Mul", distance, factor), shift))
    z = graph.add("Where", mask, z, LARGEST)  # of which no value leaves anything
    return graph.scan(sum_kept, z, [v], axis=3)


def _dot_product(graph: Graph, q: str, k: str, v: str, mask: str, factor: str, shift: str) -> str:
    product = graph.add("MatMul", q, graph.add("Transpose", k, perm=[0, 1, 3, 2]))
    scores = graph.add("Add", graph.add("Mul", product, factor), shift)
    weights = graph.add("Softmax", graph.add("Where", mask, scores, -LARGEST), axis=-1)
    return graph.add("MatMul", graph.add("Where", mask, weights, 0.0), v)


def _weight(graph: Graph, tensor: Tensor, name: str) -> str:
    return graph.constant(tensor.detach().numpy(), name)


def _linear(graph: Graph, x: str, module: nn.Linear, name: str) -> str:
    with graph.scope(name):
        weight = _weight(graph, module.weight.T, "weight")
        return graph.add("Add", graph.add("MatMul", x, weight), _weight(graph, module.bias, "bias"))


def _normalize(graph: Graph, x: str, module: nn.Module, name: str) -> str:
    with graph.scope(name):
        weight, bias = _weight(graph, module.weight, "weight"), _weight(graph, module.bias, "bias")
        if isinstance(module, StaticNorm):
            return graph.add("Add", graph.add("Mul", x, weight), bias)
        return graph.add("LayerNormalization", x, weight, bias, epsilon=module.eps)


def _split(graph: Graph, x: str, n_heads: int) -> str:
    """`[B, n, H d]` to `[B, H, n, d]`."""
    return graph.add("Transpose", graph.add("Reshape", x, [0, 0, n_heads, -1]), perm=[0, 2, 1, 3])
