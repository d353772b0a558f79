"""A page that is closed leaves no process behind, whatever closes it."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import pytest
import uvicorn

from fhe_inhibitor.app import engine as engine_module
from fhe_inhibitor.app import serving
from fhe_inhibitor.app.engine import Engine, Here
from fhe_inhibitor.system.child import ChildError


class Stuck:
    """A process that answers nothing until it is stopped."""

    made: list[Stuck] = []

    def __init__(self, *_: object) -> None:
        self.begun, self.stopped = threading.Event(), threading.Event()
        Stuck.made.append(self)

    def call(self, method: str, *_: object, **options: Any) -> int:
        if method == "classify":
            self.begun.set()
            self.stopped.wait(2)
            raise ChildError("it was stopped")
        return 0

    def stop(self) -> None:
        """End it, and leave a text that waits the time to start another."""
        self.stopped.set()
        time.sleep(0.2)

    def close(self) -> None:
        pass


def test_a_text_that_waits_starts_no_process_after_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_module, "Child", Stuck)
    monkeypatch.setattr(engine_module, "remove_unfinished", lambda: None)
    engine = Engine(Here("none"))
    runs = [engine.start(text, 4) for text in ("first", "second")]
    while not Stuck.made:
        time.sleep(0.01)
    assert Stuck.made[0].begun.wait(2)
    engine.close()
    assert len(Stuck.made) == 1
    errors = [list(run.follow())[-1].error for run in runs]
    assert "was stopped" in str(errors[0]) and "was closed" in str(errors[1])


def test_a_hangup_ends_the_server_of_the_page_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    exits: list[bool] = []

    def run(server: uvicorn.Server, sockets: list[Any]) -> None:
        signal.raise_signal(signal.SIGHUP)
        exits.append(server.should_exit)
        sockets[0].close()

    monkeypatch.setattr(uvicorn.Server, "run", run)
    # Which the exit of a server sets for all others of this process, too.
    monkeypatch.setattr("sse_starlette.sse.AppStatus.should_exit", False)
    monkeypatch.setattr(serving, "create_app", lambda page, names: None)
    heard: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, frame: heard.append(number))
    try:
        serving.serve(None, "127.0.0.1", 0, lambda url: None)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (exits, heard) == ([True], [signal.SIGHUP])
