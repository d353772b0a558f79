"""A DistilBERT's weights in an InhibiDistilBERT: what every student of full depth starts from."""

from __future__ import annotations

from typing import Any

from transformers import DistilBertConfig, PreTrainedModel

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.model.configuration import InhibiDistilBertConfig
from fhe_inhibitor.model.modeling import InhibiDistilBertForSequenceClassification
from fhe_inhibitor.text.batches import MAX_TOKENS

NEW_WEIGHTS = {"gamma", "shift", "eta"}  # which DistilBERT doesn't have


def from_distilbert(
    model: PreTrainedModel, attention_kind: str = "dot_product", n_tokens: int = MAX_TOKENS
) -> InhibiDistilBertForSequenceClassification:
    """Return a float InhibiDistilBERT with a DistilBERT's weights, and gamma = eta = 1.

    With "dot_product" it computes what the DistilBERT does; with an inhibitor its attention is
    wrong until it is derived or trained. n_tokens: the most tokens it reads, fewer if the
    DistilBERT has fewer positions. Raises InputError for a model that is no DistilBERT.
    """
    given: Any = model.config
    if not isinstance(given, DistilBertConfig):
        raise InputError(
            f"the model is a {given.model_type!r}; a student's weights come from a 'distilbert'"
        )
    student = InhibiDistilBertForSequenceClassification(
        InhibiDistilBertConfig(
            vocab_size=given.vocab_size,
            max_position_embeddings=given.max_position_embeddings,
            dim=given.dim,
            n_layers=given.n_layers,
            n_heads=given.n_heads,
            hidden_dim=given.hidden_dim,
            activation=given.activation,
            dropout=given.dropout,
            attention_kind=attention_kind,
            threshold="head",
            n_tokens=min(n_tokens, given.max_position_embeddings),
            pad_token_id=given.pad_token_id,
            id2label=given.id2label,
            label2id=given.label2id,
        )
    )
    missing, unexpected = student.load_state_dict(model.state_dict(), strict=False)
    if unexpected or any(name.rsplit(".")[-1] not in NEW_WEIGHTS for name in missing):
        raise InputError(f"the DistilBERT's weights don't fit: {[*unexpected, *missing][:4]}")
    return student.eval()
