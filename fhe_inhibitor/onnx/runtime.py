"""What onnxruntime does with a graph: run it, and quantize a float one to 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from fhe_inhibitor.onnx.graph import OPSET

ERRORS_ONLY = 3


class OnnxClassifier:
    """A graph in onnxruntime, on the processor."""

    def __init__(self, graph: onnx.ModelProto) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
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
