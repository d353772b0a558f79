"""A real server in a process of its own, on loopback, as `fhe-inhibitor serve` starts it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest

from fhe_inhibitor.service.access import new_token
from fhe_inhibitor.service.settings import ENVIRONMENT
from tests.conftest import REPOSITORY

START_S = 60
SLOW = (pytest.mark.slow, pytest.mark.timeout(3600))
TINY_SETTINGS = {
    "requests_per_s": 10_000,
    "burst_requests": 10_000,
    "reserved_bytes": 0,
    "worker_threads": 1,
    "metrics_path": "/metrics",
    "worker_memory_bytes": 3 << 30,
}


@dataclass
class Serving:
    """A server process, which may be killed and started again on the same port and data.

    token, other_token: of the users alice and bob. before: a command that runs the server.
    options: of `serve`.
    """

    model: Path
    cache: Path
    data_dir: Path
    settings: dict[str, object] = field(default_factory=dict)
    before: tuple[str, ...] = ()
    url: str = ""
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.log = self.data_dir.with_suffix(".log")
        tokens = self.data_dir.with_suffix(".tokens")
        self.token, self.other_token = new_token(tokens, "alice"), new_token(tokens, "bob")
        self.settings = {"tokens_file": tokens, **TINY_SETTINGS, **self.settings}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server; return when it listens."""
        port = self.url.rpartition(":")[2] or "0"
        names = {f"{ENVIRONMENT}{name.upper()}": str(v) for name, v in self.settings.items()}
        arguments = ["serve", "--model", str(self.model), "--data", str(self.data_dir)]
        n_seen = len(self.events())
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*self.before, sys.executable, "-m", "fhe_inhibitor", *arguments, "--port", port]
                + list(self.options),
                cwd=REPOSITORY,
                env={**os.environ, "FHE_INHIBITOR_CACHE": str(self.cache), **names},
                stderr=log,
                stdout=log,
                start_new_session=True,
            )
        wait_until(lambda: self._listening(n_seen), START_S)
        self.url = self._listening(n_seen)

    def wait_ready(self) -> None:
        """Return when a worker is ready."""
        wait_until(lambda: httpx.get(f"{self.url}/ready").status_code == 200, START_S)

    def kill(self) -> None:
        """Kill the server, as the kernel or a power cut would; its workers must notice."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """Ask the server to end; return its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGTERM)
        return self.process.wait(timeout=30)

    def web(self) -> psutil.Process:
        """Return the web process."""
        assert self.process is not None
        return psutil.Process(self.process.pid)

    def workers(self) -> list[psutil.Process]:
        """Return the worker processes."""
        children = self.web().children()
        return [child for child in children if "fhe_inhibitor.service.worker" in _command(child)]

    def events(self) -> list[dict[str, object]]:
        """Return all lines that the server logged as JSON."""
        if not self.log.exists():
            return []
        lines = self.log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if re.fullmatch(r"\{.*\}", line)]

    def _listening(self, n_seen: int) -> str:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended:\n{self.log.read_text()[-2000:]}")
        urls = [e["url"] for e in self.events()[n_seen:] if e["event"] == "listening"]
        return str(urls[-1]) if urls else ""


@contextmanager
def serve(
    model: Path, cache: Path, data_dir: Path, before: tuple[str, ...] = (), **settings: object
) -> Iterator[Serving]:
    """Run a server of a model, whose circuits may be in the cache, with these settings."""
    serving = Serving(model, cache, data_dir, settings, before)
    serving.start()
    try:
        serving.wait_ready()
        yield serving
    finally:
        serving.stop()


def wait_until(condition: Callable[[], object], timeout_s: float) -> None:
    """Wait for a condition, which may raise connection errors meanwhile."""
    end = time.monotonic() + timeout_s
    while True:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < end, f"not within {timeout_s} s"
        time.sleep(0.02)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []
