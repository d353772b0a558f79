"""The command `export`: which graph a model folder gives, written only after it was run.

float        any student or DistilBERT teacher: `float_graph`
integer      a quantized student, whose folder has integers: `integer_graph`
calibrated   the rest: onnxruntime quantizes the float graph's weights and activations to 8
             bits, with ranges from texts
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer import format as integer_format
from fhe_inhibitor.integer.model import (
    CONFIG_FILE,
    INTEGER_FILE,
    IntegerModel,
    checkpoint_folder,
    integer_file,
)
from fhe_inhibitor.integer.public import Tokens
from fhe_inhibitor.model.loading import load_model
from fhe_inhibitor.onnx.float_graph import float_graph
from fhe_inhibitor.onnx.graph import OPSET
from fhe_inhibitor.onnx.integer_graph import quantized_graph
from fhe_inhibitor.onnx.runtime import OnnxClassifier, calibrate
from fhe_inhibitor.system.files import write_atomically
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.text.batches import MAX_TOKENS
from fhe_inhibitor.text.data import is_visible

FLOAT_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Export:
    """What was written, and how it compares with what it was made from.

    form: float, integer or calibrated. max_difference: largest of a logit; of the integer form
    in real units. n_equal_labels: of n_texts, those with the label of the original: the float
    model, or the integer model without rounding noise.
    """

    file: str
    form: str
    opset: int
    inputs: dict[str, list[int | str]]
    size_bytes: int
    n_texts: int
    n_equal_labels: int
    max_difference: float


def export_onnx(
    name_or_path: str | Path,
    out: Path,
    quantized: bool = False,
    calibration: Sequence[str] = (),
    texts: Sequence[str] = (),
) -> Export:
    """Write a model as ONNX and compare it with the original on texts, or on random tokens.

    Raises InputError for a folder without a model, a file that can't be written, an empty text, a
    quantized export of a float model without calibration texts, and RuntimeError if a float
    graph's logits differ from torch's by more than 1e-4 (of the largest, if that is above 1), or an
    integer graph's at all.
    """
    folder = _find(name_or_path)
    _check_writable(out)
    if quantized and integer_file(folder).is_file():
        made = _from_integers(folder, texts)
    elif quantized and not calibration:
        raise InputError(
            f"{folder} has no {INTEGER_FILE}, it is a float model: pass --calibration FILE with "
            "texts, to quantize it to 8 bits"
        )
    else:
        made = _from_weights(folder, texts, calibration if quantized else ())
    export = _compare(made, out)
    try:
        write_atomically(out, made.graph.SerializeToString())
    except OSError as error:
        raise InputError(f"can't write {out}: {error.strerror}; name another file") from error
    return export


@dataclass(frozen=True)
class Made:
    """A graph, ids `[1, n]` to run it on, and the original's logits on them `[texts, n_labels]`."""

    graph: onnx.ModelProto
    inputs: list[np.ndarray]
    logits: np.ndarray


def _from_integers(folder: Path, texts: Sequence[str]) -> Made:
    graph = quantized_graph(integer_format.read(integer_file(folder))[0])
    model = IntegerModel.load(folder)
    if texts:
        read = model.tokenize_many(texts, None, strict=False, observer=Observer())
        inputs = [tokens.ids[None] for tokens in read]
    else:
        inputs = _random_ids(len(model.embedding), model.default_tokens)
    return Made(graph, inputs, np.concatenate([_integer_logits(model, ids) for ids in inputs]))


def _from_weights(folder: Path, texts: Sequence[str], calibration: Sequence[str]) -> Made:
    """The float graph, or with texts to calibrate on the one of 8 bits."""
    model, tokenizer, _ = load_model(folder)
    graph = float_graph(model)
    config = model.config
    positions = getattr(config, "max_position_embeddings", 0) or MAX_TOKENS  # 0: none are needed
    most = min(MAX_TOKENS, positions, getattr(config, "n_tokens", MAX_TOKENS))
    inputs = (
        _encode(tokenizer, texts, most) if texts else _random_ids(model.config.vocab_size, most)
    )
    if calibration:
        graph = calibrate(graph, _encode(tokenizer, calibration, most))
    return Made(graph, inputs, np.concatenate([_float_logits(model, ids) for ids in inputs]))


def _compare(made: Made, out: Path) -> Export:
    form = {entry.key: entry.value for entry in made.graph.metadata_props}["form"]
    run = OnnxClassifier(made.graph)
    logits = np.concatenate([run.logits(ids) for ids in made.inputs])
    difference = float(np.abs(logits - made.logits).max())
    unit = max(1.0, float(np.abs(made.logits).max()))  # of float32's precision
    # "not <=", because NaN is neither: nothing that can't be compared is written.
    if not difference <= {"float": FLOAT_TOLERANCE * unit, "integer": 0.0}.get(form, np.inf):
        raise RuntimeError(f"the {form} graph's logits are off by {difference}; nothing written")
    return Export(
        file=str(out),
        form=form,
        opset=OPSET,
        inputs=run.inputs,
        size_bytes=made.graph.ByteSize(),
        n_texts=len(logits),
        n_equal_labels=int((logits.argmax(axis=1) == made.logits.argmax(axis=1)).sum()),
        max_difference=difference,
    )


def _find(name_or_path: str | Path) -> Path:
    folder = checkpoint_folder(name_or_path)
    if not os.path.isfile(folder / CONFIG_FILE):  # Path's fails for a name that is too long
        raise InputError(
            f"no model {str(name_or_path)!r}: pass the name of a shipped checkpoint, or a folder "
            f"with {CONFIG_FILE}, model.safetensors and tokenizer.json"
        )
    return folder


def _check_writable(out: Path) -> None:
    """Refuse a file that can't be written, before a model is loaded."""
    target = Path(os.path.realpath(out))
    is_taken = os.path.exists(target) and not os.path.isfile(target)
    if is_taken or not os.access(target.parent, os.W_OK) or not os.path.isdir(target.parent):
        raise InputError(f"can't write {out}: pass --out FILE in a folder that exists")


def _encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], most: int
) -> list[np.ndarray]:
    """Return the ids of each text, `[1, n]`, the first `most`. Raises InputError for no ids."""
    rows = [tokenizer(text)["input_ids"][:most] for text in texts]
    for number, (text, row) in enumerate(zip(texts, rows, strict=True), start=1):
        if not (row and is_visible(text)):
            raise InputError(
                f"text {number} of {len(texts)} is empty: pass a sentence with at least one word"
            )
    return [np.array([row], np.int64) for row in rows]


def _random_ids(vocab: int, most: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(vocab, size=(1, n)) for n in range(2, most + 1, 5)]


def _float_logits(model: PreTrainedModel, ids: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model(torch.from_numpy(ids)).logits.numpy()


def _integer_logits(model: IntegerModel, ids: np.ndarray) -> np.ndarray:
    """Return the integer model's real logits as the graph states them, float32 `[1, n_labels]`."""
    tokens = Tokens(ids[0], ("",) * ids.shape[1], ids.shape[1])
    integers = model.integer_logits(*model.encode(tokens))
    return integers[None].astype(np.float32) * np.float32(model.logit_scale)
