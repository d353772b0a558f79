"""The serving process: what it changes of itself, it changes back; metrics are cheap to ask for."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sqlite3
from pathlib import Path

import pytest
import uvicorn
from prometheus_client import generate_latest

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.protocol import Status
from fhe_inhibitor.service.jobs import Jobs
from fhe_inhibitor.service.metrics import Metrics
from fhe_inhibitor.service.process import serve
from fhe_inhibitor.service.settings import load_settings
from fhe_inhibitor.service.uploads import Uploads


def test_a_server_that_ends_leaves_the_process_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fhe_inhibitor.service.process.log_to_stderr", lambda: None)
    tokens = tmp_path / "tokens"
    tokens.write_text("broken\n")
    before = os.umask(0o022), resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        with pytest.raises(InputError, match="line 1"):
            serve(load_settings(data_dir=tmp_path / "data", tokens_file=tokens), [])
        assert os.umask(0o022) == 0o022
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == before[1]
    finally:
        os.umask(before[0])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied.*make it writable"),
        (OSError(errno.ENOSPC, "No space left on device"), "has no space left"),
        (sqlite3.OperationalError("database or disk is full"), "database or disk is full"),
    ],
)
def test_a_data_folder_that_refuses_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("fhe_inhibitor.service.process.log_to_stderr", lambda: None)
    monkeypatch.setattr("fhe_inhibitor.service.process.Service", fail)
    with pytest.raises(InputError, match=f"data folder {tmp_path} .*{words}"):
        serve(load_settings(data_dir=tmp_path), [])


@pytest.mark.parametrize("kind", [Jobs, Uploads])
def test_a_database_that_cannot_be_taken_up_is_told_before_the_server_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type
) -> None:
    def locked(*_: object) -> None:
        raise sqlite3.OperationalError("database is locked")

    def listen(*_: object) -> None:
        raise AssertionError("it listens")

    monkeypatch.setattr("fhe_inhibitor.service.process.log_to_stderr", lambda: None)
    monkeypatch.setattr("fhe_inhibitor.service.process.listen", listen)
    monkeypatch.setattr(kind, "recover", locked)
    with pytest.raises(InputError, match=f"data folder {tmp_path} .*locked.*end what else writes"):
        serve(load_settings(data_dir=tmp_path), [])


@pytest.mark.parametrize("host", ["a..b", "256.0.0.1", "nowhere.invalid"])
def test_a_host_that_is_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setattr("fhe_inhibitor.service.process.log_to_stderr", lambda: None)
    with pytest.raises(InputError, match=f"can't listen on {host}"):
        serve(load_settings(data_dir=tmp_path, host=host), [])


def test_a_hangup_ends_the_server_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exits: list[bool] = []

    def run(server: uvicorn.Server, sockets: object) -> None:
        signal.raise_signal(signal.SIGHUP)
        exits.append(server.should_exit)

    monkeypatch.setattr("fhe_inhibitor.service.process.log_to_stderr", lambda: None)
    monkeypatch.setattr(uvicorn.Server, "run", run)
    # Which the exit of a server sets for all others of this process, too.
    monkeypatch.setattr("sse_starlette.sse.AppStatus.should_exit", False)
    heard: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, frame: heard.append(number))
    try:
        serve(load_settings(data_dir=tmp_path, port=0), [])
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (exits, heard) == ([True], [signal.SIGHUP])


def test_many_scrapes_are_one_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now, n_counts = [100.0], 0

    def count() -> dict[str, int]:
        nonlocal n_counts
        n_counts += 1
        return {status.value: n_counts for status in Status}

    monkeypatch.setattr("fhe_inhibitor.service.status.time.monotonic", lambda: now[0])
    metrics = Metrics()
    metrics.watch_jobs(count)
    for seconds, wanted in ((0, 1), (4.9, 1), (0.2, 2)):
        now[0] += seconds
        for _ in range(3):
            assert f'fhe_inhibitor_jobs{{status="done"}} {wanted}.0' in (
                generate_latest(metrics.registry).decode()
            )
    assert n_counts == 2
