"""Clients that say little, slowly, hold neither the server nor their connections."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from fhe_inhibitor.service.access import new_token
from fhe_inhibitor.service.middleware import SLOWEST_BYTES_PER_S
from fhe_inhibitor.service.settings import ENVIRONMENT
from tests.conftest import REPOSITORY
from tests.fhe_inhibitor.service.serving import wait_until

SERVE = """
from fhe_inhibitor.service import process, settings
process.serve(settings.load_settings(), [])
"""
N_SLOW = 500
PROMPT_S = 1.0
DEADLINE_S = 3.0
HEAD = b"GET /v1/models HTTP/1.1\r\nHost: here\r\n"
BODY = b"POST /v1/keys HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
LONG_BODY = BODY + b"Content-Length: 60000\r\n\r\n"
UPLOAD = b"PATCH /v1/keys/%s HTTP/1.1\r\nHost: here\r\nUpload-Offset: 0\r\n" % (b"a" * 64)
BEGINNINGS = pytest.mark.parametrize("begin", [b"", HEAD, LONG_BODY], ids=["", "head", "body"])


@dataclass
class Bare:
    """A server without models: what it takes to be connected to."""

    port: int
    token: str
    log: Path

    def ask(self, path: str = "/v1/models") -> float:
        """Return the seconds that a good client waits for its answer on a new connection.

        It tries again where it is told that the server is busy: requests of a burst of connections
        count until they notice that these were dropped.
        """
        start = time.perf_counter()
        url = f"http://127.0.0.1:{self.port}{path}"
        headers = {"Authorization": f"Bearer {self.token}"}
        while (answer := httpx.get(url, headers=headers)).status_code == 503:
            assert time.perf_counter() - start < PROMPT_S
            time.sleep(0.05)
        answer.raise_for_status()
        return time.perf_counter() - start


@contextmanager
def bare_server(folder: Path, **settings: object) -> Iterator[Bare]:
    """Run a server without models."""
    token, log = new_token(folder / "data" / "tokens", "alice"), folder / "log"
    settings = {"data_dir": folder / "data", "port": 0, "reserved_bytes": 0, **settings}
    names = {f"{ENVIRONMENT}{name.upper()}": str(value) for name, value in settings.items()}
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE], cwd=REPOSITORY, env={**os.environ, **names}, stderr=file
        )
    try:
        wait_until(lambda: re.search(r'"url": "[^"]*:\d+"', log.read_text()), 60)
        found = re.search(r'"url": "[^"]*:(\d+)"', log.read_text())
        assert found is not None
        server = Bare(int(found[1]), token, log)
        wait_until(lambda: server.ask("/health") > 0, 60)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@dataclass
class SlowClients:
    """Connections that begin alike, and then say one byte a second each."""

    port: int
    begin: bytes
    n: int = N_SLOW
    open: list[socket.socket] = field(default_factory=list)
    n_closed: int = 0
    heard: bytes = b""

    def __enter__(self) -> SlowClients:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._talk)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        for connection in self.open:
            connection.close()

    def _talk(self) -> None:
        for _ in range(self.n):
            connection = socket.create_connection(("127.0.0.1", self.port))
            connection.sendall(self.begin)
            self.open.append(connection)
        while not self._ended.wait(1.0):
            for connection in list(self.open):
                with suppress(OSError):
                    connection.sendall(b"x")
                if self._has_ended(connection):
                    connection.close()
                    self.open.remove(connection)
                    self.n_closed += 1

    def _has_ended(self, connection: socket.socket) -> bool:
        """Whether the server closed a connection; keeps what it said."""
        try:
            while piece := connection.recv(4096, socket.MSG_DONTWAIT):
                self.heard += piece
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True


@BEGINNINGS
def test_slow_clients_hold_nobody_up_and_are_cut_off(tmp_path: Path, begin: bytes) -> None:
    deadlines = {"head_timeout_s": DEADLINE_S, "body_timeout_s": DEADLINE_S}
    with bare_server(tmp_path, **deadlines) as server, SlowClients(server.port, begin) as slow:
        wait_until(lambda: len(slow.open) + slow.n_closed == N_SLOW, 30)
        waited_s = [server.ask() for _ in range(20)]
        wait_until(lambda: slow.n_closed == N_SLOW, 4 * DEADLINE_S)
    print(f"{N_SLOW} slow clients; a good one waits {max(waited_s):.3f} s at most")
    assert max(waited_s) < PROMPT_S


@BEGINNINGS
def test_more_slow_clients_than_connections_hold_nobody_up(tmp_path: Path, begin: bytes) -> None:
    """Before any deadline has passed; what is complete is never dropped for what isn't."""
    limits = {"max_connections": 100, "head_timeout_s": 60, "body_timeout_s": 60}
    with bare_server(tmp_path, **limits) as server, SlowClients(server.port, begin) as slow:
        wait_until(lambda: len(slow.open) + slow.n_closed == N_SLOW, 30)
        waited_s = [server.ask() for _ in range(20)]
        wait_until(lambda: len(slow.open) < 100, 10)
    assert max(waited_s) < PROMPT_S


