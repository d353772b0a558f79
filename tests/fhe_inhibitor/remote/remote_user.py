"""A user who comes with the client of the package, and a wire that listens to what it sends."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demos.relay import DOWN, UP, Relay
from fhe_inhibitor.remote.client import RemoteClient, RemoteOptions
from fhe_inhibitor.service.access import new_token
from tests.fhe_inhibitor.service.serving import Serving
from tests.observers import Recorder


class Wire(Relay):
    """A relay that keeps what passes, and cuts the next connection on which `cut_at` is seen.

    cut_at: direction, bytes that must have passed on the wire before, and bytes that the piece
    must hold.
    """

    def __init__(self, server: Serving) -> None:
        super().__init__(int(server.url.rpartition(":")[2]))
        self.url = f"http://127.0.0.1:{self.port}"
        self.passed = {UP: bytearray(), DOWN: bytearray()}
        self.cut_at: tuple[str, int, bytes] | None = None
        self.n_cut = 0

    def on_bytes(self, direction: str, piece: bytes) -> None:
        self.passed[direction] += piece
        if self.cut_at is None or direction != self.cut_at[0]:
            return
        if len(self.passed[direction]) >= self.cut_at[1] and self.cut_at[2] in piece:
            self.cut_at = None
            self.n_cut += 1
            raise ConnectionError


@dataclass
class RemoteUser:
    """Somebody's token, keys and cache; makes clients."""

    server: Serving
    token: str
    folder: Path
    observer: Recorder = field(default_factory=Recorder)

    def options(self, **changes: Any) -> RemoteOptions:
        folders = {"keys_dir": self.folder / "keys", "cache_dir": self.folder / "cache"}
        return RemoteOptions(**{**folders, **changes})

    def client(self, url: str = "", **changes: Any) -> RemoteClient:
        self.observer = Recorder()
        options = self.options(**changes)
        return RemoteClient(url or self.server.url, self.token, options, self.observer)


@contextmanager
def heeding_ctrl_c() -> Iterator[None]:
    """Heed SIGINT here and in processes started here: in a shell's background it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def remote_user(server: Serving, name: str, folder: Path) -> RemoteUser:
    """Return a new user of a server."""
    return RemoteUser(server, new_token(Path(str(server.settings["tokens_file"])), name), folder)
