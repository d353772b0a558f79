"""SIGHUP while a server runs: the server ends in order, and only then the process."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator

import pytest

from fhe_inhibitor.system.signals import ENDING, Ended, hanging_up, raise_on_signals


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Signals as the command line handles them, and afterwards as before."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in ENDING}
    raise_on_signals()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_handler_hears_of_a_hangup_before_the_process_does() -> None:
    heard: list[int] = []
    before = signal.getsignal(signal.SIGHUP)
    with (
        pytest.raises(Ended, match="SIGHUP"),
        hanging_up(lambda number, frame: heard.append(number)),
    ):
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        assert heard == [signal.SIGHUP] * 2
        assert signal.getsignal(signal.SIGTERM) is before, "it is deaf to SIGTERM"
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, "of `Ended`"


def test_no_callback_of_asyncio_swallows_a_hangup() -> None:
    """An `Ended` that is raised in one is logged, and the loop goes on."""

    async def serve() -> None:
        ended = asyncio.Event()
        with hanging_up(lambda number, frame: ended.set()):
            asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGHUP)
            await asyncio.wait_for(ended.wait(), 5)

    with pytest.raises(Ended, match="SIGHUP"):
        asyncio.run(serve())


def test_without_a_hangup_all_is_as_before() -> None:
    before = signal.getsignal(signal.SIGHUP)
    with hanging_up(lambda number, frame: None):
        assert signal.getsignal(signal.SIGHUP) is not before
    assert signal.getsignal(signal.SIGHUP) is before
    with pytest.raises(Ended, match="SIGTERM"), hanging_up(lambda number, frame: None):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, "the first signal counts"


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    """As under `nohup`, and in a thread that can't choose handlers nothing changes."""
    before = signal.getsignal(signal.SIGHUP)
    kept: list[object] = []

    def look() -> None:
        with hanging_up(lambda number, frame: None):
            kept.append(signal.getsignal(signal.SIGHUP))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    look()
    assert kept == [before, signal.SIG_IGN]
