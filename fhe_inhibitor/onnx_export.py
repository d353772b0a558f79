"""The command `export`: which graph a model folder gives, written only after it was run.

float        any student or DistilBERT teacher: `onnx_float`
integer      a quantized student, whose folder has integers: `onnx_quantized`
calibrated   the rest: onnxruntime quantizes the float graph's weights and activations to 8
             bits, with ranges from texts
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process
from safetensors import SafetensorError
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from fhe_inhibitor import integer_format
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer_model import (
    CHECKPOINTS,
    CONFIG_FILE,
    INTEGER_FILE,
    IntegerModel,
    Tokens,
)
from fhe_inhibitor.onnx_float import float_graph
from fhe_inhibitor.onnx_graph import OPSET
from fhe_inhibitor.onnx_quantized import quantized_graph

FLOAT_TOLERANCE = 1e-4
MOST_TOKENS = 128
ERRORS_ONLY = 3


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

    Raises InputError for a folder without a model, a file that can't be written, a quantized
    export of a float model without calibration texts, and RuntimeError if a float graph's logits
    differ from torch's by more than 1e-4 (of the largest, if that is above 1), or an integer
    graph's at all.
    """
    folder = _find(name_or_path)
    _check_writable(out)
    if quantized and (folder / INTEGER_FILE).is_file():
        graph = quantized_graph(integer_format.read(folder / INTEGER_FILE)[0])
        model = IntegerModel.load(folder)
        inputs = [model.tokenize(text).ids[None] for text in texts] or _random_ids(
            len(model.embedding), model.default_tokens
        )
        original = np.concatenate([_integer_logits(model, ids) for ids in inputs])
    else:
        if quantized and not calibration:
            raise InputError(
                f"{folder} has no {INTEGER_FILE}, it is a float model: pass --calibration FILE "
                "with texts, to quantize it to 8 bits"
            )
        float_model, tokenizer = _load(folder)
        graph = float_graph(float_model)
        most = min(MOST_TOKENS, getattr(float_model.config, "n_tokens", MOST_TOKENS))
        inputs = _encode(tokenizer, texts, most) or _random_ids(float_model.config.vocab_size, most)
        if quantized:
            graph = calibrate(graph, _encode(tokenizer, calibration, most))
        original = np.concatenate([_float_logits(float_model, ids) for ids in inputs])
    form = {entry.key: entry.value for entry in graph.metadata_props}["form"]
    run = OnnxClassifier(graph)
    logits = np.concatenate([run.logits(ids) for ids in inputs])
    difference = float(np.abs(logits - original).max())
    unit = max(1.0, float(np.abs(original).max()))  # of float32's precision
    if difference > {"float": FLOAT_TOLERANCE * unit, "integer": 0.0}.get(form, np.inf):
        raise RuntimeError(f"the {form} graph's logits are off by {difference}; nothing written")
    data = graph.SerializeToString()
    try:
        out.write_bytes(data)
    except OSError as error:
        raise InputError(f"can't write {out}: {error.strerror}; name another file") from error
    return Export(
        file=str(out),
        form=form,
        opset=OPSET,
        inputs=run.inputs,
        size_bytes=len(data),
        n_texts=len(original),
        n_equal_labels=int((logits.argmax(axis=1) == original.argmax(axis=1)).sum()),
        max_difference=difference,
    )


class OnnxClassifier:
    """A graph in onnxruntime, on the processor."""

    def __init__(self, graph: onnx.ModelProto) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = onnxruntime.InferenceSession(
            graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    @property
    def inputs(self) -> dict[str, list[int | str]]:
        """Axes of each input; a string names a dynamic one."""
        return {value.name: value.shape for value in self._session.get_inputs()}

    def logits(self, ids: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Return float32 `[B, n_labels]` of int64 ids `[B, n]`."""
        mask = np.ones_like(ids) if mask is None else mask
        return self._session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]


def calibrate(graph: onnx.ModelProto, inputs: Sequence[np.ndarray]) -> onnx.ModelProto:
    """Return a float graph with linear layers in 8 bits, ranges from inputs `[1, n]`.

    Weights are int8 per output, what they multiply uint8 per layer; attention stays float.
    """
    with TemporaryDirectory() as folder:
        given, prepared, path = (Path(folder) / name for name in ("given", "prepared", "quantized"))
        onnx.save(graph, given)
        quant_pre_process(given, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            path,
            _Reader(inputs),
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            activation_type=quantization.QuantType.QUInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        model = onnx.load(path)
    del model.metadata_props[:], model.opset_import[:]  # onnxruntime lists all that it knows
    model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    onnx.helper.set_model_props(model, {"form": "calibrated"})
    onnx.checker.check_model(model, full_check=True)
    return model


class _Reader(quantization.CalibrationDataReader):
    """Gives calibration texts one after the other."""

    def __init__(self, inputs: Sequence[np.ndarray]) -> None:
        self._inputs = iter(inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        ids = next(self._inputs, None)
        return None if ids is None else {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def _find(name_or_path: str | Path) -> Path:
    folder = CHECKPOINTS / name_or_path
    folder = folder if folder.is_dir() else Path(name_or_path)
    if not (folder / CONFIG_FILE).is_file():
        raise InputError(
            f"no model {str(name_or_path)!r}: pass the name of a shipped checkpoint, or a folder "
            f"with {CONFIG_FILE}, model.safetensors and tokenizer.json"
        )
    return folder


def _check_writable(out: Path) -> None:
    """Refuse a file that can't be written, before a model is loaded."""
    if out.is_dir() or not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise InputError(f"can't write {out}: pass --out FILE in a folder that exists")


def _load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    try:
        model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True)
        return model.eval(), AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        line = str(error).strip().split("\n")[0]
        raise InputError(f"no model could be loaded from {folder} ({line})") from error


def _encode(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], most: int
) -> list[np.ndarray]:
    """Return the ids of each text, `[1, n]`, the first `most`."""
    rows = [tokenizer(text)["input_ids"][:most] for text in texts]
    return [np.array([row], np.int64) for row in rows if row]


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
