"""The measured half without encryption: turns, what is kept, and going on."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from compile.scaling import run as scaling_run
from compile.scaling.process import TimedRun, first_layers
from compile.scaling.report import scaling_markdown
from compile.scaling.results import ScalingResults
from compile.scaling.run import all_threads, measure_scaling
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.runtime.manifest import Task
from fhe_inhibitor.system.files import read_results
from fhe_inhibitor.system.progress import Observer
from tests.tiny_model import write_tiny_model

N = 4


class Fake:
    """A child whose runs take 8 s over the threads, and 1 s more in the first round."""

    calls: list[tuple[int, str]] = []
    fails_at: int | None = None

    def __init__(self, *arguments: Any, threads: int) -> None:
        self.threads = threads

    def call(
        self, method: str, *arguments: Any, observer: Observer, may_wait: bool = False
    ) -> object:
        Fake.calls.append((self.threads, method))
        if method == "prepare":
            return self.threads
        if method == "run_on":
            assert arguments[1] == "tcp://here" and may_wait
            return TimedRun(4.5, {"classify": 4.5}, 16, 0)
        if method == "simulate":
            return arguments[0]["classify"] / arguments[1]
        if Fake.fails_at == len(Fake.calls):
            raise KeyboardInterrupt
        seconds = 8.0 / self.threads + (arguments[0] == 0)
        return TimedRun(seconds, {"classify": seconds}, 16, arguments[0])

    def close(self) -> None:
        pass


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> IntegerModel:
    monkeypatch.setattr(scaling_run, "Child", Fake)
    monkeypatch.setattr(Fake, "calls", [])
    monkeypatch.setattr(Fake, "fails_at", None)
    return IntegerModel.load(write_tiny_model(tmp_path / "tiny"))


def measure(model: IntegerModel, out: Path, **changes: Any) -> ScalingResults:
    asked: dict[str, Any] = {"threads": (2, 1), "split": 1, "layers": None, "repetitions": 2}
    return measure_scaling(model, N, out=out, observer=Observer(), **{**asked, **changes})


def test_numbers_of_threads_take_turns(model: IntegerModel, tmp_path: Path) -> None:
    results = measure(model, tmp_path / "out")
    assert [threads for threads, method in Fake.calls if method == "run"] == [1, 2, 1, 2]
    one, two = results.points
    assert (one.cores, one.seconds, two.seconds) == (1, (9.0, 8.0), (5.0, 4.0))
    assert (one.task_s, one.difference, one.lookups) == ({"classify": 8.0}, 1, 16)
    assert results.efficiency(two) == pytest.approx(8.5 / (2 * 4.5))
    assert read_results(tmp_path / "out" / "scaling_measured.json", ScalingResults, "") == results


def test_workers_take_turns_with_threads_and_are_simulated(
    model: IntegerModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling_run, "_workers", lambda number: nullcontext("tcp://here"))
    results = measure(model, tmp_path / "out", threads=(1,), workers=(2,))
    turns = [method for _, method in Fake.calls if method in ("run", "run_on")]
    assert turns == ["run", "run_on"] * 2
    point = results.find("workers", 2)
    assert point is not None and (point.seconds, point.simulated_s) == ((4.5, 4.5), 4.0)
    assert "| 4.00 (-11%) |" in scaling_markdown(results)
    Fake.calls.clear()
    assert measure(model, tmp_path / "out", threads=(1,), workers=(2,)) == results
    assert not Fake.calls


def test_a_benchmark_that_was_stopped_goes_on(model: IntegerModel, tmp_path: Path) -> None:
    Fake.fails_at = 5  # two are prepared, two have run once
    with pytest.raises(KeyboardInterrupt):
        measure(model, tmp_path / "out")
    Fake.fails_at = None
    kept = read_results(tmp_path / "out" / "scaling_measured.json", ScalingResults, "")
    assert [len(point.seconds) for point in kept.points] == [1, 1]
    Fake.calls.clear()
    results = measure(model, tmp_path / "out")
    assert [len(point.seconds) for point in results.points] == [2, 2]
    assert sum(method == "run" for _, method in Fake.calls) == 2
    Fake.calls.clear()
    assert measure(model, tmp_path / "out") == results and not Fake.calls
    with pytest.raises(InputError, match="other split: name another --out"):
        measure(model, tmp_path / "out", split=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threads": ()}, "wanted numbers from 1"),
        ({"threads": (0,)}, "wanted numbers from 1"),
        ({"workers": (0,)}, "wanted numbers from 1"),
        ({"layers": 3}, "this model has 2"),
        ({"repetitions": 0}, "0 repetitions"),
    ],
)
def test_what_can_t_be_measured_is_refused(
    model: IntegerModel, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        measure(model, tmp_path / "out", **changes)
    with pytest.raises(InputError, match="reads 1 to 4 tokens"):
        measure_scaling(model, 5, (1,), 1, None, 1, tmp_path / "out", Observer())


def test_the_first_layers_are_the_first_tasks() -> None:
    task = Task("", "", (), (), {})
    stages = ["layer0.project.rows0", "layer0.feed_forward", "layer1.project", "classify"]
    tasks = [replace(task, stage=stage) for stage in stages]
    assert [t.stage for t in first_layers(tasks, 1)] == stages[:2]
    assert first_layers(tasks, None) == tasks


def test_all_threads_are_powers_of_two_and_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, wanted in ((1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])):
        monkeypatch.setattr("os.sched_getaffinity", lambda pid, n=cores: set(range(n)))
        assert all_threads() == wanted
