"""A folder of circuits as the service's clients see it. Loads no circuits, and no Concrete."""

from __future__ import annotations

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
    folder_hash,
)


class ServedModel:
    """A model's folder: what to tell of it, and its public files.

    Raises InputError for a folder that lacks a file or holds a damaged one.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder = folder
        self.manifest: Manifest = read_manifest(folder)
        described = _describe(folder / EMBEDDING_FILE)
        files = [FileInfo.of(folder / name) for name in MODEL_FILES]
        self.hash = folder_hash(folder)
        self.info = ModelInfo(
            name=described["name"],
            circuits_hash=self.hash,
            model_hash=self.manifest.model_hash,
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


def _describe(path: Path) -> dict[str, Any]:
    """Return the parameters of a public model that are no arrays."""
    try:
        with safe_open(path, framework="numpy") as file:
            return json.loads(file.metadata()["tree"])
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise InputError(
            f"{path} can't be read as a public model ({error}); compile the model again"
        ) from error
