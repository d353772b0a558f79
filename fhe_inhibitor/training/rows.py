"""A task's examples as token ids, in batches, and a model's outputs and metrics on them.

The model is a teacher or a student. A pair of texts is `[CLS] first [SEP] second [SEP]`, without
token types, which DistilBERT doesn't have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from fhe_inhibitor.model.loading import load_model, name_labels
from fhe_inhibitor.text.batches import MAX_TOKENS, pad, padded_batches
from fhe_inhibitor.text.metrics import compute_metrics
from fhe_inhibitor.text.tasks import Example, Task


class TokenRow(NamedTuple):
    """Token ids of one text or pair, and its label, NaN if unknown."""

    ids: list[int]
    label: float


def load_classifier(name: str, task: Task) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load a classifier of the task, teacher or student, and its tokenizer.

    name: a shipped checkpoint, a folder or a hub name. Raises InputError where there is none, and
    for other labels than the task's.
    """
    model, tokenizer, _ = load_model(name)
    name_labels(model.config, task.labels, name)
    return model, tokenizer


def encode_examples(
    tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example], max_tokens: int = MAX_TOKENS
) -> list[TokenRow]:
    """Return each example's tokens, special ones included; the longer text of a pair is cut.

    There are no more of them than `max_tokens`, nor than the model has positions. Single texts and
    pairs may be mixed.
    """
    most = min(max_tokens, tokenizer.model_max_length)
    encoded: dict[int, list[int]] = {}
    for n_texts in {len(example.texts) for example in examples}:
        chosen = [i for i, example in enumerate(examples) if len(example.texts) == n_texts]
        columns = [[examples[i].texts[column] for i in chosen] for column in range(n_texts)]
        ids = tokenizer(*columns, truncation=True, max_length=most)["input_ids"]
        encoded.update(zip(chosen, ids, strict=True))
    return [TokenRow(encoded[i], example.label) for i, example in enumerate(examples)]


def collate(rows: Sequence[TokenRow], pad_id: int) -> dict[str, Tensor]:
    """Return a padded batch: ids and mask, int64 `[B, n]`, and labels, float `[B]`."""
    ids, mask = pad([row.ids for row in rows], pad_id)
    labels = torch.tensor([row.label for row in rows], dtype=torch.float32)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@torch.no_grad()
def predict_rows(
    model: nn.Module, rows: Sequence[TokenRow], batch_tokens: int = 2048
) -> np.ndarray:
    """Return a model's outputs in bfloat16: float32 `[len(rows), n_labels]`."""
    given: Any = model
    training = model.training
    model.eval()
    outputs = np.zeros((len(rows), given.config.num_labels), np.float32)
    batches = padded_batches([row.ids for row in rows], batch_tokens, given.config.pad_token_id)
    for chosen, *padded in batches:
        ids, mask = (tensor.to(given.device) for tensor in padded)
        # Also where the processor only imitates it: figures of different machines must compare.
        with torch.autocast(given.device.type, torch.bfloat16):
            logits = model(input_ids=ids, attention_mask=mask).logits
        outputs[chosen] = logits.float().cpu().numpy()
    model.train(training)
    return outputs


def measure_rows(model: nn.Module, task: Task, rows: Sequence[TokenRow]) -> dict[str, float]:
    """Return the task's metrics of a model on labelled rows, and their mean as "score"."""
    labels = np.array([row.label for row in rows])
    return compute_metrics(task.metrics, predict_rows(model, rows), labels)
