"""The web server of the page: it answers for its own names, with what the page needs, and no more.

Gradio brings more than this page uses: files to upload and to download, a proxy, an interface for
programs, pages about runs. All of that is closed. A browser is told to load and ask nothing
elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fhe_inhibitor.app.page import CSS, gradio, theme
from fhe_inhibitor.runtime.protocol import LOOPBACK
from fhe_inhibitor.system.listening import listen
from fhe_inhibitor.system.signals import hanging_up

OPEN = (
    "/assets/", "/static/", "/theme.css", "/favicon.ico", "/manifest.json", "/config",
    "/gradio_api/queue/", "/gradio_api/heartbeat/", "/gradio_api/startup-events",
    "/gradio_api/run/", "/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/call/",
)  # fmt: skip
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class OnlyThePage:
    """Answers 404 for what the page doesn't need, and has the browser ask nobody else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http":
            path = scope["path"]
            if path != "/" and not path.startswith(OPEN):
                await PlainTextResponse("not here", 404)(scope, receive, send)
                return
            origin = Headers(scope=scope).get("origin")
            if origin is not None and not _is_ours(origin, Headers(scope=scope).get("host", "")):
                await PlainTextResponse("asked by another page", 403)(scope, receive, send)
                return

            async def with_headers(message: Message) -> None:
                if message["type"] == "http.response.start":
                    MutableHeaders(scope=message).update(HEADERS)
                await send(message)

            await self._app(scope, receive, with_headers)
        elif scope["type"] == "lifespan":
            await self._app(scope, receive, send)


def create_app(page: Any, names: Sequence[str]) -> FastAPI:
    """Return the application that serves a page under these names of its host."""
    app = FastAPI(title="fhe-inhibitor app", openapi_url=None)
    app.add_middleware(OnlyThePage)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(names), www_redirect=False)
    return gradio().mount_gradio_app(
        app,
        page.queue(api_open=False),
        path="/",
        theme=theme(),
        css=CSS,
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        max_file_size=1,
    )


def serve(page: Any, host: str, port: int, tell: Callable[[str], None]) -> None:
    """Serve a page until SIGINT, SIGTERM or SIGHUP.

    port: 0 for a free one. tell: is told the address once it answers there. Raises InputError if it
    can't.
    """
    listener = listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{listener.getsockname()[1]}"
    names = [*LOOPBACK, "[::1]", host] if host in LOOPBACK else ["*"]
    config = uvicorn.Config(
        create_app(page, names),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    tell(url)
    server = uvicorn.Server(config)
    with hanging_up(server.handle_exit):
        server.run(sockets=[listener])


def _is_ours(origin: str, host: str) -> bool:
    """Whether a page that asks came from here."""
    return origin.partition("://")[2] == host
