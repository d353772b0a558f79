"""What a server tells of itself on its page `/`: counts over all users, and nothing of any one.

    GET /             the page: HTML that asks the next two, and no other host
    GET /status       open to all: whether jobs would run; the counts too if `open_status` is set
    GET /v1/status    the counts, for who has a token

There is no id of a job, no hash of keys and no name of a user in it, so nobody can act on what is
here. Counts are up to `FRESH_S` old, whoever asks. `lookups_per_s` is the speed of workers while
they work. A rate over all time would tell how many lookups a job had, and so how long its text was.
"""

from __future__ import annotations

import base64
import hashlib
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from importlib.metadata import version
from importlib.resources import files
from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, Field

from fhe_inhibitor.runtime.manifest import CONCRETE_VERSION
from fhe_inhibitor.runtime.protocol import PROTOCOL_VERSION, Sha256, Status
from fhe_inhibitor.service.orders import Report

FRESH_S = 5.0  # that a count is good for, however often it is asked for
SPEED_S = 300.0  # that a finished task counts for the speed
PAGE_FILE = "status.html"

Content = TypeVar("Content")


class KeysCount(BaseModel):
    """Evaluation keys of all users. n_bytes: of those that are whole."""

    complete: int
    arriving: int
    n_bytes: int


class WorkersCount(BaseModel):
    """Worker processes. ready: have loaded their circuits. busy: run a job."""

    wanted: int
    ready: int
    busy: int


class ServedCircuits(BaseModel):
    """A model that the server runs."""

    name: str
    circuits_hash: Sha256
    buckets: list[int]


class Overview(BaseModel):
    """All that the page shows."""

    uptime_s: int
    jobs: Annotated[dict[Status, int], Field(description="Jobs that the server remembers.")]
    longest_wait_s: Annotated[int | None, Field(description="Of a queued job; null if none is.")]
    workers: WorkersCount
    keys: KeysCount
    lookups_per_s: Annotated[
        float | None, Field(description="Of a worker at work; null if none has been lately.")
    ]
    models: list[ServedCircuits]
    versions: dict[str, str]


class OpenStatus(BaseModel):
    """What all may know. overview: null unless the operator shows it to all."""

    ready: bool
    reason: Annotated[str | None, Field(description="Why it isn't ready.")]
    version: str
    overview: Overview | None


class Speed:
    """Lookups and seconds of the tasks that ended in the last `SPEED_S`."""

    def __init__(self) -> None:
        self._tasks: deque[tuple[float, int, float]] = deque()
        self._lock = threading.Lock()

    def report(self, report: Report) -> None:
        """Take down what a worker reported."""
        if report.kind == "task" and report.lookups is not None and report.seconds is not None:
            with self._lock:
                self._drop_old()
                self._tasks.append((time.monotonic(), report.lookups, report.seconds))

    def lookups_per_s(self) -> float | None:
        """Return lookups per second of a worker at work, of two digits; None without a task."""
        with self._lock:
            self._drop_old()
            lookups = sum(lookups for _, lookups, _ in self._tasks)
            seconds = sum(seconds for _, _, seconds in self._tasks)
        return float(f"{lookups / seconds:.2g}") if lookups and seconds else None

    def _drop_old(self) -> None:
        while self._tasks and self._tasks[0][0] < time.monotonic() - SPEED_S:
            self._tasks.popleft()


class Remembered(Generic[Content]):
    """Returns what a function returned at most `FRESH_S` ago."""

    def __init__(self, ask: Callable[[], Content]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._answer: tuple[float, Content] | None = None

    def __call__(self) -> Content:
        with self._lock:
            if self._answer is None or time.monotonic() >= self._answer[0] + FRESH_S:
                content = self._ask()
                self._answer = time.monotonic(), content
            return self._answer[1]


def our_versions() -> dict[str, str]:
    """Return what a client may want to compare with its own."""
    return {
        "fhe-inhibitor": version("fhe-inhibitor"),
        "Concrete": CONCRETE_VERSION,
        "protocol": str(PROTOCOL_VERSION),
    }


def read_page() -> tuple[str, Mapping[str, str]]:
    """Return the page, and headers by which a browser runs and loads nothing but what is in it."""
    html = files("fhe_inhibitor.service").joinpath(PAGE_FILE).read_text(encoding="utf-8")
    policy = {
        "default-src": "'none'",
        "script-src": _digest_of("script", html),
        "style-src": _digest_of("style", html),
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return html, {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


def _digest_of(tag: str, html: str) -> str:
    """Return what allows the one inline element of a tag, and no other."""
    (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return f"'sha256-{digest}'"
