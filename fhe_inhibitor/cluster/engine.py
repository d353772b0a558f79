"""The process beside a Dask worker that loads circuits and keys, and calls encrypted functions.

It is a process of its own because a forged ciphertext can end the process that evaluates it. Then
this one dies, and neither the Dask worker nor the ciphertexts of others that lie there. It also
makes the threads of a call what they are meant to be: Dask sets OMP_NUM_THREADS to 1 in its
workers, and OpenMP reads that once, when it is loaded.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from pathlib import Path

from fhe_inhibitor.runtime.ready_keys import ReadyKeys
from fhe_inhibitor.runtime.server import Server, read_value
from fhe_inhibitor.system.child import Child


class Engine:
    """Calls functions of circuits, each loaded once, with keys that are kept ready."""

    def __init__(self) -> None:
        self._keys = ReadyKeys(0)
        self._servers: dict[Path, Server] = {}

    def call(
        self,
        folder: Path,
        keys: Path,
        function: str,
        names: Sequence[str],
        arguments: Sequence[bytes],
        keys_bytes: int,
    ) -> tuple[list[bytes], float]:
        """Return the outputs of a function, and the seconds of the call.

        folder: of circuits. keys: a file whose name is its SHA-256. names: of the arguments.
        keys_bytes: of packed keys that stay ready beside these. Raises InputError for circuits,
        keys or ciphertexts that don't fit.
        """
        self._keys.n_bytes = keys_bytes
        if folder not in self._servers:
            self._servers[folder] = Server(folder)
        server = self._servers[folder]
        ready = self._keys.get((folder, keys.name), keys.name, keys.read_bytes, server)
        given = [read_value(name, data) for name, data in zip(names, arguments, strict=True)]
        start = time.perf_counter()
        outputs = server.call(function, given, ready)
        seconds = time.perf_counter() - start
        return [value.serialize() for value in outputs], seconds

    def threads(self) -> int:
        """Return how many threads Concrete's OpenMP would use for the next call."""
        return openmp_threads()

    def loaded(self) -> list[str]:
        """Return the modules that this process has loaded."""
        import sys

        return sorted(sys.modules)


def start_engine(threads: int) -> Child:
    """Start an engine whose calls use so many threads."""
    return Child(Engine, threads=threads)


def openmp_threads() -> int:
    """Return what the OpenMP that Concrete has loaded into this process would use.

    That is another library than NumPy's or torch's. Raises OSError where Concrete isn't loaded.
    """
    with open("/proc/self/maps", encoding="utf-8") as maps:
        paths = {line.split(maxsplit=5)[5].strip() for line in maps if "libomp" in line}
    (path,) = [path for path in paths if "concrete_python" in path]
    return int(ctypes.CDLL(path).omp_get_max_threads())
