"""What is known of a text on its way: steps with their times, remaining time, and how it ended."""

from __future__ import annotations

import threading

import pytest

from fhe_inhibitor.app.run import Crossing, Progress, Run
from tests.fhe_inhibitor.app.test_panels import RESULT


def tell(run: Run) -> None:
    """Tell a run what a classifier tells of one text."""
    run.start()
    run.begin("load circuits")
    run.plan(100, "bytes")
    run.finish(100)
    run.plan(30, "lookups")
    run.begin("encrypt")
    run.cross("request", 5, b"abcde")
    for stage in ("layer0.project.head0", "layer0.project.head1", "classify"):
        run.begin(stage)
        run.finish(10)
    run.note("something")
    run.end(RESULT, None)


def test_a_run_is_followed_to_its_end_from_another_thread() -> None:
    run = Run()
    thread = threading.Thread(target=tell, args=(run,))
    thread.start()
    *_, last = run.follow(period_s=5.0)
    thread.join()
    assert list(last.steps) == ["load circuits", "encrypt", "layer0.project", "classify"]
    assert [step.lookups for step in last.steps.values()] == [0, 0, 20, 10]
    assert all(step.seconds is not None for step in last.steps.values())
    assert last.crossings == {"request": Crossing(5, b"abcde")}
    assert (last.notes, last.result, last.error) == (["something"], RESULT, None)
    assert last.share == 1.0 and last.remaining_s() is None


def test_two_runs_do_not_mix() -> None:
    first, second = Run(), Run()
    first.note("of the first")
    second.end(None, "of the second")
    first.end(RESULT, None)
    (*_, one), (*_, other) = first.follow(5.0), second.follow(5.0)
    assert (one.notes, one.error, one.result) == (["of the first"], None, RESULT)
    assert (other.notes, other.error, other.result) == ([], "of the second", None)


def test_time_is_left_at_the_rate_of_the_lookups(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("fhe_inhibitor.app.run.time.monotonic", lambda: now[0])
    progress = Progress(has_begun=True)
    progress.plan(0.0, 100, "bytes")
    progress.finish(1.0, 50)
    assert (progress.remaining_s(), progress.share) == (None, 0.0), "bytes are no lookups"
    progress.plan(2.0, 100, "lookups")
    assert progress.remaining_s() is None
    progress.finish(6.0, 40)
    now[0] = 7.0
    assert progress.remaining_s() == pytest.approx(60 / 10 - 1)
    assert progress.share == pytest.approx(0.4)
