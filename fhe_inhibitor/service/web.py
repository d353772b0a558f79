"""The HTTP application, and the process that serves it.

    serve(load_settings(), [folder_of_circuits])

This process receives, stores and hands out; workers compute. It loads no circuits, no Concrete.
"""

from __future__ import annotations

import logging
import os
import socket
import sqlite3
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from filelock import FileLock, Timeout
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.protocol import LOOPBACK, Error
from fhe_inhibitor.service import routes
from fhe_inhibitor.service.database import is_full
from fhe_inhibitor.service.dependencies import ServiceHere, refusals
from fhe_inhibitor.service.logs import fields, log_to_stderr
from fhe_inhibitor.service.middleware import BodyLimit, Observed
from fhe_inhibitor.service.refusals import Refused
from fhe_inhibitor.service.service import Service
from fhe_inhibitor.service.settings import Settings
from fhe_inhibitor.service.storage import DiskFullError

LOG = logging.getLogger(__name__)
LOCK_FILE = "lock"
SHUTDOWN_S = 5
BACKLOG = 2048
MAX_CONNECTIONS = 1000


def create_app(service: Service) -> FastAPI:
    """Return the application of a service, which starts and ends with it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.close()

    app = FastAPI(
        title="fhe-inhibitor",
        version=version("fhe-inhibitor"),
        description="Classifies encrypted text. `fhe_inhibitor/runtime/protocol.py` says how.",
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.service = service
    app.add_middleware(BodyLimit, settings=service.settings)
    app.add_middleware(Observed, metrics=service.metrics)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(ClientDisconnect, _disconnected)
    app.add_exception_handler(DiskFullError, _disk_full)
    app.add_exception_handler(sqlite3.OperationalError, _database_failed)
    app.add_exception_handler(Exception, _failed)
    app.include_router(routes.router)
    _add_open_routes(app)
    return app


def serve(settings: Settings, folders: Iterable[Path]) -> None:
    """Serve models until SIGINT or SIGTERM.

    folders: of circuits, each with its public part. Raises InputError for settings, folders or
    files that can't be used, and if another server uses the same data.
    """
    os.umask(0o077)
    log_to_stderr()
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = FileLock(settings.data_dir / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"another server uses {settings.data_dir}: end it, or name another data folder"
        ) from None
    try:
        app = create_app(Service(settings, folders))
        with _listen(settings) as listener:
            config = uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                ssl_certfile=settings.certificate,
                ssl_keyfile=settings.certificate_key,
                limit_concurrency=MAX_CONNECTIONS,
                timeout_graceful_shutdown=SHUTDOWN_S,
            )
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        lock.release()


def _listen(settings: Settings) -> socket.socket:
    """Return a socket that listens where the settings say."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server(
            (settings.host, settings.port), family=family, backlog=BACKLOG
        )
    except OSError as error:
        raise InputError(
            f"can't listen on {settings.host}, port {settings.port} ({error.strerror}): name others"
        ) from error
    secure = settings.certificate is not None
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http{'s' if secure else ''}://{host}:{listener.getsockname()[1]}"
    LOG.info("listening", extra=fields(url=url))
    if not secure and settings.host not in LOOPBACK:
        LOG.warning("without a certificate, tokens cross the network in the clear")
    return listener


def _add_open_routes(app: FastAPI) -> None:
    """Add what is open to all."""

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Tell that the server is alive."""
        return {"status": "ok"}

    @app.get("/ready", responses={503: refusals(503)[503]})
    async def ready(service: ServiceHere) -> dict[str, str]:
        """Tell whether a worker has loaded its circuits, and all watches over workers go on."""
        if reason := service.why_not_ready():
            raise Refused(503, "not_ready", reason, {"Retry-After": "1"})
        return {"status": "ready"}

    @app.get("/metrics", response_class=PlainTextResponse)
    def metrics(service: ServiceHere) -> Response:
        """Show Prometheus metrics."""
        service.metrics.jobs(service.jobs.counts())
        content = generate_latest(service.metrics.registry)
        return Response(content, media_type=CONTENT_TYPE_LATEST)


def _answer(
    status: int, code: str, message: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    return JSONResponse(Error(error=code, message=message).model_dump(), status, headers)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    standard = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    code = error.code if isinstance(error, Refused) else standard
    headers = dict(error.headers) if error.headers else None
    return _answer(error.status_code, code, str(error.detail), headers)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """Say which part of a request is wrong, without repeating what it was."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = " ".join(str(part) for part in first["loc"])
    return _answer(422, "invalid", f"{where}: {first['msg']}")


async def _disconnected(request: Request, error: Exception) -> JSONResponse:
    return _answer(400, "cut", "the request broke off")  # which nobody hears


async def _disk_full(request: Request, error: Exception) -> JSONResponse:
    return _answer(507, "disk_full", "the server's disk is full: try again later")


async def _database_failed(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, sqlite3.OperationalError)
    if is_full(error):
        return await _disk_full(request, error)
    LOG.error("database failed", extra=fields(reason=str(error)))
    return _answer(503, "not_ready", "the server is busy: try again", {"Retry-After": "1"})


async def _failed(request: Request, error: Exception) -> JSONResponse:
    return _answer(500, "internal", "the server failed; this was logged")
