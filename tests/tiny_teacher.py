"""A DistilBERT of two small random layers, and a few words: a teacher that costs nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedTokenizerFast,
)

from fhe_inhibitor.training.teacher import Teacher

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "fine", "poor", "film", ",", "."]
WORDS += ["dull", "##ish", "not", "very"]


def tiny_teacher(seed: int = 0, more_words: Iterable[str] = (), **changes: Any) -> Teacher:
    words = list(dict.fromkeys([*WORDS, *more_words]))
    backend = Tokenizer(WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]"
    )
    torch.manual_seed(seed)
    shape: dict[str, Any] = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2}
    config = DistilBertConfig(**{**shape, "vocab_size": len(words), **changes})
    return Teacher(DistilBertForSequenceClassification(config).eval(), tokenizer)


def save_teacher(teacher: Teacher, folder: Path) -> Path:
    """Write model and tokenizer to a folder, and return it."""
    teacher.model.save_pretrained(folder)
    teacher.tokenizer.save_pretrained(folder)
    return folder
