"""Engines that a test scripts. This imports little: each such engine loads it."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from pathlib import Path

from distributed import Worker, WorkerPlugin

from fhe_inhibitor.cluster import worker as cluster_worker
from fhe_inhibitor.cluster.engine import Engine
from fhe_inhibitor.system.child import Child

NAP = "nap"  # a function, with the seconds that it takes behind a colon


class Scripted(Engine):
    """Returns what it gets, after a nap; dies of a function that says so. Loads no circuits."""

    def call(
        self,
        folder: Path,
        keys: Path,
        function: str,
        names: Sequence[str],
        arguments: Sequence[bytes],
        keys_bytes: int,
    ) -> tuple[list[bytes], float]:
        keys.read_bytes()
        if function == "die":
            ctypes.string_at(0)  # as native code crashes
        seconds = float(function.partition(":")[2])
        time.sleep(seconds)
        return [arguments[0]], seconds


def _start_scripted(threads: int) -> Child:
    return Child(Scripted)


class ScriptEngines(WorkerPlugin):
    """Has workers start scripted engines, those that come late too."""

    name = "script-engines"

    def setup(self, worker: Worker) -> None:
        cluster_worker.start_engine = _start_scripted
