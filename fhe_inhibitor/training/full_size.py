"""A student of full size that can be compiled, before it is trained.

It has all weights of its teacher. Gamma, delta and the scale of each head's output are derived
(`derivation`), and an affine map replaces each LayerNorm (`static_norm`). Unlike the teacher it
reads phrases: their embeddings start at what the teacher makes of their word pieces
(`phrase_teacher`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from fhe_inhibitor.model.configuration import InhibiDistilBertConfig
from fhe_inhibitor.model.from_distilbert import OF_OUR_OWN, from_distilbert
from fhe_inhibitor.model.modeling import InhibiDistilBertForSequenceClassification
from fhe_inhibitor.training.derivation import CALIBRATION_TEXTS, derive
from fhe_inhibitor.training.embeddings import FeatureEmbedding
from fhe_inhibitor.training.phrase_teacher import PhraseTeacher, phrase_embeddings
from fhe_inhibitor.training.static_norm import make_static
from fhe_inhibitor.training.teacher import encode


def compilable_student(
    reader: PhraseTeacher,
    features: Tensor,
    texts: Sequence[str],
    *,
    width: int,
    free_dim: int | None,
    **shape: Any,
) -> InhibiDistilBertForSequenceClassification:
    """Return a student with its teacher's shape and weights, float until it is calibrated.

    reader: the teacher, reading phrases. features: float32 `[vocab, F]`. texts: whole sentences
    to derive from. width, free_dim: of `FeatureEmbedding`. shape: arguments of
    `InhibiDistilBertConfig` beside the teacher's sizes, among them normalization="static",
    threshold="head" and classifier_query="cls".
    """
    rows = encode(reader.teacher, texts)
    start = from_distilbert(reader.teacher.model, shape["attention_kind"])
    derive(start, rows[:CALIBRATION_TEXTS])
    make_static(start, rows)
    own = start.config
    sizes = ("dim", "n_layers", "n_heads", "hidden_dim", "activation", *OF_OUR_OWN)
    config = InhibiDistilBertConfig(
        vocab_size=len(features),
        max_position_embeddings=shape["n_tokens"],
        **{name: getattr(own, name) for name in sizes},
        **shape,
    )
    student = InhibiDistilBertForSequenceClassification(config)
    layers = student.distilbert.transformer
    steps = layers.state_dict()  # of quantization; they are calibrated later
    layers.load_state_dict(steps | start.distilbert.transformer.state_dict())
    student.pre_classifier, student.classifier = start.pre_classifier, start.classifier
    table, positions = phrase_embeddings(reader, rows, config.n_tokens)
    student.set_input_embeddings(
        FeatureEmbedding(features, config.dim, width, free_dim, config.pad_token_id, base=table)
    )
    student.distilbert.embeddings.position_embeddings = nn.Embedding.from_pretrained(
        positions, freeze=False
    )
    return student
