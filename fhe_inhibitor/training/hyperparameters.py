"""Everything that decides what `fhe-inhibitor train` makes: a student's size, and the recipe.

nano is the size of the default checkpoint, small is a layer deeper and three times as wide,
full-depth has all six layers, and full-size its teacher's width and heads as well. All can be
compiled.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.training.distillation import DistillationConfig
from fhe_inhibitor.training.teacher import OFFLINE_TEACHER

NANO: dict[str, Any] = {
    "max_position_embeddings": 0,
    "dim": 24,
    "n_layers": 2,
    "n_heads": 2,
    "hidden_dim": 0,
    "key_head_dim": [1, 1],
    "value_head_dim": [4, 8],
    "attention_window": [1, 0],
    "threshold": "head_offset",
    "max_relative_offset": 2,
    "classifier_query": "constant",
    "normalization": "static",
    "dropout": 0.0,
    "initializer_range": 0.2,
    "n_tokens": 16,
    "default_tokens": 12,
    "buckets": [8, 10, 12, 16],
    "token_importance": "public",
    "quantization": {
        "key_bits": 3,
        "value_bits": 4,
        "weight_bits": 5,
        "table_bits": 4,
        "sum_reach": 1.5,
        "keys_per_sum": [0, 4],
    },
}

# An output keeps 24 of 64 inputs: sums of all are read too coarsely by 5 bits. So does the
# classifier, whose logits of 8 bits would leave 64 features of 4 bits no weight but 0.
SMALL: dict[str, Any] = NANO | {
    "dim": 64,
    "n_layers": 3,
    "n_heads": 4,
    "key_head_dim": [1, 1, 1],
    "value_head_dim": [8, 8, 16],
    "attention_window": [2, 3, 0],
    "max_relative_offset": 3,
    "n_tokens": 24,
    "default_tokens": 16,
    "buckets": [8, 12, 14, 16, 24],
    "quantization": NANO["quantization"]
    | {
        "activation_bits": 5,
        "feature_bits": 4,
        "key_bits": 4,
        "table_bits": 5,
        "logit_bits": 8,
        "fan_in": 24,
        "classifier_fan_in": 24,
        "keys_per_sum": [0, 0, 4],
    },
}

# Sums are read by 6 bits, which the windows of the lower layers pay for.
FULL_DEPTH: dict[str, Any] = SMALL | {
    "n_layers": 6,
    "key_head_dim": [1] * 6,
    "value_head_dim": [8] * 5 + [16],
    "attention_window": [2, 2, 3, 3, 3, 0],
    "buckets": [12, 16, 24],
    "default_tokens": 24,
    "quantization": SMALL["quantization"]
    | {"activation_bits": 6, "table_bits": 6, "keys_per_sum": [0] * 5 + [4]},
}

# Sizes and activation are the teacher's.
FULL_SIZE: dict[str, Any] = {
    "threshold": "head",
    "classifier_query": "cls",
    "normalization": "static",
    "dropout": 0.0,
    "n_tokens": 16,  # [CLS] is one of them
    "default_tokens": 13,
    "buckets": [9, 13, 16],
    "token_importance": "public",
    "quantization": {
        "key_bits": 3,
        "value_bits": 4,
        "feature_bits": 3,
        "weight_bits": 6,
        "weight_norm": 22.0,
        "table_bits": 6,
        "zero_points": True,
        "logit_bits": 8,
        "fan_in": 64,
        "classifier_fan_in": 24,
    },
}


@dataclass(frozen=True)
class Size:
    """A student's shape, and what it takes to train it.

    student: arguments of `InhibiDistilBertConfig`. from_teacher: the student has the teacher's
    sizes, starts from its weights and learns from its hidden states (`full_size`); else it starts
    at random and learns from logits. embedding_width, free_dim: of `FeatureEmbedding`.

    Raises InputError for a student that starts from its teacher and pools positions.
    """

    student: dict[str, Any]
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    from_teacher: bool = False
    embedding_width: int = 256
    free_dim: int | None = None

    def __post_init__(self) -> None:
        pooling = self.student.get("pooling", 1)
        several = isinstance(pooling, (list, tuple))
        if self.from_teacher and any(p != 1 for p in (pooling if several else [pooling])):
            raise InputError(
                f"pooling is {pooling!r} for a student that learns from its teacher's hidden "
                "states, which are as long as the text: leave pooling out, or set from_teacher to "
                "False, so that the student learns from logits"
            )


# More than nano's: small gained more by steps than by anything else.
LONG = DistillationConfig(
    steps=40_000,
    float_fraction=0.6,
    learning_rate=2e-3,
    quantized_rate=0.75,
    temperature=2.0,
    free_weight_decay=1.0,
    token_counts=(12, 16, 24),
    token_weights=(0.2, 0.4, 0.4),
)
SIZES = {
    "nano": Size(
        NANO,
        DistillationConfig(
            steps=18_000,
            float_fraction=0.55,
            free_weight_decay=1.0,
            token_counts=(8, 10, 12, 16),
            token_weights=(0.1, 0.2, 0.4, 0.3),
        ),
    ),
    "small": Size(SMALL, LONG),
    "full-depth": Size(FULL_DEPTH, replace(LONG, token_weights=(0.1, 0.3, 0.6))),
    "full-size": Size(
        FULL_SIZE,
        DistillationConfig(
            steps=5000,
            batch_size=64,
            learning_rate=3e-4,
            embedding_rate=1e-3,
            free_learning_rate=3e-4,
            float_fraction=0.6,
            token_counts=(9, 13, 16),
            token_weights=(0.2, 0.5, 0.3),
            ema_decay=0.995,
            bfloat16=True,
            hidden_weight=5.0,
            pruned_between=(0.3, 0.8),
            centre_keys=True,
        ),
        from_teacher=True,
        embedding_width=512,
        free_dim=24,
    ),
}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what `train` makes.

    data: a folder with train.tsv and dev.tsv, or a hub name such as `nyu-mll/glue:sst2`.
    teacher: `minilm`, or a folder or hub name of a BERT or DistilBERT. A classifier of this task
    is used as it is; `minilm`, and others without a classifier, are fine-tuned first. sentences:
    a file of unlabelled texts, one per line, or None. labels: names of the classes
    0, 1, ... in the data, two or more.
    held_out: sentences kept out of train, to choose by; 0 for none. n_texts: size of the corpus.
    n_phrases: how many phrases the vocabulary holds. size: of the student, one of `SIZES` or
    of your own. seed: of the students. material_seed: of teacher, corpus and held-out sentences,
    which students of several seeds share.
    """

    data: str
    teacher: str = OFFLINE_TEACHER
    sentences: str | None = None
    labels: tuple[str, ...] = ("negative", "positive")
    teacher_epochs: float = 3
    held_out: int = 1000
    n_texts: int = 500_000
    n_phrases: int = 35_000
    size: Size = SIZES["nano"]
    seed: int = 0
    material_seed: int = 0
