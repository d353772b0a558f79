"""Float classifiers by name: the one place that reads them, and says why one can't be read.

A name is that of a shipped checkpoint, a folder, or a repository of the Hugging Face hub. The
folder holds what transformers writes of a student, a DistilBERT or a BERT, or a student's int8
file (`int8_checkpoint`), and a tokenizer.

A folder that lacks a part may load all the same, because transformers makes a part up. So what was
loaded is asked whether its parts fit: the tokenizer knows words, all of them known to the model
too; the weights are finite; the labels are the task's, in the task's order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
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
from fhe_inhibitor.system.folders import is_path

UNNAMED = re.compile(r"(label_)?(\d+)")  # what transformers calls a label that nobody named


class LoadedModel(NamedTuple):
    """A float32 classifier in eval mode, its tokenizer, and the weights that its file lacks.

    missing: their names; in the model they are fresh, by seed 0. Only one that was given a new
    classifier may lack any.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    missing: tuple[str, ...] = ()


def load_config(name_or_path: str | Path) -> PretrainedConfig:
    """Load a model's configuration alone. Raises InputError where there is none."""
    folder = checkpoint_folder(name_or_path)
    with _refusing_unreadable(name_or_path):
        _refuse_mistyped(name_or_path)
        return AutoConfig.from_pretrained(folder)


def load_model(name_or_path: str | Path, new_labels: int | None = None) -> LoadedModel:
    """Load a float classifier and its tokenizer.

    new_labels: give the model a fresh classifier of so many labels; None keeps its own. Raises
    InputError for a name without a model, for files that are damaged, lack weights or don't fit
    each other, and where the hub can't be reached.
    """
    folder = checkpoint_folder(name_or_path)
    with _refusing_unreadable(name_or_path):
        _refuse_mistyped(name_or_path)
        if not folder.is_dir():
            AutoConfig.from_pretrained(folder)  # a tokenizer asks for many files, each in vain
        # Nothing of a folder is looked up on the hub.
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=folder.is_dir())
        model, missing = _load_weights(folder, new_labels)
    if missing and new_labels is None:
        raise InputError(
            f"{str(name_or_path)!r} lacks the weights {list(missing[:4])}; wanted a "
            "classifier that is already fine-tuned"
        )
    _check_tokenizer(tokenizer, model.config, name_or_path)
    _check_finite(model, name_or_path)
    positions = getattr(model.config, "max_position_embeddings", 0)
    if positions:  # 0 where positions are none of the embedding's business
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    return LoadedModel(model.eval(), tokenizer, missing)


def name_labels(config: PretrainedConfig, labels: Sequence[str], name: str | Path) -> None:
    """Give a classifier's outputs the names of a task's labels.

    Raises InputError for another number of outputs, and for outputs that have other names, or the
    same ones in another order. Names such as LABEL_0 say nothing; `neg` is as good as `negative`.
    """
    if config.num_labels != len(labels):
        raise InputError(
            f"{str(name)!r} has {config.num_labels} outputs; wanted {len(labels)}: "
            f"{', '.join(labels)}"
        )
    own = [str(config.id2label[index]) for index in range(len(labels))]
    # The only output of a regression has no order.
    if len(labels) > 1 and not all(map(_means, own, range(len(labels)), labels)):
        raise InputError(
            f"the labels of {str(name)!r} are {', '.join(own)}; wanted {', '.join(labels)}, in "
            "this order: pass a model of this task, or correct id2label in its config.json if "
            "the names there are wrong"
        )
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}


def _means(own: str, index: int, label: str) -> bool:
    """Whether a model's name of its output `index` may be the label."""
    given, wanted = (re.sub(r"\W", "_", name.lower()) for name in (own, label))
    unnamed = UNNAMED.fullmatch(given)
    if own == label:  # "1" may be what a class is called, and needn't be the one at index 1
        return True
    return int(unnamed[2]) == index if unnamed else given != "" and wanted.startswith(given)


def _load_weights(folder: Path, new_labels: int | None) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """Return the model, and the names of the weights that are fresh in it."""
    if (folder / INT8_FILE).is_file():
        return load_int8(folder), ()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder,
            local_files_only=folder.is_dir(),
            output_loading_info=True,
            dtype=torch.float32,  # whatever the file holds: a CPU adds half precision badly
            **({} if new_labels is None else {"num_labels": new_labels}),
        )
    return model, tuple(sorted(report["missing_keys"]))


def _refuse_mistyped(name: str | Path) -> None:
    """Raise OSError for a path that is no folder, before the hub is asked for it in vain."""
    if is_path(name) and not Path(name).is_dir():
        raise NotADirectoryError("no such folder")


def _check_tokenizer(
    tokenizer: PreTrainedTokenizerFast, config: PretrainedConfig, name: str | Path
) -> None:
    words = tokenizer.get_vocab()
    if set(words) <= set(tokenizer.all_special_tokens):
        raise InputError(
            f"{str(name)!r} has no tokenizer, or one that knows no word: save the model's "
            "tokenizer beside it (tokenizer.json)"
        )
    if max(words.values()) >= config.vocab_size:
        raise InputError(
            f"the tokenizer of {str(name)!r} has {len(words)} tokens, the model "
            f"{config.vocab_size}: files of different models"
        )


def _check_finite(model: PreTrainedModel, name: str | Path) -> None:
    for weight, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise InputError(
                f"the weights of {str(name)!r} aren't all numbers: {weight} holds NaN or an "
                "infinity; pass another checkpoint, its training diverged"
            )


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
