"""Circuits and keys of a model, ready to use: out of the cache, or made and put there.

The keys belong to the circuits: whenever these are made anew, so are the keys.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from compile.local.circuits_cache import cache_entry, compile_model, load_or_compile
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.runtime.client import Client
from fhe_inhibitor.runtime.costs import StageCost
from fhe_inhibitor.runtime.manifest import SPECS_FILE
from fhe_inhibitor.runtime.server import EvaluationKeys, Server
from fhe_inhibitor.system.cache import load_or_build, locked
from fhe_inhibitor.system.progress import Observer

KEYS_FILE = "secret.keys"


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
    entry, note = cache_entry(model, cache_dir), steps.observer.note

    def compile_into(module: Path) -> None:
        with steps.step("compile"):
            compile_model(model, steps.observer).save(module)

    def load_circuits(module: Path) -> tuple[Client, Server, str]:
        with steps.step("load circuits"):
            digest = hashlib.sha256((module / SPECS_FILE).read_bytes()).hexdigest()
            return Client(module, model.hash), Server(module, model.hash), digest

    def make_keys(part: Path) -> None:
        with steps.step("keygen"):
            client.generate_keys()
            client.save_keys(part / KEYS_FILE)

    def load_keys(part: Path) -> None:
        if not client.has_keys:
            with steps.step("load keys"):
                client.load_keys(part / KEYS_FILE)

    with locked(entry, note):
        client, server, digest = load_or_compile(
            model, entry, compile_into, load_circuits, steps.observer
        )
        load_or_build(entry / "keys", {"circuits": digest}, make_keys, load_keys, note)
    with steps.step("send evaluation keys"):
        data = client.evaluation_keys()
        evaluation_keys = server.read_evaluation_keys(data)
    return Prepared(client, server, evaluation_keys, len(data), tuple(steps.costs))


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
