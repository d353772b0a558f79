"""What a student learns with: embedding rows made from the teacher, and the linear baseline.

A plain embedding table of a small student overfits. Here a row is the sum of up to three parts:
what a small network makes of the word's features (`vocabulary`), a row of a free table, which is
strongly regularised, and the teacher's own row where the student is as wide as the teacher. After
training they fold into one ordinary table.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from fhe_inhibitor.model.modeling import InhibiDistilBertForSequenceClassification


class FeatureEmbedding(nn.Module):
    """Embedding rows `base + mlp(features) + up(free)`, `[vocab, dim]`.

    features: float32 `[vocab, F]`, fixed. free: `[vocab, free_dim]`, a table that starts at 0.
    up: a linear map from free_dim to dim, the identity where they are equal. base: float32
    `[vocab, dim]`, fixed, and what the rows start at; None for a random start without it.
    """

    def __init__(
        self,
        features: Tensor,
        dim: int,
        width: int = 256,
        free_dim: int | None = None,
        pad_token_id: int = 0,
        base: Tensor | None = None,
    ):
        super().__init__()
        free_dim = free_dim or dim
        self.register_buffer("features", features, persistent=False)
        self.register_buffer("base", base, persistent=False)
        self.mlp = nn.Sequential(
            nn.Linear(features.shape[1], width), nn.GELU(), nn.Dropout(0.1), nn.Linear(width, dim)
        )
        self.free = nn.Embedding(len(features), free_dim, padding_idx=pad_token_id)
        nn.init.zeros_(self.free.weight)
        self.up = nn.Linear(free_dim, dim, bias=False) if free_dim != dim else nn.Identity()
        if base is not None:
            nn.init.zeros_(self.mlp[-1].weight)
            nn.init.zeros_(self.mlp[-1].bias)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows of `ids` `[...]`: float32 `[..., dim]`; each word is computed once."""
        words, position = ids.unique(return_inverse=True)
        rows = (self.mlp(self.features[words]) + self.up(self.free(words))).float()
        return (rows if self.base is None else rows + self.base[words])[position]

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


def fold_embedding(
    model: InhibiDistilBertForSequenceClassification,
) -> InhibiDistilBertForSequenceClassification:
    """Replace a feature embedding by the table that it amounts to; return the model."""
    embedding = model.get_input_embeddings()
    if isinstance(embedding, FeatureEmbedding):
        model.set_input_embeddings(embedding.fold())
    return model
