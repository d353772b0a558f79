"""Around every request: how large and how slow its body may be, and what is logged of it."""

from __future__ import annotations

import asyncio
import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fhe_inhibitor.runtime.protocol import PREFIX
from fhe_inhibitor.service.logs import fields
from fhe_inhibitor.service.metrics import Metrics
from fhe_inhibitor.service.refusals import Refused, too_large
from fhe_inhibitor.service.settings import Settings

LOG = logging.getLogger(__name__)
MAX_JSON_BYTES = 1 << 16
SLOWEST_BYTES_PER_S = 8 << 10  # of a client that keeps its connection
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class BodyLimit:
    """Refuses a body as soon as it is known to be too large, before it is in memory, or too slow.

    What arrived of a body that is refused for its slowness stays with whoever read it.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limit(scope["method"], scope["path"])
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        received, more = 0, True
        start = asyncio.get_running_loop().time()

        async def limited() -> Message:
            nonlocal received, more
            if announced.isdigit() and int(announced[:20]) > limit:
                raise too_large("the body of such a request", limit)
            patience_s = self._settings.body_timeout_s + received / SLOWEST_BYTES_PER_S
            try:
                # After the body comes, whenever it comes, that the client has gone.
                async with asyncio.timeout_at(start + patience_s if more else None):
                    message = await receive()
            except TimeoutError:
                raise _stalled(received) from None
            more = message.get("more_body", False)
            received += len(message.get("body", b""))
            if received > limit:
                raise too_large("the body of such a request", limit)
            return message

        await self._app(scope, limited, send)

    def _limit(self, method: str, path: str) -> int:
        if method == "PATCH":
            return self._settings.max_chunk_bytes
        if (method, path) == ("POST", f"{PREFIX}/jobs"):
            return self._settings.max_request_bytes
        return MAX_JSON_BYTES


def _stalled(received: int) -> Refused:
    message = f"{received} bytes came too slowly: send the rest later"
    return Refused(408, "stalled", message, {"Connection": "close"})


class Observed:
    """Times and counts each request, and logs its route; never its body, headers or query."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            seconds = time.perf_counter() - start
            path = getattr(scope.get("route"), "path", "unknown")
            method = _shown(scope["method"]) if path != "unknown" else "ANY"
            self._metrics.request(method, path, status, seconds)
            LOG.info(
                "request",
                extra=fields(method=method, path=path, status=status, seconds=round(seconds, 4)),
            )


def _shown(method: str) -> str:
    """Return a method as it is counted: of those that strangers make up, each would be kept."""
    return method if method in METHODS else "OTHER"
