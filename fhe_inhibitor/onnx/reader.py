"""Back from the quantized graph of an integer model to its integers.

Arrays come from the graph's initializers, what a lookup rounds away and where its table begins
from scale and zero point of its QuantizeLinear, the structure from the metadata. Then the graph is
written again from these integers: a file is accepted only if both are equal, node by node and
tensor by tensor, so the parameters are those of the graph, whatever the metadata claims.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from circuits.network import Network
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer import format as integer_format
from fhe_inhibitor.onnx.graph import load
from fhe_inhibitor.onnx.integer_graph import FORM, quantized_graph

TABLES = ("Table", "AntiperiodicTable", "SaturatingTable")
# What parameters that don't fit together raise, where they are built or written again.
UNFIT = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
)


@dataclass(frozen=True)
class ExportedModel:
    """What circuits are compiled from; hash: SHA-256 of all parameters, as the checkpoint's.

    noise_std: rounding noise that the model was trained for, in rounding steps.
    """

    network: Network
    buckets: tuple[int, ...]
    p_error: float
    noise_std: float
    hash: str


def read_exported(path: Path) -> ExportedModel:
    """Return the integer parameters of a graph that `export --quantized` wrote.

    Raises InputError for a file that is no such graph, or was changed.
    """
    parameters, digest = read_parameters(path)
    buckets, p_error = parameters.get("buckets"), parameters.get("p_error")
    noise_std = parameters.get("noise_std")
    if not (isinstance(buckets, tuple) and all(isinstance(n, int) for n in buckets)):
        raise InputError(f"{path}: buckets are {buckets!r}, wanted sequence lengths")
    if not (isinstance(p_error, float) and 0 < p_error < 1):
        raise InputError(f"{path}: p_error is {p_error!r}, wanted a probability")
    if not (isinstance(noise_std, float) and 0 <= noise_std < 1):
        raise InputError(f"{path}: noise_std is {noise_std!r}, wanted a deviation in steps")
    return ExportedModel(parameters["network"], buckets, p_error, noise_std, digest)


def read_parameters(path: Path) -> tuple[dict[str, Any], str]:
    """Return parameters and SHA-256, both as `integer_format.read` gives the checkpoint's."""
    model = load(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if metadata.get("form") != FORM:
        raise InputError(
            f"{path} is a {metadata.get('form', 'foreign')} graph; wanted the quantized graph of "
            "an integer model, from export --quantized"
        )
    try:
        parameters = _parameters(model, metadata)
        different = next(_differences(model, quantized_graph(parameters)), None)
    except UNFIT as error:
        raise InputError(f"{path} doesn't describe an integer model: {error}") from error
    if different:
        raise InputError(
            f"{path} isn't the graph that its own parameters give: {different} differs; it was "
            "changed, or written by another version: export the checkpoint again"
        )
    tensors: dict[str, np.ndarray] = {}
    tree = json.dumps(integer_format.flatten(parameters, "", tensors), sort_keys=True)
    return parameters, integer_format.parameters_hash(tree, tensors)


def _parameters(model: onnx.ModelProto, metadata: dict[str, str]) -> dict[str, Any]:
    tensors = {
        name: np.array(entry["values"], entry["dtype"]).reshape(entry["shape"])
        for name, entry in json.loads(metadata["tensors"]).items()
    }
    tensors |= {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return integer_format.build(_with_rounding(json.loads(metadata["tree"]), tensors), tensors)


def _with_rounding(tree: Any, tensors: dict[str, np.ndarray]) -> Any:
    """Return the tree with each table's rounding from its scale and zero point."""
    if isinstance(tree, list):
        return [_with_rounding(item, tensors) for item in tree]
    if not isinstance(tree, dict):
        return tree
    tree = {name: _with_rounding(item, tensors) for name, item in tree.items()}
    if tree.get("class") in TABLES:
        path = tree["values"]["tensor"].removesuffix(".values")
        if f"{path}.scale" in tensors:
            before = 0 if tree["class"] == "Table" else tensors[f"{path}.values"].shape[-1]
            tree["lsbs"] = int(math.log2(tensors[f"{path}.scale"]))
            tree["first"] = before - int(tensors[f"{path}.zero_point"])
    return tree


def _differences(given: onnx.ModelProto, expected: onnx.ModelProto) -> Iterator[str]:
    """Yield what two models differ in."""
    if list(given.opset_import) != list(expected.opset_import):
        yield "the operator set"
    if given.functions or given.training_info or given.graph.sparse_initializer:
        yield "what else the file holds"
    for part in ("input", "output", "node"):
        ours, theirs = getattr(expected.graph, part), getattr(given.graph, part)
        if len(theirs) != len(ours):
            yield f"the number of {part}s"
        for a, b in zip(theirs, ours, strict=False):
            if a != b:
                yield f"{part} {a.name!r}"
    arrays = [
        {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        for model in (given, expected)
    ]
    for name in sorted(arrays[0].keys() | arrays[1].keys()):
        a, b = (tensors.get(name) for tensors in arrays)
        if a is None or b is None or a.dtype != b.dtype or not np.array_equal(a, b):
            yield f"initializer {name!r}"
