"""The process that serves the HTTP application until it is told to end.

    serve(load_settings(), [folder_of_circuits])

It receives, stores and hands out; workers compute. It loads no circuits, no Concrete.
"""

from __future__ import annotations

import logging
import os
import resource
import socket
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from filelock import FileLock, Timeout
from prometheus_client import start_http_server

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.protocol import LOOPBACK
from fhe_inhibitor.service.connections import deadlined
from fhe_inhibitor.service.logs import fields, log_to_stderr
from fhe_inhibitor.service.service import Service
from fhe_inhibitor.service.settings import Settings
from fhe_inhibitor.service.web import create_app
from fhe_inhibitor.system.files import writing
from fhe_inhibitor.system.listening import cannot_listen, listen
from fhe_inhibitor.system.signals import hanging_up

LOG = logging.getLogger(__name__)
LOCK_FILE = "lock"
SHUTDOWN_S = 5
BACKLOG = 2048
OTHER_FILES = 512  # the database's, for each thread that reads it


def serve(settings: Settings, folders: Iterable[Path]) -> None:
    """Serve models until SIGINT, SIGTERM or SIGHUP.

    folders: of circuits, each with its public part. Raises InputError for settings, folders or
    files that can't be used, and if another server uses the same data.
    """
    log_to_stderr()
    with _process_limits(settings.max_connections), _alone(settings.data_dir):
        with _usable(settings.data_dir):
            service = Service(settings, folders)
            service.recover()  # before anybody is told that the server listens
        with _listen(settings) as listener, _metrics_server(service):
            server = uvicorn.Server(_config(create_app(service), settings))
            with hanging_up(server.handle_exit):
                server.run(sockets=[listener])


def make_data_folder(data_dir: Path) -> Path:
    """Make a folder of data where it is missing; return the file by which one server holds it.

    Raises InputError if it can't be written.
    """
    lock = data_dir / LOCK_FILE
    with _usable(data_dir):
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock.touch(mode=0o600)
    return lock


@contextmanager
def _alone(data_dir: Path) -> Iterator[None]:
    """Hold a folder of data for this server. Raises InputError if another one has it."""
    lock = FileLock(make_data_folder(data_dir))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"another server uses {data_dir}: end it, or name another data folder"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _usable(data_dir: Path) -> Iterator[None]:
    """Turn what a folder of data refuses into an InputError that names it."""
    try:
        with writing(f"the data folder {data_dir}", "name another one with --data"):
            yield
    except sqlite3.OperationalError as error:
        raise InputError(
            f"the database in the data folder {data_dir} can't be used ({error}): free 1 GB, make "
            "it writable, end what else writes to it, or name another one with --data"
        ) from error


@contextmanager
def _process_limits(max_connections: int) -> Iterator[None]:
    """Give this process's files to their owner alone, and as many open ones as it needs."""
    umask = os.umask(0o077)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * max_connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        enough = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
    try:
        yield
    finally:
        os.umask(umask)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """Return how uvicorn is to serve the application."""
    return uvicorn.Config(
        app,
        http=deadlined(settings.head_timeout_s, settings.max_connections),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.certificate_key,
        limit_concurrency=settings.max_connections,
        timeout_graceful_shutdown=SHUTDOWN_S,
    )


@contextmanager
def _metrics_server(service: Service) -> Iterator[None]:
    """Show metrics on a port of their own meanwhile, if the settings name one."""
    settings = service.settings
    if settings.metrics_port is None:
        yield
        return
    try:
        server, _ = start_http_server(
            settings.metrics_port, settings.metrics_host, service.metrics.registry
        )
    except OSError as error:
        raise cannot_listen(settings.metrics_host, settings.metrics_port, error) from error
    LOG.info("metrics", extra=fields(host=settings.metrics_host, port=server.server_port))
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def _listen(settings: Settings) -> socket.socket:
    """Return a socket that listens where the settings say."""
    listener = listen(settings.host, settings.port, BACKLOG)
    secure = settings.certificate is not None
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http{'s' if secure else ''}://{host}:{listener.getsockname()[1]}"
    LOG.info("listening", extra=fields(url=url))
    if not secure and settings.host not in LOOPBACK:
        LOG.warning("without a certificate, tokens cross the network in the clear")
    return listener
