"""What goes to workers, and what comes back, beside ciphertexts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fhe_inhibitor.errors import InputError

KEYS_BYTES = 256 << 20  # of packed keys that an engine keeps ready
HANDLER = "fhe_inhibitor_file"  # of a depot
CORES_VARIABLE = "FHE_INHIBITOR_WORKER_CORES"
ENGINE_RESOURCE = "fhe-inhibitor"  # a worker has as many as tasks that it runs at once


@dataclass(frozen=True)
class Source:
    """Where a worker gets files by their SHA-256: a folder that it shares, or a depot's address."""

    folder: str | None
    address: str | None


@dataclass(frozen=True)
class Circuits:
    """A folder of circuits: its `circuits_hash`, and the SHA-256 of each file by its path."""

    circuits_hash: str
    files: Mapping[str, str]


@dataclass(frozen=True)
class Work:
    """What all tasks of one executor share. keys: SHA-256 of the evaluation keys.

    keys_bytes: of packed keys that an engine keeps ready while it runs these tasks.
    """

    source: Source
    circuits: Circuits
    keys: str
    keys_bytes: int = KEYS_BYTES


@dataclass(frozen=True)
class Receipt:
    """What is told of a task that is done.

    worker: its address. seconds: of the call. sizes: bytes of each output. threads: that the call
    could use. packed: size of a sample of the outputs after compression, over its size before.
    """

    worker: str
    seconds: float
    sizes: tuple[int, ...]
    threads: int
    packed: float


@dataclass(frozen=True)
class Equipment:
    """What a worker computes with.

    processor, cores, memory_gb: of its machine. tasks_at_once: how many it runs. threads: of each.
    """

    processor: str
    cores: int
    memory_gb: int
    tasks_at_once: int
    threads: int


class EngineDiedError(RuntimeError):
    """The process that runs circuits ended itself, or was killed, while it ran a task."""


class WorkerFailedError(RuntimeError):
    """A worker could not run a task, for want of space say. The scheduler is there all the same.

    Its cause is what the worker raised.
    """


class ClusterError(InputError):
    """No scheduler answers, or no worker that fits is there: later it may be."""
