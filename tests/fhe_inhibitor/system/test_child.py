"""A child process: results, refusals, failures and crashes come back as what they are."""

from __future__ import annotations

import os
import signal
from contextlib import closing

import pytest

from fhe_inhibitor.errors import InputError
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

    def is_deaf_to_ctrl_c(self) -> bool:
        return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())

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
        assert child.call("is_deaf_to_ctrl_c")
        assert child.peak_memory_bytes() > 1e6
        with pytest.raises(InputError, match="not this"):
            child.call("refuse")
        with pytest.raises(ChildError, match="ValueError: broke"):
            child.call("fail")
        with pytest.raises(ChildError, match=f"exit code -{signal.SIGKILL:d}"):
            child.call("crash")


def test_what_cannot_be_made_is_refused_at_the_first_call() -> None:
    with closing(Child(refuse_to_be_made)) as child, pytest.raises(InputError, match="no such"):
        child.call("say", 1)
