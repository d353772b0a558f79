"""Gradual pruning: what is kept, how many, and that everything else of the model stays."""

from __future__ import annotations

import torch

from fhe_inhibitor.model.modeling import (
    InhibiDistilBertConfig,
    InhibiDistilBertForSequenceClassification,
)
from fhe_inhibitor.training.pruning import prune


def make_model() -> InhibiDistilBertForSequenceClassification:
    torch.manual_seed(0)
    shape = {"dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2, "vocab_size": 20}
    config = InhibiDistilBertConfig(
        **shape,
        initializer_range=0.3,
        normalization="static",
        quantization={"fan_in": 5, "classifier_fan_in": 3},
    )
    return InhibiDistilBertForSequenceClassification(config).eval()


def fan_in(linear: torch.nn.Linear) -> set[int]:
    return set((linear.weight != 0).sum(dim=1).tolist())


def test_the_fan_in_falls_to_what_is_wanted() -> None:
    model, ids = make_model(), torch.randint(0, 20, (8, 5))
    block = model.distilbert.transformer.layer[1]
    embeddings = model.distilbert.embeddings.word_embeddings.weight.clone()
    for progress, of_dim, of_hidden in ((0.0, 16, 32), (0.5, 6, 8), (1.0, 5, 5)):
        prune(model, progress, ids, torch.ones_like(ids))
        assert fan_in(block.attention.q_lin) == fan_in(model.pre_classifier) == {of_dim}
        assert fan_in(block.ffn.lin2) == {of_hidden}
    assert fan_in(model.classifier) == {3}
    assert len(model.classifier.weight.any(dim=0).nonzero()) == 3  # the same of both labels
    assert torch.equal(embeddings, model.distilbert.embeddings.word_embeddings.weight)


def test_what_matters_is_weight_times_input() -> None:
    model, ids = make_model(), torch.randint(0, 20, (8, 5))
    query = model.distilbert.transformer.layer[0].attention.q_lin
    with torch.no_grad():
        model.distilbert.embeddings.word_embeddings.weight[:, 3] = 100.0
        query.weight[:, 3] = 0.01  # the smallest weight of the largest input
    prune(model, 1.0, ids, torch.ones_like(ids))
    assert (query.weight[:, 3] != 0).all()
    assert not model.distilbert.transformer.layer[0].attention.q_lin._forward_pre_hooks
