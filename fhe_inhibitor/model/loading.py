"""Float classifiers by name: the one place that reads them, and says why one can't be read.

A name is that of a shipped checkpoint, a folder, or a repository of the Hugging Face hub. The
folder holds what transformers writes of a student, a DistilBERT or a BERT, or a student's int8
file (`int8_checkpoint`), and a tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from fhe_inhibitor.errors import InputError, first_line
from fhe_inhibitor.integer.model import checkpoint_folder
from fhe_inhibitor.model.int8_checkpoint import INT8_FILE, load_int8


class LoadedModel(NamedTuple):
    """A classifier in eval mode, its tokenizer, and the weights that its file lacks.

    missing: their names; in the model they are fresh, by seed 0.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    missing: tuple[str, ...] = ()


def load_config(name_or_path: str | Path) -> PretrainedConfig:
    """Load a model's configuration alone. Raises InputError where there is none."""
    with _refusing_unreadable(name_or_path):
        return AutoConfig.from_pretrained(checkpoint_folder(name_or_path))


def load_model(name_or_path: str | Path, new_labels: int | None = None) -> LoadedModel:
    """Load a float classifier and its tokenizer.

    new_labels: give the model a fresh classifier of so many labels; None keeps its own. Raises
    InputError for a name without a model, for damaged files, and where the hub can't be reached.
    """
    folder = checkpoint_folder(name_or_path)
    local = folder.is_dir()  # nothing of it is looked up on the hub
    with _refusing_unreadable(name_or_path):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=local)
        if (folder / INT8_FILE).is_file():
            return LoadedModel(load_int8(folder), tokenizer)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model, report = AutoModelForSequenceClassification.from_pretrained(
                folder,
                local_files_only=local,
                output_loading_info=True,
                **({} if new_labels is None else {"num_labels": new_labels}),
            )
    return LoadedModel(model.eval(), tokenizer, tuple(sorted(report["missing_keys"])))


@contextmanager
def _refusing_unreadable(name_or_path: str | Path) -> Iterator[None]:
    """Turn what reading a model raises into an InputError that says what to pass instead."""
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"no model could be loaded from {str(name_or_path)!r} ({first_line(error)}); pass a "
            f"shipped checkpoint's name, a folder with config.json, model.safetensors (or "
            f"{INT8_FILE}) and tokenizer.json, or a hub name on a machine with network access"
        ) from error
