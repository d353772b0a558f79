"""A child process: results, refusals, failures and crashes come back as what they are."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from filelock import FileLock, Timeout

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system import child as child_module
from fhe_inhibitor.system.child import Child, ChildError
from fhe_inhibitor.system.progress import Observer
from tests.observers import Recorder


class Echo:
    def __init__(self, word: str) -> None:
        self.word = word

    def say(self, times: int) -> str:
        return self.word * times

    def say_aloud(self, observer: Observer, times: int) -> str:
        observer.note(self.word)
        return self.say(times)

    def is_deaf(self) -> bool:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        return {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} <= blocked

    def wait(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    def wait_for_a_lock(self, path: str, seconds: float) -> bool:
        try:
            FileLock(path).acquire(timeout=seconds)
        except Timeout:
            return False
        return True

    def work(self, seconds: float) -> float:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass
        return seconds

    def threads(self) -> str | None:
        return os.environ.get("OMP_NUM_THREADS")

    def temporary_file(self) -> str:
        return tempfile.mkdtemp()

    def complain(self) -> None:
        os.write(2, b"something is odd\n")

    def die(self, number: int) -> None:
        os.write(2, b"a page of native code\n")
        os.kill(os.getpid(), number)

    def refuse(self) -> None:
        raise InputError("not this")

    def fail(self) -> None:
        raise ValueError("broke")

    def crash(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def refuse_to_be_made() -> None:
    raise InputError("no such thing")


def test_a_child_answers_refuses_fails_and_crashes() -> None:
    with closing(Child(Echo, "ab")) as child:
        assert child.call("say", 2) == "abab"
        recorder = Recorder()
        assert child.call("say_aloud", 3, observer=recorder) == "ababab"
        assert recorder.notes == ["ab"]
        assert child.call("is_deaf")
        assert child.peak_memory_bytes() > 1e6
        with pytest.raises(InputError, match="not this"):
            child.call("refuse")
        with pytest.raises(ChildError, match="ValueError: broke"):
            child.call("fail")
        with pytest.raises(ChildError, match=f"exit code -{signal.SIGKILL:d}"):
            child.call("crash")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGABRT, "SIGABRT: native code gave up"),
        (signal.SIGBUS, "SIGBUS: a file that it reads was cut"),
        (signal.SIGKILL, "SIGKILL: somebody killed it.*memory"),
        (signal.SIGSEGV, "SIGSEGV: native code crashed"),
        (signal.SIGALRM, "SIGALRM: somebody ended it"),
    ],
)
def test_what_ended_a_child_is_said_in_words(
    number: int, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = pytest.raises(ChildError, match=rf"exit code -{number:d} \({words}")
    with closing(Child(Echo, "ab")) as child, expected:
        child.call("die", number)
    assert capfd.readouterr().err == ""


def test_what_a_child_writes_to_stderr_is_shown(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Child(Echo, "ab")) as child:
        for _ in range(2):
            child.call("complain")
            assert capfd.readouterr().err == "something is odd\n"
    monkeypatch.setenv("FHE_INHIBITOR_TRACEBACK", "1")
    with closing(Child(Echo, "ab")) as child, pytest.raises(ChildError):
        child.call("die", signal.SIGSEGV)
    assert capfd.readouterr().err == "a page of native code\n"


def test_a_child_that_hangs_is_ended_and_one_that_works_or_waits_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As native code does that can't get memory; before, the caller waited for ever."""
    monkeypatch.setattr(child_module, "STUCK_S", 1.0)
    monkeypatch.setattr(child_module, "LOOK_S", 0.2)
    with closing(Child(Echo, "ab")) as child:
        assert child.call("work", 2.0) == 2.0
        assert child.call("wait", 2.0, may_wait=True) == 2.0
        with FileLock(tmp_path / "lock"):
            assert not child.call("wait_for_a_lock", str(tmp_path / "lock"), 3.0)
        with pytest.raises(ChildError, match="the working process hung: it slept for 1 s"):
            child.call("wait", 100.0)


def test_a_closed_output_of_the_caller_is_not_the_child_s_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before, the caller waited for ever for a child that waited for it."""

    class Unread(Observer):
        def note(self, message: str) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(child_module, "STOP_S", 0.5)
    with closing(Child(Echo, "ab")) as child, pytest.raises(BrokenPipeError):
        child.call("say_aloud", 1, observer=Unread())


def test_temporary_files_go_with_the_child() -> None:
    with closing(Child(Echo, "ab")) as child:
        made = Path(child.call("temporary_file"))
        assert made.is_dir()
    assert not made.exists() and not made.parent.exists()


KILLED = """
import sys, time
from fhe_inhibitor.system.child import Child
from tests.fhe_inhibitor.system.test_child import Echo

if __name__ == "__main__":
    child = Child(Echo, "ab")
    child.call("say", 1)
    print(child._process.pid, flush=True)
    child.call("work", 1000.0)
"""


def test_a_child_ends_with_a_caller_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "caller.py"
    script.write_text(KILLED)
    caller = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "TMPDIR": str(tmp_path),  # what a killed process leaves there
        },
    )
    assert caller.stdout is not None
    pid = int(caller.stdout.readline())
    caller.kill()
    _, err = caller.communicate(timeout=30)
    assert err == ""
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(10)
    assert not psutil.pid_exists(pid)


def test_a_child_has_the_threads_that_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for ours in ("2", None):
        if ours is None:
            monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        else:
            monkeypatch.setenv("OMP_NUM_THREADS", ours)
        with closing(Child(Echo, "", threads=3)) as child:
            assert os.environ.get("OMP_NUM_THREADS") == ours
            assert child.call("threads") == "3"


def test_what_cannot_be_made_is_refused_at_the_first_call() -> None:
    with closing(Child(refuse_to_be_made)) as child, pytest.raises(InputError, match="no such"):
        child.call("say", 1)
