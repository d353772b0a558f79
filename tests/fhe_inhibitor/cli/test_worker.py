"""The worker: results, errors, crashes and interruptions all come back as what they are."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from fhe_inhibitor.cli.worker import in_worker
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.child import ChildError
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.system.signals import Ended
from tests.observers import Recorder


@dataclass(frozen=True)
class Add:
    x: int
    y: int

    def run(self, observer: Observer) -> int:
        observer.plan(2, "numbers")
        observer.begin("adding")
        observer.finish(2)
        observer.note("done")
        observer.deliver({"sum": self.x + self.y})
        return self.x + self.y


class Refuse:
    def run(self, observer: Observer) -> None:
        raise InputError("not this")


class Fail:
    def run(self, observer: Observer) -> None:
        raise ValueError("something\nbroke")


class Crash:
    def run(self, observer: Observer) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


class BlocksInterrupts:
    def run(self, observer: Observer) -> bool:
        return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@dataclass(frozen=True)
class NeverEnd:
    pid_file: Path

    def run(self, observer: Observer) -> None:
        self.pid_file.write_text(str(os.getpid()))
        observer.begin("waiting")
        time.sleep(1000)


def test_result_and_progress_come_back() -> None:
    recorder = Recorder()
    assert in_worker(Add(2, 3), recorder) == 5
    assert recorder.told == [
        ("plan", 2, "numbers"),
        ("begin", "adding"),
        ("finish", 2),
        ("note", "done"),
        ("deliver", {"sum": 5}),
    ]


def test_input_errors_stay_input_errors() -> None:
    with pytest.raises(InputError, match="not this"):
        in_worker(Refuse(), Observer())


def test_other_errors_say_their_kind() -> None:
    with pytest.raises(ChildError, match="ValueError: something"):
        in_worker(Fail(), Observer())


def test_a_crash_of_native_code_is_an_error() -> None:
    with pytest.raises(ChildError, match=f"exit code -{signal.SIGSEGV:d}"):
        in_worker(Crash(), Observer())


def test_interrupts_are_blocked_in_the_child_and_not_in_the_parent() -> None:
    assert in_worker(BlocksInterrupts(), Observer())
    assert not BlocksInterrupts().run(Observer())


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), Ended(signal.SIGTERM)])
def test_an_interruption_ends_the_child_and_cleans_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruption: BaseException
) -> None:
    class Interrupting(Observer):
        def begin(self, step: str) -> None:
            raise interruption

    monkeypatch.setenv("FHE_INHIBITOR_CACHE", str(tmp_path))
    unfinished = tmp_path / "model" / ".unfinished-1"
    unfinished.mkdir(parents=True)
    (tmp_path / "model" / ".lock").touch()
    pid_file = tmp_path / "pid"
    with pytest.raises(type(interruption)):
        in_worker(NeverEnd(pid_file), Interrupting())
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)
    assert not unfinished.exists()
