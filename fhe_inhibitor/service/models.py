"""A folder of circuits as the service's clients see it. Loads no circuits, and no Concrete."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.manifest import EMBEDDING_FILE, Manifest, read_manifest
from fhe_inhibitor.runtime.protocol import (
    MODEL_FILES,
    FileInfo,
    Limits,
    ModelInfo,
    model_hash,
)


class ServedModel:
    """A model's folder: what to tell of it, and its public files.

    Raises InputError for a folder that lacks a file or holds a damaged one.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder = folder
        self.manifest: Manifest = read_manifest(folder)
        described = _describe(folder / EMBEDDING_FILE)
        files = [_file_info(folder / name) for name in MODEL_FILES]
        self.hash = _hash(files)
        self.info = ModelInfo(
            name=described["name"],
            model_hash=self.hash,
            network_hash=self.manifest.network_hash,
            keys_hash=self.manifest.keys_hash,
            buckets=list(self.manifest.buckets),
            labels=described["labels"],
            default_tokens=described["default_tokens"],
            files=files,
            limits=limits,
        )


def load_models(folders: Iterable[Path], limits: Limits) -> dict[str, ServedModel]:
    """Return models by name. Raises InputError for two of one name, and as `ServedModel`."""
    models: dict[str, ServedModel] = {}
    for folder in folders:
        model = ServedModel(folder, limits)
        if model.info.name in models:
            raise InputError(f"two models are called {model.info.name!r}: serve one of them")
        models[model.info.name] = model
    return models


def folder_hash(folder: Path) -> str:
    """Return the model hash of a folder. Raises InputError if it lacks a file."""
    return _hash([_file_info(folder / name) for name in MODEL_FILES])


def _hash(files: Iterable[FileInfo]) -> str:
    return model_hash({file.name: file.sha256 for file in files})


def _file_info(path: Path) -> FileInfo:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} can't be read ({error}); compile the model again") from error
    return FileInfo(name=path.name, size=len(content), sha256=hashlib.sha256(content).hexdigest())


def _describe(path: Path) -> dict[str, Any]:
    """Return the parameters of a public model that are no arrays."""
    try:
        with safe_open(path, framework="numpy") as file:
            return json.loads(file.metadata()["tree"])
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise InputError(
            f"{path} can't be read as a public model ({error}); compile the model again"
        ) from error
