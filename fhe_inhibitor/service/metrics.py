"""Prometheus metrics of the service."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from fhe_inhibitor.runtime.protocol import Status
from fhe_inhibitor.service.orders import Report
from fhe_inhibitor.service.status import Remembered

PREFIX = "fhe_inhibitor"
TASK_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """What the service counts; all names begin with `PREFIX`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Histogram(
            f"{PREFIX}_request_seconds",
            "HTTP requests.",
            ["method", "path", "status"],
            registry=self.registry,
        )
        self._tasks = Histogram(
            f"{PREFIX}_task_seconds",
            "Encrypted tasks.",
            buckets=TASK_SECONDS,
            registry=self.registry,
        )
        self._lookups = Counter(
            f"{PREFIX}_lookups", "Lookups of finished tasks.", registry=self.registry
        )
        self._ended = Counter(
            f"{PREFIX}_jobs_ended",
            "Jobs that ended.",
            ["status", "error"],
            registry=self.registry,
        )
        self._received = Counter(
            f"{PREFIX}_keys_bytes", "Bytes of evaluation keys received.", registry=self.registry
        )
        self._jobs = Gauge(f"{PREFIX}_jobs", "Jobs by status.", ["status"], registry=self.registry)
        self._workers = Gauge(
            f"{PREFIX}_workers_ready", "Workers at work or waiting.", registry=self.registry
        )

    def watch_workers(self, n_ready: Callable[[], int]) -> None:
        """Ask `n_ready` for the number of workers whenever it is wanted."""
        self._workers.set_function(n_ready)

    def watch_jobs(self, count: Callable[[], Mapping[str, int]]) -> None:
        """Ask `count` for the number of jobs of each status when it is wanted and not fresh."""
        counts = Remembered(count)
        for status in Status:
            self._jobs.labels(status).set_function(partial(_of, counts, status))

    def request(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count a request; path: the route's, without ids."""
        self._requests.labels(method, path, str(status)).observe(seconds)

    def report(self, report: Report) -> None:
        """Count what a worker reported."""
        if report.kind == "task" and report.seconds is not None:
            self._tasks.observe(report.seconds)
            self._lookups.inc(report.lookups or 0)
        elif report.kind in ("done", "failed") and report.job is not None:
            self._ended.labels(report.kind, report.error or "").inc()

    def received(self, n_bytes: int) -> None:
        """Count bytes of keys."""
        self._received.inc(n_bytes)


def _of(counts: Callable[[], Mapping[str, int]], name: str) -> int:
    return counts()[name]
