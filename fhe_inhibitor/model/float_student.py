"""The float student behind a model's integers: what it makes of the tokens that they read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import checkpoint_folder
from fhe_inhibitor.model.loading import load_model
from fhe_inhibitor.model.modeling import WEIGHTS
from fhe_inhibitor.text.batches import padded_batches

BATCH_TOKENS = 2048


def find_weights(name_or_path: str | Path) -> Path | None:
    """Return the file of a checkpoint's float weights; None where it has integers alone."""
    folder = checkpoint_folder(name_or_path)
    return next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)


@torch.no_grad()
def float_logits(name_or_path: str | Path, ids: Sequence[np.ndarray], n_labels: int) -> np.ndarray:
    """Return the float student's logits, float32 `[len(ids), n_labels]`, nothing quantized.

    ids: token ids of each text, int64 `[n]`, as `IntegerModel.tokenize` chose them. Raises
    InputError for weights that can't be read, that have another number of labels, or whose logits
    are not finite.
    """
    model: torch.nn.Module
    model, _, _ = load_model(name_or_path)
    if model.config.num_labels != n_labels:
        raise InputError(
            f"the float student of {str(name_or_path)!r} has {model.config.num_labels} labels, its "
            f"integers {n_labels}: files of different models"
        )
    logits = np.zeros((len(ids), n_labels), np.float32)
    rows = [row.tolist() for row in ids]
    for chosen, inputs, mask in padded_batches(rows, BATCH_TOKENS, model.config.pad_token_id):
        logits[chosen] = model(input_ids=inputs, attention_mask=mask).logits.numpy()
    if not np.isfinite(logits).all():
        worst = logits[np.argmin(np.isfinite(logits).all(axis=1))].tolist()
        raise InputError(
            f"the float student of {str(name_or_path)!r} has the logits {worst} for one of the "
            "texts; wanted finite ones: train it again, or remove its weights to go without it"
        )
    return logits
