"""Circuits and keys of a model, ready to use: out of the cache, or made and put there.

The keys belong to the circuits: whenever these are made anew, so are the keys.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import circuits
from circuits.network import Network
from compile.cache import cache_root, load_or_build, locked
from compile.costs import StageCost
from compile.module import CompiledNetwork, Settings, build_module
from compile.observer import Observer
from fhe_inhibitor.client import Client
from fhe_inhibitor.integer_model import IntegerModel
from fhe_inhibitor.manifest import CONCRETE_VERSION, FORMAT_VERSION, SPECS_FILE
from fhe_inhibitor.server import EvaluationKeys, Server

MODULE_FOLDER, KEYS_FILE = "module", "secret.keys"


@dataclass(frozen=True)
class Prepared:
    """A client with keys, a server with circuits, and the evaluation keys that it was sent.

    setup: the time of making them, or of loading them.
    """

    client: Client
    server: Server
    evaluation_keys: EvaluationKeys
    evaluation_keys_bytes: int
    setup: tuple[StageCost, ...]


def prepare(
    model: IntegerModel, cache_dir: str | Path | None = None, observer: Observer | None = None
) -> Prepared:
    """Return circuits and keys of a model, from the cache where they are there and fit.

    Raises InputError if the cache folder cannot be written.
    """
    steps = _Steps(observer or Observer())
    folder = cache_root(cache_dir) / f"{model.name}-{model.hash[:16]}"
    compiled_part, keys_part, note = folder / "circuits", folder / "keys", steps.observer.note

    def compile_circuits(part: Path) -> None:
        with steps.step("compile"):
            compile_model(model, steps.observer).save(part / MODULE_FOLDER)

    def load_circuits(part: Path) -> tuple[Client, Server]:
        with steps.step("load circuits"):
            module = part / MODULE_FOLDER
            return Client(module, model.hash), Server(module, model.hash)

    def make_keys(part: Path) -> None:
        with steps.step("keygen"):
            client.generate_keys()
            client.save_keys(part / KEYS_FILE)

    def load_keys(part: Path) -> None:
        if not client.has_keys:
            with steps.step("load keys"):
                client.load_keys(part / KEYS_FILE)

    with locked(folder, note):
        client, server = load_or_build(
            compiled_part, _circuits_version(model), compile_circuits, load_circuits, note
        )
        specs = (compiled_part / MODULE_FOLDER / SPECS_FILE).read_bytes()
        digest = hashlib.sha256(specs).hexdigest()
        load_or_build(keys_part, {"circuits": digest}, make_keys, load_keys, note)
    with steps.step("send evaluation keys"):
        data = client.evaluation_keys()
        evaluation_keys = server.read_evaluation_keys(data)
    return Prepared(client, server, evaluation_keys, len(data), tuple(steps.costs))


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
    for folder in (Path(circuits.__file__).parent, Path(__file__).parent):
        for path in sorted(folder.glob("*.py")):
            code.update(path.read_bytes())
    return {
        "version": version("fhe-inhibitor"),
        "concrete": CONCRETE_VERSION,
        "format": FORMAT_VERSION,
        "code": code.hexdigest()[:16],
        "model": model.hash,
        "buckets": list(model.buckets),
        "p_error": model.p_error,
    }


class _Steps:
    """Announces steps and takes their time."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self.costs: list[StageCost] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.observer.begin(name)
        start = time.perf_counter()
        yield
        self.costs.append(StageCost(name, time.perf_counter() - start))
