"""What a student learns with: embedding rows made from the teacher, and the linear baseline.

A plain embedding table of a small student overfits. Here a row is a small network's view of
what the teacher knows of the isolated word (see `fhe_inhibitor.vocabulary`), plus a strongly
regularised free table. After training both fold into one ordinary table.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput

from fhe_inhibitor.modeling import InhibiDistilBertForSequenceClassification


class FeatureEmbedding(nn.Module):
    """Embedding rows `mlp(features) + free`, `[vocab, dim]`.

    features: float32 `[vocab, F]`, fixed. The free table starts at 0.
    """

    def __init__(self, features: Tensor, dim: int, width: int = 256, pad_token_id: int = 0):
        super().__init__()
        self.register_buffer("features", features, persistent=False)
        self.mlp = nn.Sequential(
            nn.Linear(features.shape[1], width), nn.GELU(), nn.Dropout(0.1), nn.Linear(width, dim)
        )
        self.free = nn.Embedding(len(features), dim, padding_idx=pad_token_id)
        nn.init.zeros_(self.free.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows of `ids` `[...]`: float `[..., dim]`; each word is computed once."""
        words, position = ids.unique(return_inverse=True)
        return (self.mlp(self.features[words]) + self.free(words))[position]

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
    model: InhibiDistilBertForSequenceClassification, features: Tensor
) -> InhibiDistilBertForSequenceClassification:
    """Replace the model's embedding table by one made from features; return the model."""
    config = model.config
    embedding = FeatureEmbedding(features, config.dim, pad_token_id=config.pad_token_id)
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
