"""The file of an integer model: safetensors, with the tree of parameters in its header.

Each array of the parameter dataclasses of `circuits/` is a tensor named by its path, such as
`layers.0.heads.1.key.weight`; all else (class names, small integers, None) is one JSON tree
in the metadata, next to a SHA-256 over tree and tensors. Reading builds only the classes
listed here, so a file can't run code. A large file may be gzipped, then its name ends with `.gz`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from circuits.dot_product import DotProductParameters, Product
from circuits.inhibitor import InhibitorParameters
from circuits.linear import Linear
from circuits.lookups import AntiperiodicTable, SaturatingTable, Table
from circuits.network import Network
from circuits.stages import Classifier, Head, Layer
from circuits.sums import PartialSums
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.files import read_bytes, write_atomically

FORMAT_VERSION = 1
CLASSES = {
    cls.__name__: cls
    for cls in (
        AntiperiodicTable,
        Classifier,
        DotProductParameters,
        Head,
        InhibitorParameters,
        Layer,
        Linear,
        Network,
        PartialSums,
        Product,
        SaturatingTable,
        Table,
    )
}


# Fields that came later, by class: left out where they have their default, so that the files and
# hashes of models without them stay what they were.
LATER = {"Layer": ("pooled", "causal")}


def write(path: Path, parameters: dict[str, Any]) -> str:
    """Write parameters (dataclasses, arrays, JSON values) to `path`; return their SHA-256.

    Equal parameters give equal bytes.
    """
    tensors: dict[str, np.ndarray] = {}
    tree = json.dumps(flatten(parameters, "", tensors), sort_keys=True)
    digest = parameters_hash(tree, tensors)
    metadata = {"format_version": str(FORMAT_VERSION), "tree": tree, "sha256": digest}
    write_atomically(path, _in_order(save(tensors, metadata)))
    return digest


def read(path: Path) -> tuple[dict[str, Any], str]:
    """Read what `write` wrote, or what gzip made of it: parameters and their SHA-256.

    Raises InputError if the file is no such file, is of another version or was changed.
    """
    try:
        data = read_bytes(path)
        tensors = load(data)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} can't be read as safetensors: {error}") from error
    metadata = _header(data)[0].get("__metadata__") or {}  # null is valid safetensors
    if metadata.get("format_version") != str(FORMAT_VERSION):
        found = metadata.get("format_version", "none")
        raise InputError(
            f"{path} has integer format {found}, this version reads {FORMAT_VERSION}: "
            "convert the checkpoint again"
        )
    digest = parameters_hash(metadata.get("tree", ""), tensors)
    if digest != metadata.get("sha256"):
        raise InputError(
            f"{path} doesn't match its own hash: it was changed or damaged; "
            "copy or convert the checkpoint again"
        )
    try:
        return build(json.loads(metadata["tree"]), tensors), digest
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} doesn't describe an integer model: {error}") from error


def parameters_hash(tree: str, tensors: dict[str, np.ndarray]) -> str:
    """Return the SHA-256 of the JSON tree and of each tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(tree.encode())
    for name in sorted(tensors):
        tensor = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """Return the header of a safetensors file, and where the tensors begin."""
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), end


def _in_order(data: bytes) -> bytes:
    """Return a safetensors file with its metadata sorted; the library's order is random."""
    header, end = _header(data)
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + data[end:]


def flatten(value: Any, path: str, tensors: dict[str, np.ndarray]) -> Any:
    """Return the JSON tree of a value; its arrays go to `tensors` under their paths."""
    if is_dataclass(value):
        name = type(value).__name__
        later = LATER.get(name, ())
        items = {
            f.name: getattr(value, f.name)
            for f in fields(value)
            if f.name not in later or getattr(value, f.name) != f.default
        }
        return {"class": name, **flatten(items, path, tensors)}
    if isinstance(value, dict):
        return {k: flatten(v, f"{path}.{k}" if path else k, tensors) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [flatten(item, f"{path}.{i}", tensors) for i, item in enumerate(value)]
    if isinstance(value, np.ndarray):
        tensors[path] = _narrow(value)
        return {"tensor": path, "dtype": str(value.dtype)}
    return value


def build(tree: Any, tensors: dict[str, np.ndarray]) -> Any:
    """Return the value of a JSON tree."""
    if isinstance(tree, list):
        return tuple(build(item, tensors) for item in tree)
    if not isinstance(tree, dict):
        return tree
    if "tensor" in tree:
        return tensors[tree["tensor"]].astype(tree["dtype"])
    items = {name: build(item, tensors) for name, item in tree.items() if name != "class"}
    return CLASSES[tree["class"]](**items) if "class" in tree else items


def _narrow(array: np.ndarray) -> np.ndarray:
    """Return integers in the narrowest type that holds them."""
    if not np.issubdtype(array.dtype, np.integer) or not array.size:
        return np.ascontiguousarray(array)
    low, high = array.min(), array.max()
    for dtype in (np.int8, np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return np.ascontiguousarray(array.astype(dtype))
    return np.ascontiguousarray(array)
