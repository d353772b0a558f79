"""A model's circuits and its public part in one folder of the cache: all that a server serves.

Loads Concrete only to compile: who finds the circuits there starts in a second.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from circuits.network import Network
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.runtime.manifest import CONCRETE_VERSION, FORMAT_VERSION, read_manifest
from fhe_inhibitor.system.cache import load_or_build, locked
from fhe_inhibitor.system.folders import cache_root
from fhe_inhibitor.system.progress import Observer

if TYPE_CHECKING:
    from compile.module import CompiledNetwork

CIRCUITS_PART, MODULE_FOLDER = "circuits", "module"
# The modules whose code decides what is compiled: an edit of one makes circuits and keys anew.
CODE = (
    *(f"circuits.{name}" for name in (
        "network", "plan", "stages", "linear", "inhibitor", "dot_product", "pairs", "sums",
        "lookups", "encrypted",
    )),
    *(f"compile.{name}" for name in ("functions", "lookup_times", "manifests", "module")),
)  # fmt: skip

Loaded = TypeVar("Loaded")


def cache_entry(model: IntegerModel, cache_dir: str | Path | None = None) -> Path:
    """Return the folder of the cache that belongs to a model; it may not exist yet."""
    return cache_root(cache_dir) / f"{model.name}-{model.hash[:16]}"


def prepare_circuits(
    model: IntegerModel, cache_dir: str | Path | None = None, observer: Observer | None = None
) -> Path:
    """Return the folder with circuits, client specifications and public part; makes no keys.

    Raises InputError if the cache folder cannot be written.
    """
    observer = observer or Observer()
    entry = cache_entry(model, cache_dir)

    def load(module: Path) -> Path:
        read_manifest(module, model.hash)
        return module

    def compile_into(module: Path) -> None:
        compile_model(model, observer).save(module)

    with locked(entry, observer.note):
        return load_or_compile(model, entry, compile_into, load, observer)


def load_or_compile(
    model: IntegerModel,
    entry: Path,
    compile_into: Callable[[Path], object],
    load: Callable[[Path], Loaded],
    observer: Observer,
) -> Loaded:
    """Return what `load` makes of the folder of circuits, compiled first unless they fit.

    entry: the model's, `locked`.
    """

    def build(part: Path) -> None:
        compile_into(part / MODULE_FOLDER)
        model.write_public(part / MODULE_FOLDER)

    return load_or_build(
        entry / CIRCUITS_PART,
        _circuits_version(model),
        build,
        lambda part: load(part / MODULE_FOLDER),
        observer.note,
    )


class Compilable(Protocol):
    """What circuits are made from: an `IntegerModel`, or what was read from an exported graph."""

    @property
    def network(self) -> Network: ...
    @property
    def buckets(self) -> tuple[int, ...]: ...
    @property
    def p_error(self) -> float: ...
    @property
    def hash(self) -> str: ...


def compile_model(model: Compilable, observer: Observer) -> CompiledNetwork:
    """Return the circuits of a model for all its sequence lengths."""
    from compile.module import Settings, build_module

    return build_module(
        model.network,
        model.buckets,
        Settings(p_error=model.p_error),
        model.hash,
        lambda step: observer.begin(f"compile: {step}"),
    )


def _circuits_version(model: IntegerModel) -> dict[str, object]:
    """What compiled circuits depend on, the code that compiles them included."""
    code = hashlib.sha256()
    for name in CODE:
        spec = find_spec(name)
        assert spec is not None and spec.origin is not None
        code.update(Path(spec.origin).read_bytes())
    return {
        "version": version("fhe-inhibitor"),
        "concrete": CONCRETE_VERSION,
        "format": FORMAT_VERSION,
        "code": code.hexdigest()[:16],
        "model": model.hash,
        "buckets": list(model.buckets),
        "p_error": model.p_error,
    }
