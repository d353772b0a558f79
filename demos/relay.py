"""What crosses the network: passes bytes on between clients and a server, and shows them.

    python -m demos.relay --to 8765 --port 8766

Then point a client at port 8766. Over HTTPS there is nothing to see but noise; over HTTP there are
requests and answers, and in them ciphertexts.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Annotated, Self

import typer

UP, DOWN = "client -> server", "client <- server"
PIECE_BYTES = 1 << 16
SHOWN_BYTES = 56


class Relay:
    """A relay on this machine, running while it is entered; counts what passes.

    to: port of the server. port: to listen on, a free one if 0. `on_bytes` gets a direction
    and a piece before that is passed on, in the thread of its connection; ConnectionError from it
    cuts the connection.
    """

    def __init__(self, to: int, port: int = 0) -> None:
        self.n_bytes = {UP: 0, DOWN: 0}
        self._to = to
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]

    def on_bytes(self, direction: str, piece: bytes) -> None:
        """Override to look at what passes, or to cut the connection."""

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # ends a blocked accept, which close doesn't
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._to))
            except OSError:  # nobody there: the client is to see that, too
                client.close()
                continue
            for source, sink, direction in ((client, server, UP), (server, client, DOWN)):
                arguments = (source, sink, direction)
                threading.Thread(target=self._pass_on, args=arguments, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        with suppress(OSError):
            while piece := source.recv(PIECE_BYTES):
                self.on_bytes(direction, piece)
                self.n_bytes[direction] += len(piece)
                sink.sendall(piece)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()


class Shown(Relay):
    """Prints the beginning of each piece."""

    def on_bytes(self, direction: str, piece: bytes) -> None:
        start = "".join(chr(b) if 32 <= b < 127 else "." for b in piece[:SHOWN_BYTES])
        print(f"{direction} {len(piece):>7,} bytes  {start}", flush=True)


def main(
    to: Annotated[int, typer.Option(help="Port of the server.")] = 8765,
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8766,
) -> None:
    """Relay until Ctrl-C."""
    with Shown(to, port) as relay:
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
        print(", ".join(f"{name}: {n:,} bytes" for name, n in relay.n_bytes.items()))


if __name__ == "__main__":
    typer.run(main)
