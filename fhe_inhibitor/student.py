"""What a student learns with: embedding rows made from the teacher, and the linear baseline.

A plain embedding table of a small student overfits. Here a row is a small network's view of
what the teacher knows of the isolated word (see `fhe_inhibitor.vocabulary`), plus a strongly
regularised free table. After training both fold into one ordinary table.

A wide student is sparse from the start: the table of an output must reach as far as the sum of its
inputs can go, so that with 384 of them typical sums would share one or two entries in 32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from fhe_inhibitor.modeling import InhibiDistilBertForSequenceClassification

# By hand, not tuned: distances start below the threshold, so that every head passes its values on,
# and logits start small.
QUERY_STD, SPARSE_GAMMA = 0.2, 0.3
CLASSIFIER_STD, CLASSIFIER_FAN_IN = 0.3, 24


class FeatureEmbedding(nn.Module):
    """Embedding rows `mlp(features) + up(free)`, `[vocab, dim]`.

    features: float32 `[vocab, F]`, fixed. free: `[vocab, free_dim]`, a table that starts at 0;
    `up` leads from there to dim, or is nothing where free_dim is dim.
    """

    def __init__(
        self,
        features: Tensor,
        dim: int,
        width: int = 256,
        free_dim: int | None = None,
        pad_token_id: int = 0,
    ):
        super().__init__()
        free_dim = free_dim or dim
        self.register_buffer("features", features, persistent=False)
        self.mlp = nn.Sequential(
            nn.Linear(features.shape[1], width), nn.GELU(), nn.Dropout(0.1), nn.Linear(width, dim)
        )
        self.free = nn.Embedding(len(features), free_dim, padding_idx=pad_token_id)
        nn.init.zeros_(self.free.weight)
        self.up = nn.Linear(free_dim, dim, bias=False) if free_dim != dim else nn.Identity()

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows of `ids` `[...]`: float32 `[..., dim]`; each word is computed once."""
        words, position = ids.unique(return_inverse=True)
        return (self.mlp(self.features[words]) + self.up(self.free(words))).float()[position]

    @torch.no_grad()
    def fold(self) -> nn.Embedding:
        """Return the same rows as one ordinary table."""
        training = self.training
        self.eval()
        rows = torch.cat([self(ids) for ids in torch.arange(len(self.features)).split(4096)])
        self.train(training)
        return nn.Embedding.from_pretrained(rows, freeze=False, padding_idx=self.free.padding_idx)


class BagOfWords(nn.Module):
    """Logits that are sums of one row per token: what is possible with no lookup at all.

    Same embedding recipe, same texts, same teacher; the sum is one addition under encryption.
    """

    def __init__(self, features: Tensor, num_labels: int) -> None:
        super().__init__()
        self.embedding = FeatureEmbedding(features, num_labels)
        self.bias = nn.Parameter(torch.zeros(num_labels))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SequenceClassifierOutput:
        """Return logits `[B, num_labels]` of `input_ids` `[B, n]`."""
        rows = self.embedding(input_ids) * attention_mask[..., None]
        return SequenceClassifierOutput(logits=rows.sum(dim=1) + self.bias)


def with_feature_embedding(
    model: InhibiDistilBertForSequenceClassification,
    features: Tensor,
    width: int = 256,
    free_dim: int | None = None,
) -> InhibiDistilBertForSequenceClassification:
    """Replace the model's embedding table by one made from features; return the model."""
    config = model.config
    embedding = FeatureEmbedding(features, config.dim, width, free_dim, config.pad_token_id)
    model.set_input_embeddings(embedding)
    return model


@torch.no_grad()
def make_sparse(model: InhibiDistilBertForSequenceClassification) -> None:
    """Draw the weights of a model of static normalisation anew: few inputs an output, for good.

    As many as the quantization's `fan_in`, a residual counted as one of them, and which ones is
    drawn too; the others are 0 and get no gradient. Deviations keep the values of a layer near 1
    and let each of the 2 n_layers sums that the residual stream takes add a like share.
    """
    fan_in: int = model.config.quantization["fan_in"]
    blocks = model.distilbert.transformer.layer
    share = 1 / math.sqrt(2 * len(blocks))
    for block in blocks:
        attention = block.attention
        if block.shape.constant_query:
            attention.query.normal_(std=QUERY_STD)
        else:
            _make_sparse(attention.q_lin, QUERY_STD, fan_in)
        _make_sparse(attention.k_lin, QUERY_STD, fan_in)
        _make_sparse(attention.v_lin, 1.0, fan_in)
        is_residual = not block.shape.constant_query
        _make_sparse(attention.out_lin, share, fan_in - is_residual)
        attention.gamma.fill_(SPARSE_GAMMA)
        if block.shape.hidden_dim:
            _make_sparse(block.ffn.lin1, 1.0, fan_in)
            _make_sparse(block.ffn.lin2, share, fan_in - 1)
    _make_sparse(model.pre_classifier, 1.0, fan_in)
    _make_sparse(model.classifier, CLASSIFIER_STD, CLASSIFIER_FAN_IN, shared=True)


def _make_sparse(linear: nn.Linear, std: float, fan_in: int, shared: bool = False) -> None:
    """Draw the weights of a layer; shared: all outputs have the same inputs."""
    weight = linear.weight
    fan_in = min(fan_in, weight.shape[1])
    order = torch.rand_like(weight[:1] if shared else weight).expand_as(weight)
    mask = torch.zeros_like(weight).scatter_(1, order.topk(fan_in, dim=1).indices, 1.0)
    weight.copy_(mask * torch.randn_like(weight) * (std / math.sqrt(fan_in)))
    linear.bias.zero_()
    weight.register_hook(lambda gradient: gradient * mask)


def fold_embedding(
    model: InhibiDistilBertForSequenceClassification,
) -> InhibiDistilBertForSequenceClassification:
    """Replace a feature embedding by the table that it amounts to; return the model."""
    embedding = model.get_input_embeddings()
    if isinstance(embedding, FeatureEmbedding):
        model.set_input_embeddings(embedding.fold())
    return model
