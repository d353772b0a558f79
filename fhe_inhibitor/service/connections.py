"""Connections that can't be held by saying little: a deadline for each request's head.

uvicorn waits for a head as long as the client likes; that is an attack's cheapest way in, before
any token is seen. `middleware.BodyLimit` has the deadline for what follows the head.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

LINGER_S = 60.0  # to take the rest of an answer, once a connection is closed


def deadlined(head_timeout_s: float, max_connections: int) -> type[asyncio.Protocol]:
    """Return uvicorn's HTTP protocol with a deadline for heads.

    A connection on which no head of a request got whole for `head_timeout_s` is closed, however
    many bytes came. Of `max_connections` the one whose request is incomplete for the longest time
    makes room for a new one.
    """

    class Deadlined(H11Protocol):
        incomplete: dict[Deadlined, None] = {}  # the oldest first
        head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) >= max_connections and self.incomplete:
                next(iter(self.incomplete))._drop()
            self._look()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._look()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._look()

        def connection_lost(self, exc: Exception | None) -> None:
            self.incomplete.pop(self, None)
            self._stop_timer()
            super().connection_lost(exc)

        def _look(self) -> None:
            """Wait for a head where there is none, and note whether all of a request is there."""
            if self.transport.is_closing():
                return
            has_head = self.cycle is not None and not self.cycle.response_complete
            if has_head:
                self._stop_timer()
            elif self.head_timer is None:
                self.head_timer = self.loop.call_later(head_timeout_s, self._hang_up)
            if has_head and not self.cycle.more_body:
                self.incomplete.pop(self, None)
            else:
                self.incomplete.setdefault(self)

        def _stop_timer(self) -> None:
            if self.head_timer is not None:
                self.head_timer.cancel()
                self.head_timer = None

        def _drop(self) -> None:
            self.incomplete.pop(self)
            self.connections.discard(self)  # now: it would be counted until it is lost
            self.transport.abort()

        def _hang_up(self) -> None:
            self.transport.close()
            self.loop.call_later(LINGER_S, self.transport.abort)

    return Deadlined
