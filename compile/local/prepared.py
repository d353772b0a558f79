"""A model's circuits out of the cache, or compiled and put there; its keys out of the keyring.

Circuits can always be made again, so they lie in the cache. Keys can't: they are the user's, and
lie in the keyring, under the hash of the circuits that they belong to.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from circuits.network import Network
from compile.local.p_error import cache_suffix
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.costs import StageCost
from fhe_inhibitor.runtime.keyring import KEYS_FILE, Keyring
from fhe_inhibitor.runtime.manifest import CONCRETE_VERSION, FORMAT_VERSION
from fhe_inhibitor.runtime.protocol import folder_hash
from fhe_inhibitor.system.cache import locked, published, why_unfit
from fhe_inhibitor.system.folders import CACHE_VARIABLE, cache_root
from fhe_inhibitor.system.progress import Observer, Stopwatch, tell_crossing

if TYPE_CHECKING:
    from compile.module import CompiledNetwork
    from fhe_inhibitor.runtime.client import Client
    from fhe_inhibitor.runtime.server import EvaluationKeys, Server

CIRCUITS_PART, SIMULATION_PART, MODULE_FOLDER = "circuits", "simulation", "module"
DOCUMENTS_SUFFIX = "-long"  # of parts that classify long documents too
SPLIT_SUFFIX = "-split"  # and for how many workers
OLD_KEYS = Path("keys") / KEYS_FILE  # in the cache, where versions before 0.2 kept them
# The modules whose code decides what is compiled: an edit of one makes circuits anew.
CODE = (
    *(f"circuits.{name}" for name in (
        "network", "plan", "blocks", "stages", "documents", "linear", "inhibitor", "dot_product",
        "pairs", "sums", "lookups", "encrypted", "intervals",
    )),
    *(f"compile.{name}" for name in (
        "functions", "lookup_counts", "lookup_times", "manifests", "module", "options", "verifier",
    )),
)  # fmt: skip

SPLIT_CODE = tuple(  # and those whose code decides how
    f"compile.cost.{name}"
    for name in ("blocks", "classes", "report", "sketch", "speed", "tasks", "trace")
)


class Compilable(Protocol):
    """What circuits are made from: an `IntegerModel`, or one read from an ONNX graph."""

    @property
    def network(self) -> Network: ...
    @property
    def buckets(self) -> tuple[int, ...]: ...
    @property
    def p_error(self) -> float: ...
    @property
    def hash(self) -> str: ...


class Encryptable(Compilable, Protocol):
    """What is run encrypted here: an `IntegerModel` of texts, or an `ImageModel`.

    projections: what the client sends beside x `[n, dim]`, by name. write_public: writes the two
    files of the public part.
    """

    @property
    def name(self) -> str: ...
    @property
    def neutral_logits(self) -> tuple[float, ...]: ...
    def projections(self, x: np.ndarray) -> Mapping[str, np.ndarray]: ...
    def write_public(self, folder: str | Path, documents: bool = False) -> None: ...


@dataclass(frozen=True)
class Prepared:
    """A client with keys, a server with circuits, and the evaluation keys that it was sent.

    folder, circuits_hash: of the circuits. setup: the time of making them, or of loading them.
    """

    client: Client
    server: Server
    folder: Path
    circuits_hash: str
    evaluation_keys: EvaluationKeys
    evaluation_keys_bytes: int
    setup: tuple[StageCost, ...]


def prepare(
    model: Encryptable,
    keyring: Keyring,
    passphrase: str | None = None,
    cache_dir: str | Path | None = None,
    observer: Observer | None = None,
    documents: bool = False,
    split: int = 1,
) -> Prepared:
    """Return circuits and keys of a model, made where they are missing.

    passphrase: of the keys, if they are, or are to be, locked with one. documents, split: as in
    `prepare_circuits`. Raises InputError if the cache or the keyring cannot be written, or the keys
    can't be read.
    """
    # Here, because importing Concrete takes seconds that a server's command can spare.
    from fhe_inhibitor.runtime.client import Client
    from fhe_inhibitor.runtime.server import Server

    steps = Stopwatch(observer or Observer())
    folder = prepare_circuits(model, cache_dir, steps, documents=documents, split=split)
    client, server = Client(folder, model.hash), Server(folder, model.hash)
    _move_old_keys(cache_entry(model, cache_dir) / OLD_KEYS, keyring, steps)
    digest = folder_hash(folder)
    keyring.load_or_make(client, digest, model.name, passphrase, steps)
    steps.begin("send evaluation keys")
    data = client.evaluation_keys()
    tell_crossing(steps, "evaluation keys", data)
    evaluation_keys = server.read_evaluation_keys(data)
    setup = tuple(StageCost(step, seconds) for step, seconds in steps.stop().items())
    return Prepared(client, server, folder, digest, evaluation_keys, len(data), setup)


def prepare_circuits(
    model: Encryptable,
    cache_dir: str | Path | None = None,
    observer: Observer | None = None,
    simulated: bool = False,
    on_compiled: Callable[[CompiledNetwork], None] | None = None,
    documents: bool = False,
    split: int = 1,
) -> Path:
    """Return the folder with circuits, client specifications and public part; makes no keys.

    simulated: of circuits that simulate encryption, which need no public part. on_compiled: is
    given the circuits if they are compiled here, before they are in the cache. documents: of
    circuits that classify long documents too. split: of circuits whose stages are cut into tasks
    for so many workers. Raises InputError if the cache folder cannot be written, or no code in it
    can be run.
    """
    observer = observer or Observer()
    entry = cache_entry(model, cache_dir)
    name = SIMULATION_PART if simulated else CIRCUITS_PART
    suffix = DOCUMENTS_SUFFIX * documents + (f"{SPLIT_SUFFIX}{split}" if split > 1 else "")
    part, made_from = entry / (name + suffix), _made_from(model, documents, split)
    module = part / MODULE_FOLDER
    with locked(entry, observer.note):
        _refuse_noexec(entry)
        observer.begin("load circuits")
        if reason := why_unfit(part, made_from):
            if part.exists():
                observer.note(f"the circuits in the cache are {reason}; making new ones")
            with published(part, made_from) as unfinished:
                compiled = compile_model(model, observer, documents, split)
                if on_compiled is not None:
                    on_compiled(compiled)
                compiled.save(unfinished / MODULE_FOLDER, simulated)
                if not simulated:
                    model.write_public(unfinished / MODULE_FOLDER, documents)
    return module


def compile_model(
    model: Compilable, observer: Observer, documents: bool = False, split: int = 1
) -> CompiledNetwork:
    """Return the circuits of a model for all its sequence lengths, and for long documents.

    split: for how many workers the stages of each layer are cut into tasks.
    """
    # Here, because it loads Concrete, which whoever finds the circuits in the cache can spare.
    from compile.cost.blocks import choose_blocks
    from compile.module import CompileOptions, build_module

    blocks = choose_blocks(model.network, model.buckets, model.p_error, split)
    options = CompileOptions(p_error=model.p_error, documents=documents, blocks=blocks)
    return build_module(model.network, model.buckets, options, model.hash, observer)


def cache_entry(model: Encryptable, cache_dir: str | Path | None = None) -> Path:
    """Return the folder of the cache that belongs to a model; it may not exist yet."""
    name = f"{model.name}-{model.hash[:16]}{cache_suffix(model.p_error)}"
    return cache_root(cache_dir) / name


def tokenizer_sha256(model: object) -> str | None:
    """Return the SHA-256 of a model's tokenizer as JSON, None for one that reads no texts.

    The tokenizer is in the public part of the model, and not among the integers of its hash.
    """
    tokenizer = getattr(model, "tokenizer", None)
    return None if tokenizer is None else hashlib.sha256(tokenizer.to_str().encode()).hexdigest()


def _refuse_noexec(entry: Path) -> None:
    """Refuse a file system whose mount forbids to run what lies there: circuits are native code."""
    if os.statvfs(entry).f_flag & getattr(os, "ST_NOEXEC", 0):
        raise InputError(
            f"the cache folder {entry} is on a file system that is mounted noexec, so circuits in "
            f"it can't run: name a folder elsewhere in {CACHE_VARIABLE}"
        )


def _made_from(model: Encryptable, documents: bool, split: int) -> dict[str, object]:
    """Return what circuits and the public part beside them depend on, code included."""
    code = hashlib.sha256()
    for name in (*CODE, *(SPLIT_CODE if split > 1 else ())):
        spec = find_spec(name)
        assert spec is not None and spec.origin is not None
        code.update(Path(spec.origin).read_bytes())
    return {
        "version": version("fhe-inhibitor"),
        "concrete": CONCRETE_VERSION,
        "format": FORMAT_VERSION,
        "code": code.hexdigest()[:16],
        "model": model.hash,
        "tokenizer": tokenizer_sha256(model),
        "buckets": list(model.buckets),
        "p_error": model.p_error,
        "split": split,
        "neutral_logits": list(model.neutral_logits) if documents else None,
    }


def _move_old_keys(old: Path, keyring: Keyring, observer: Observer) -> None:
    """Move keys that an older version left in the cache to the keyring: no key is ever removed.

    They aren't used: their format has no digest, and keys that are damaged give wrong labels.
    """
    if old.exists():
        path = keyring.set_aside(old)
        observer.note(
            f"the keys {old} moved to {path}: a cache may be deleted, keys may not. They have no "
            "digest that would show damage, so new ones are made"
        )