def test_a_body_that_stalls_is_told_so(tmp_path: Path) -> None:
    begin = BODY + b"Content-Length: 100\r\n\r\n{"
    with (
        bare_server(tmp_path, body_timeout_s=1) as server,
        SlowClients(server.port, begin, n=1) as slow,
    ):
        wait_until(lambda: slow.n_closed, 10)
    assert slow.heard.startswith(b"HTTP/1.1 408 ")
    assert b'"error":"stalled"' in slow.heard


def test_an_answer_before_the_body_does_not_keep_the_connection(tmp_path: Path) -> None:
    """As 401 is: the rest of the body is waited for, but not for ever."""
    begin = UPLOAD + b"Content-Length: 60000\r\n\r\n"
    with (
        bare_server(tmp_path, head_timeout_s=1) as server,
        SlowClients(server.port, begin, n=1) as slow,
    ):
        wait_until(lambda: slow.n_closed, 10)
    assert slow.heard.startswith(b"HTTP/1.1 401 ")


def test_a_body_that_is_slow_and_comes_is_taken(tmp_path: Path) -> None:
    """Twice as fast as need be, and for longer than the deadline of one that stalls."""
    size = 6 * SLOWEST_BYTES_PER_S

    def pieces() -> Iterator[bytes]:
        for _ in range(12):
            yield bytes(size // 12)
            time.sleep(0.25)

    with bare_server(tmp_path, body_timeout_s=0.5) as server:
        url, headers = (
            f"http://127.0.0.1:{server.port}",
            {"Authorization": f"Bearer {server.token}"},
        )
        answer = httpx.post(f"{url}/v1/keys", content=pieces(), headers=headers)
    assert answer.status_code == 422, answer.text


def test_metrics_are_where_the_operator_wants_them(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, object], Callable[[Bare], bool]]] = [
        ({}, lambda server: not _metrics_are_at(server.port, "/metrics")),
        ({"metrics_path": "/private/m"}, lambda s: _metrics_are_at(s.port, "/private/m")),
        ({"metrics_port": 0}, lambda s: _metrics_are_at(_metrics_port(s), "/metrics")),
    ]
    for number, (settings, holds) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        with bare_server(folder, **settings) as server:
            assert holds(server), settings
            assert not _metrics_are_at(server.port, "/metrics")


def _metrics_are_at(port: int, path: str) -> bool:
    answer = httpx.get(f"http://127.0.0.1:{port}{path}")
    return answer.status_code == 200 and "fhe_inhibitor_jobs{" in answer.text


def _metrics_port(server: Bare) -> int:
    found = re.search(r'"event": "metrics".*"port": (\d+)', server.log.read_text())
    assert found is not None
    return int(found[1])
