"""A worker's own copies of files that it got by their SHA-256, each fetched once and checked.

Files of one worker lie in Dask's local folder of it, readable by its owner only, and go with it.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

from distributed.utils import sync

from fhe_inhibitor.cluster.orders import HANDLER, Circuits, Source
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.protocol import folder_hash
from fhe_inhibitor.system.files import write_atomically

if TYPE_CHECKING:
    from distributed import Worker

DISK_BYTES = 4 << 30  # of keys


class Store:
    """Files of one worker. n_bytes: of keys that it keeps on its disk, those used last."""

    def __init__(self, worker: Worker, n_bytes: int = DISK_BYTES) -> None:
        self._worker = worker
        self._n_bytes = n_bytes
        self._folder = Path(worker.local_directory) / "fhe-inhibitor"
        self._lock = threading.Lock()
        self._keys: OrderedDict[str, int] = OrderedDict()
        self._checked: set[str] = set()

    def fetch(self, source: Source, sha256: str) -> bytes:
        """Return bytes from where they are held; call it in a thread of a task.

        Raises InputError if they are not there, or others.
        """
        if source.folder is not None:
            try:
                data = Path(source.folder, sha256).read_bytes()
            except OSError as error:
                raise InputError(
                    f"{source.folder} lacks {sha256[:12]} on the worker {self._worker.address} "
                    f"({error.strerror}): share that folder with all workers"
                ) from error
        else:
            data = self._ask(source, sha256)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise InputError(f"what came as {sha256[:12]} has another SHA-256: it was damaged")
        return data

    def keys(self, source: Source, sha256: str) -> Path:
        """Return the file of evaluation keys, fetched unless it is here."""
        with self._lock:
            path = self._folder / "keys" / sha256
            if sha256 not in self._keys or not path.exists():
                data = self.fetch(source, sha256)
                self._make_room(len(data))
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_atomically(path, data, 0o600)
                self._keys[sha256] = len(data)
            self._keys.move_to_end(sha256)
        return path

    def circuits(self, source: Source, circuits: Circuits) -> Path:
        """Return a folder of circuits, whose files are fetched unless they are here.

        Raises InputError if they are other circuits than was said.
        """
        # Native code of the same circuits differs from one compilation to the next.
        files = json.dumps(dict(circuits.files), sort_keys=True)
        name = hashlib.sha256(files.encode()).hexdigest()
        folder = self._folder / "circuits" / name
        with self._lock:
            if name in self._checked:
                return folder
            for file, sha256 in circuits.files.items():
                path = folder / file
                if folder not in path.parents or ".." in path.parts:
                    raise InputError(f"circuits have a file {file!r} outside their folder")
                if not path.exists():
                    data = self.fetch(source, sha256)
                    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    write_atomically(path, data, 0o600)
            found = folder_hash(folder)
            if found == circuits.circuits_hash:
                self._checked.add(name)
        if found != circuits.circuits_hash:
            raise InputError(f"its circuits are {found[:12]}, wanted {circuits.circuits_hash[:12]}")
        return folder

    def _ask(self, source: Source, sha256: str) -> bytes:
        holder = self._worker.rpc(source.address)
        try:
            answer = sync(self._worker.loop, getattr(holder, HANDLER), sha256=sha256)
        except OSError as error:  # of Dask's comms, all are
            raise InputError(
                f"the worker {self._worker.address} can't reach {source.address}, which holds keys "
                "and circuits: open the network between the two, or share a folder"
            ) from error
        if answer["data"] is None:
            raise InputError(f"{source.address} holds no {sha256[:12]} any more")
        return bytes(answer["data"])

    def _make_room(self, n_bytes: int) -> None:
        while self._keys and sum(self._keys.values()) + n_bytes > self._n_bytes:
            sha256, _ = self._keys.popitem(last=False)
            (self._folder / "keys" / sha256).unlink(missing_ok=True)
