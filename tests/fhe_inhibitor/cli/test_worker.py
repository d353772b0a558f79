"""The worker: results, errors, crashes and interruptions all come back as what they are."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from fhe_inhibitor.cli.worker import WorkError, in_worker
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.progress import Observer


class Recorder(Observer):
    """Keeps what it is told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def note(self, message: str) -> None:
        self.told.append(("note", message))

    def plan(self, amount: int, unit: str) -> None:
        self.told.append(("plan", amount, unit))

    def begin(self, step: str) -> None:
        self.told.append(("begin", step))

    def finish(self, amount: int) -> None:
        self.told.append(("finish", amount))


def add(observer: Observer, x: int, y: int) -> int:
    observer.plan(2, "numbers")
    observer.begin("adding")
    observer.finish(2)
    observer.note("done")
    return x + y


def refuse(observer: Observer) -> None:
    raise InputError("not this")


def fail(observer: Observer) -> None:
    raise ValueError("something\nbroke")


def crash(observer: Observer) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def is_deaf_to_ctrl_c(observer: Observer) -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def never_end(observer: Observer, pid_file: str) -> None:
    Path(pid_file).write_text(str(os.getpid()))
    observer.begin("waiting")
    time.sleep(1000)


def test_result_and_progress_come_back() -> None:
    recorder = Recorder()
    assert in_worker(add, recorder, 2, 3) == 5
    assert recorder.told == [
        ("plan", 2, "numbers"),
        ("begin", "adding"),
        ("finish", 2),
        ("note", "done"),
    ]


def test_input_errors_stay_input_errors() -> None:
    with pytest.raises(InputError, match="not this"):
        in_worker(refuse, Observer())


def test_other_errors_say_their_kind() -> None:
    with pytest.raises(WorkError, match="ValueError: something"):
        in_worker(fail, Observer())


def test_a_crash_of_native_code_is_an_error() -> None:
    with pytest.raises(WorkError, match=f"exit code -{signal.SIGSEGV:d}"):
        in_worker(crash, Observer())


def test_the_child_is_deaf_to_ctrl_c_and_the_parent_is_not() -> None:
    assert in_worker(is_deaf_to_ctrl_c, Observer())
    assert not is_deaf_to_ctrl_c(Observer())


def test_an_interruption_ends_the_child_and_cleans_the_cache(tmp_path: Path, monkeypatch) -> None:
    class Interrupting(Observer):
        def begin(self, step: str) -> None:
            raise KeyboardInterrupt

    monkeypatch.setenv("FHE_INHIBITOR_CACHE", str(tmp_path))
    unfinished = tmp_path / "model" / ".unfinished-1"
    unfinished.mkdir(parents=True)
    (tmp_path / "model" / ".lock").touch()
    pid_file = tmp_path / "pid"
    with pytest.raises(KeyboardInterrupt):
        in_worker(never_end, Interrupting(), str(pid_file))
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)
    assert not unfinished.exists()
