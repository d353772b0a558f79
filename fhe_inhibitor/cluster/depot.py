"""Gives workers what they need by its SHA-256: keys, circuits, ciphertexts of a request.

It speaks to each worker that asks, over Dask's own connections and under the same certificates, so
nothing of it passes the scheduler. With a folder that all machines share, workers read there
instead and nobody has to be reached:

    SHA256              keys and files of circuits, for those who come later, too
    requests/SHA256     ciphertexts that tasks start from, while they run
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from distributed import Client
from distributed.comm import get_address_host
from distributed.core import Server as DaskServer
from distributed.protocol import to_serialize
from distributed.utils import get_ip, get_ipv6

from fhe_inhibitor.cluster.connection import scheduler_address
from fhe_inhibitor.cluster.orders import HANDLER, Circuits, Source
from fhe_inhibitor.runtime.protocol import LOOPBACK, folder_hash
from fhe_inhibitor.system.files import file_sha256, write_atomically, writing

REQUESTS = "requests"
LEFT_S = 7 * 24 * 3600.0  # no request runs as long: whoever wrote an older file was killed


class Depot:
    """Holds what one client's workers may ask for, as long as it is open.

    folder: one that all workers share; None to be asked by them. source: where they find what
    lasts. requests: where they find the rest.

    Raises InputError if the folder can't be written, as `add` and `add_circuits` do.
    """

    def __init__(self, client: Client, folder: Path | None = None) -> None:
        self._client = client
        self._folder = folder
        self._held: dict[str, Callable[[], bytes]] = {}
        self._written: set[Path] = set()
        self._server: DaskServer | None = None
        if folder is None:
            address = client.sync(self._listen)
            self.source = self.requests = Source(None, address)
        else:
            with _writing(folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                (folder / REQUESTS).mkdir(mode=0o700, exist_ok=True)
                _remove_what_was_left(folder / REQUESTS)
            self.source = Source(str(folder.resolve()), None)
            self.requests = Source(str((folder / REQUESTS).resolve()), None)

    def close(self) -> None:
        """Answer no more; remove the files of requests from a shared folder."""
        for path in self._written:
            path.unlink(missing_ok=True)
        if self._server is not None and self._client.status != "closed":
            self._client.sync(self._server.close)
        self._server = None

    def add(self, data: bytes, lasting: bool = False) -> str:
        """Hold bytes; return their SHA-256.

        lasting: leave them in a shared folder for those who come later, as keys are. Others are
        there until they are dropped.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        if self._folder is None:
            self._held[sha256] = lambda: data
        elif lasting:
            self._share(self._folder, sha256, data)
        else:
            path = self._folder / REQUESTS / sha256
            self._written.add(path)
            with _writing(self._folder):
                write_atomically(path, data, 0o600)  # even if it is there: its age counts
        return sha256

    def add_circuits(self, folder: Path) -> Circuits:
        """Hold all files of a folder of circuits. Raises InputError if it lacks one."""
        files = {}
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            sha256 = file_sha256(path)
            files[path.relative_to(folder).as_posix()] = sha256
            if self._folder is None:
                self._held[sha256] = path.read_bytes
            else:
                self._share(self._folder, sha256, path.read_bytes())
        return Circuits(folder_hash(folder), files)

    def drop(self, sha256: str) -> None:
        """Hold something no longer, of what doesn't last."""
        self._held.pop(sha256, None)
        if self._folder is not None:
            path = self._folder / REQUESTS / sha256
            path.unlink(missing_ok=True)
            self._written.discard(path)

    def _share(self, folder: Path, sha256: str, data: bytes) -> None:
        path = folder / sha256
        with _writing(folder):
            if not path.exists() or file_sha256(path) != sha256:
                write_atomically(path, data, 0o600)

    async def _listen(self) -> str:
        scheduler = scheduler_address(self._client)
        scheme, host = urlsplit(scheduler).scheme, get_address_host(scheduler)
        own = host if host in LOOPBACK else get_ipv6(host) if ":" in host else get_ip(host)
        security = self._client.security
        self._server = DaskServer(
            {HANDLER: self._give}, connection_args=security.get_connection_args("client")
        )
        host = f"[{own}]" if ":" in own else own
        await self._server.listen(f"{scheme}://{host}:0", **security.get_listen_args("client"))
        return str(self._server.address)

    async def _give(self, sha256: str) -> dict[str, Any]:
        read = self._held.get(sha256)
        return {"data": None if read is None else to_serialize(read())}


def _writing(folder: Path) -> AbstractContextManager[None]:
    return writing(f"the shared folder {folder}", "name another one with --shared")


def _remove_what_was_left(folder: Path) -> None:
    """Remove the requests of processes that were killed, which never drop them."""
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process was faster
            if time.time() - path.stat().st_mtime > LEFT_S:
                path.unlink()
