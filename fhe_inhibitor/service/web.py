"""The HTTP application of a service: its routes, and an answer for whatever goes wrong."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from fhe_inhibitor.runtime.protocol import Error
from fhe_inhibitor.service import routes
from fhe_inhibitor.service.database import is_full
from fhe_inhibitor.service.dependencies import ServiceHere, refusals
from fhe_inhibitor.service.logs import fields
from fhe_inhibitor.service.middleware import BodyLimit, Observed
from fhe_inhibitor.service.refusals import Refused
from fhe_inhibitor.service.service import Service
from fhe_inhibitor.service.status import OpenStatus, read_page
from fhe_inhibitor.service.storage import DiskFullError

LOG = logging.getLogger(__name__)


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
    if path := service.settings.metrics_path:
        _add_metrics(app, path)
    return app


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

    page, page_headers = read_page()

    @app.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        """Show the status page."""
        return HTMLResponse(page, headers=page_headers)

    @app.get("/status")
    async def status(service: ServiceHere) -> OpenStatus:
        """Tell whether jobs would run; also the counts of /v1/status if all may see them."""
        reason = service.why_not_ready()
        shown = service.settings.open_status
        return OpenStatus(
            ready=reason is None,
            reason=reason,
            version=app.version,
            overview=await asyncio.to_thread(service.overview) if shown else None,
        )


def _add_metrics(app: FastAPI, path: str) -> None:
    @app.get(path, response_class=PlainTextResponse)
    def metrics(service: ServiceHere) -> Response:
        """Show Prometheus metrics."""
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
