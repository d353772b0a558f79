"""Folders that Concrete compiles into: it makes one for each compilation, and leaves it behind.

Here each gets a place that is removed with the server that reads it, at the latest when Python
exits. `system.child` gives a process that can be killed at any moment a folder for all of them.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from concrete.fhe.compilation import server as concrete_server
from concrete.fhe.compilation.module import FheModule
from concrete.fhe.compilation.utils import Lazy

PREFIX = "fhe-inhibitor-"
_LOCK = threading.Lock()
_REMOVALS: list[weakref.finalize] = []


def compile_tidily(compile_: Callable[[], FheModule]) -> FheModule:
    """Return the module that `compile_` makes, whose folders go when its servers go.

    A simulation is compiled when it is first asked for, into a folder of its own.
    """
    with _folder() as keep:
        module = compile_()
        keep(module.execution_runtime.val.server)
    simulation = module.simulation_runtime

    def simulate() -> object:
        with _folder() as keep_simulation:
            runtime = simulation.val
            keep_simulation(runtime.server)
        return runtime

    module.simulation_runtime = Lazy(simulate)
    return module


def remove_folders() -> None:
    """Remove all folders now: for a process that ends without Python's exit."""
    for removal in _REMOVALS:
        removal()
    _REMOVALS.clear()


@contextmanager
def _folder() -> Iterator[Callable[[object], None]]:
    """Have Concrete write into a new folder, which goes with what the block keeps, or with it."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    kept: list[object] = []
    try:
        with _LOCK:
            # It can't be told where to write, only what its name `tempfile` means.
            concrete_server.tempfile = SimpleNamespace(mkdtemp=lambda: tempfile.mkdtemp(dir=folder))
            try:
                yield kept.append
            finally:
                concrete_server.tempfile = tempfile
    finally:
        if kept:
            _REMOVALS[:] = [removal for removal in _REMOVALS if removal.alive]
            _REMOVALS.append(weakref.finalize(kept[0], shutil.rmtree, folder, True))
        else:
            shutil.rmtree(folder, ignore_errors=True)
