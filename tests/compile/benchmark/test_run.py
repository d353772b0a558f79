"""The encrypted benchmark on tiny heads: files, resuming, budgets, encrypted runs."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from circuits.intervals import interval, interval_lookup
from circuits.lookups import exact_lookup
from compile.benchmark import circuit as head_circuit
from compile.benchmark import process as head_process
from compile.benchmark import results as attention_results
from compile.benchmark import run as attention_benchmark
from compile.benchmark.circuit import FUNCTION, HeadCircuit
from compile.benchmark.page import write_page
from compile.benchmark.report import attention_markdown, write_attention
from compile.benchmark.results import (
    AttentionOptions,
    read_results,
    write_results,
)
from compile.benchmark.run import benchmark_attention
from fhe_inhibitor.benchmark.heads import CIRCUITS, make_head
from fhe_inhibitor.cli.main import main
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.child import ChildError
from fhe_inhibitor.system.progress import Observer
from tests.observers import Recorder

SIMULATED = ("inhibitor_exact", "inhibitor_rounded", "dot_product_rounded")
TINY = AttentionOptions(
    lengths=(2, 3),
    head_dim=1,
    bits=2,
    circuits=SIMULATED,
    seeds=(0, 1),
    repetitions=3,
    point_s=0.0,
    mode="simulate",
)


class InProcess:
    """A child that isn't one: the same object in this process, which saves it loading Concrete."""

    before_call: Callable[[str], None] = staticmethod(lambda method: None)

    def __init__(self, make: Callable[..., Any], *arguments: Any) -> None:
        self._made = make(*arguments)

    def call(
        self,
        method: str,
        *arguments: Any,
        observer: Observer | None = None,
        may_wait: bool = False,
    ) -> Any:
        self.before_call(method)
        told = () if observer is None else (observer,)
        try:
            return getattr(self._made, method)(*told, *arguments)
        except RuntimeError as error:
            raise ChildError(str(error)) from error

    def peak_memory_bytes(self) -> int:
        return 1

    def stop(self) -> None:
        pass


@pytest.fixture(autouse=True, scope="module")
def in_process() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_benchmark, "Child", InProcess)
        patch.setattr(head_process, "MAX_MODEL_HEADS", 20)
        machine = attention_results.describe_machine(attention_results.PACKAGES)
        patch.setattr(attention_results, "describe_machine", lambda packages, in_children: machine)
        yield


@pytest.fixture(scope="module")
def simulated(in_process: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of a tiny simulated suite."""
    out = tmp_path_factory.mktemp("benchmark")
    write_attention(benchmark_attention(TINY, out, None, Observer()), out)
    return out


def test_the_files_hold_every_point_and_fit_the_schema(simulated: Path) -> None:
    results = read_results(simulated / "attention.json")
    assert {(p.circuit, p.n) for p in results.points} == {(c, n) for c in SIMULATED for n in (2, 3)}
    for point in results.points:
        assert point.status == "measured" and point.complete and point.inside
        assert point.lookups == point.formula == dict(point_head(point.circuit, point.n))
        assert point.complexity is not None and point.complexity > 0
        assert len(point.seconds["run"]) == 2  # point_s ends what ran twice
        assert point.quality is not None and point.quality.values == 2 * point.n
    assert all(p.equal == [1.0, 1.0] for p in results.points if "rounded" not in p.circuit)
    assert not results.ratios
    assert results.lookup_growth["inhibitor_exact"].exponent == pytest.approx(2)
    with (simulated / "attention.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["circuit"], int(row["n"])) for row in rows] == [
        (c, n) for c in SIMULATED for n in (2, 3)
    ]
    assert int(rows[0]["run_n"]) == 2
    markdown = (simulated / "attention.md").read_text()
    assert markdown.count("agrees") == len(rows) and "differs" not in markdown
    assert (simulated / "attention.png").stat().st_size > 10_000
    assert "<svg" in (simulated / "attention.svg").read_text()


def point_head(circuit: str, n: int) -> dict[int, int]:
    return make_head(circuit, n, TINY.head_dim, TINY.bits).head.count_lookups()


def test_the_page_is_made_from_the_json(simulated: Path, tmp_path: Path) -> None:
    page = write_page(simulated, tmp_path).read_text()
    assert attention_markdown(read_results(simulated / "attention.json")) in page
    assert (tmp_path / "attention.png").exists()
    with pytest.raises(InputError, match="neither attention.json nor plaintext.json"):
        write_page(tmp_path / "nowhere", tmp_path)


def test_a_stopped_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = TINY.model_copy(update={"circuits": ("inhibitor_exact",), "lengths": (2,)})
    calls: list[str] = []

    def stop(method: str) -> None:
        calls.append(method)
        if calls.count("simulate") == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(InProcess, "before_call", staticmethod(stop))
    with pytest.raises(KeyboardInterrupt):
        benchmark_attention(asked, tmp_path, None, Observer())
    (stopped,) = read_results(tmp_path / "attention.json").points
    assert not stopped.complete
    monkeypatch.setattr(InProcess, "before_call", staticmethod(calls.append))
    (point,) = benchmark_attention(asked, tmp_path, None, Observer()).points
    assert point.complete and len(point.seconds["run"]) == 2
    assert point.seconds["run"][:1] == stopped.seconds["run"]
    calls.clear()
    benchmark_attention(asked, tmp_path, None, Observer())
    assert calls == []


def test_a_budget_leaves_out_and_says_so(tmp_path: Path) -> None:
    asked = TINY.model_copy(update={"circuits": ("inhibitor_exact",), "mode": "execute"})
    results = benchmark_attention(asked, tmp_path, 0.0, Observer())
    assert {point.status for point in results.points} == {"left_out"}
    assert "s of the time budget are left" in results.points[0].reason
    assert results.points[0].lookups == {3: 8, 2: 4}
    assert "left out: needs about" in attention_markdown(results)
    assert results.points == read_results(tmp_path / "attention.json").points


def test_what_a_budget_ends_is_not_complete_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock passes the budget in the first of the two calls that `point_s` asks for."""
    asked = TINY.model_copy(update={"circuits": ("inhibitor_exact",), "lengths": (2,)})
    now = [0.0]

    def work(method: str) -> None:
        now[0] += 100.0 * (method == "simulate")

    monkeypatch.setattr(attention_benchmark, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(InProcess, "before_call", staticmethod(work))
    recorder = Recorder()
    (ended,) = benchmark_attention(asked, tmp_path, 50.0, recorder).points
    assert ended.status == "measured" and not ended.complete
    assert len(ended.seconds["run"]) == 1
    assert ["ended after 1 of 3 repetitions" in note for note in recorder.notes] == [True]
    (point,) = benchmark_attention(asked, tmp_path, None, recorder).points
    assert point.complete and len(point.seconds["run"]) == 2
    assert point.seconds["run"][:1] == ended.seconds["run"]


def test_what_cannot_be_compiled_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(method: str) -> None:
        raise InputError("no parameters reach p_error")

    asked = TINY.model_copy(update={"circuits": ("dot_product_exact",), "lengths": (2,)})
    monkeypatch.setattr(InProcess, "before_call", staticmethod(fail))
    results = benchmark_attention(asked, tmp_path, None, Observer())
    assert [(p.status, p.complete) for p in results.points] == [("not_compiled", True)]
    assert "not compiled: no parameters reach p_error" in attention_markdown(results)


def test_a_process_that_ends_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(method: str) -> None:
        if method == "simulate":
            raise ChildError("its process ended unexpectedly, exit code -9")

    asked = TINY.model_copy(update={"circuits": ("inhibitor_exact",), "lengths": (2,)})
    monkeypatch.setattr(InProcess, "before_call", staticmethod(fail))
    results = benchmark_attention(asked, tmp_path, None, Observer())
    assert [p.status for p in results.points] == ["failed"]
    assert "exit code -9" in attention_markdown(results)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--circuits", "softmax"], "no circuit 'softmax'"),
        (["--circuits", ","], "no circuits"),
        (["--lengths", "1"], "sequence length 1"),
        (["--lengths", "4,0"], "sequence length 0"),
        (["--lengths", "four"], "--lengths four"),
        (["--bits", "1"], "operands of 1 bits"),
        (["--bits", "9"], "operands of 9 bits"),
        (["--head-dim", "0"], "head width 0"),
        (["--repetitions", "0"], "0 repetitions"),
        (["--mode", "fast"], "mode 'fast'"),
        (["--mode", "simulate", "--scheduler", "tcp://127.0.0.1:1"], "drop --scheduler"),
        (["--scheduler", "tcp://10.0.0.1:8786"], "any code"),
        (["--scheduler", "tcp://127.0.0.1:8786", "--split", "0"], "heads split into 0"),
        (["--split", "2"], "add --scheduler"),
        (["--shared", "somewhere"], "add --scheduler"),
        (["--out", "/proc/none"], "can't write to the folder /proc/none"),
    ],
)
def test_bad_arguments_are_refused(
    arguments: list[str], words: str, tmp_path: Path, capsys
) -> None:
    refuse(capsys, ["--out", str(tmp_path), *arguments], words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 0}, "another version or a damaged file|version 0"),
        ({"circuits": 1}, "circuits of version 1, these are 2"),
        ({"extra": 1}, "another version or a damaged file"),
        ({"machine": {"commit": "0000000"}}, "commit 0000000"),
        ({"parameters": {"bits": 3}}, "bits 3"),
    ],
)
def test_other_results_are_refused(
    change: dict[str, Any], words: str, simulated: Path, tmp_path: Path, capsys
) -> None:
    content = json.loads((simulated / "attention.json").read_text())
    for name, value in change.items():
        content[name] = {**content[name], **value} if isinstance(value, dict) else value
    (tmp_path / "attention.json").write_text(json.dumps(content))
    asked = ["--mode", "simulate", "--lengths", "2,3", "--bits", "2", "--head-dim", "1"]
    asked += ["--circuits", ",".join(SIMULATED), "--seeds", "0,1", "--repetitions", "3"]
    refuse(capsys, [*asked, "--point-s", "0", "--out", str(tmp_path)], words.split("|")[-1])


def refuse(capsys, arguments: list[str], words: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["benchmark", "attention", *arguments])
    captured = capsys.readouterr()
    assert stopped.value.code == 2
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith("fhe-inhibitor: ") and words in captured.err


@pytest.mark.fhe
@pytest.mark.parametrize("circuit", CIRCUITS)
def test_encrypted_heads_stay_in_their_bounds(circuit: str) -> None:
    """Random and corner inputs; exact circuits and antiperiodic tables come back exactly."""
    bits = 2 if circuit == "dot_product_exact" else 4  # keys for 8 bits take a minute
    compiled = HeadCircuit(make_head(circuit, n=2, head_dim=1, bits=bits), measurable=False)
    compiled.generate_keys()
    head = compiled.gaussian.head
    rng = np.random.default_rng(0)
    low, high = (np.full((2, 1), end) for end in head.qk_range)
    v = [rng.choice(head.v_range, (2, 1)) for _ in range(3)]
    random = [rng.integers(r[0], r[1] + 1, (2, 1)) for r in (head.qk_range, head.qk_range)]
    for q, k, values in ((low, high, v[0]), (high, low, v[1]), (*random, v[2])):
        h = compiled.module.functions()[FUNCTION].encrypt_run_decrypt(q, k, values)
        bounds = head.evaluate(interval(q), interval(k), interval(values), interval_lookup)
        assert ((bounds.low <= h) & (h <= bounds.high)).all()
        if circuit.endswith("exact"):
            assert (h == head.evaluate(q, k, values, exact_lookup)).all()


@pytest.mark.fhe
def test_an_encrypted_run_is_timed_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_circuit, "benchmark_size", lambda bit_width: 8)
    asked = TINY.model_copy(
        update={
            "circuits": ("inhibitor_exact", "inhibitor_rounded"),
            "lengths": (2,),
            "mode": "execute",
            "repetitions": 2,
        }
    )
    results = benchmark_attention(asked, tmp_path, None, Observer())
    for point in results.points:
        assert point.complete and point.inside and point.equal == [1.0, 1.0]  # nothing is rounded
        assert {*point.summaries} == {"compile", "keygen", "encrypt", "run", "decrypt"}
        assert {*point.lookup_s} == {*point.lookups} and point.predicted_s
        assert point.peak_memory_bytes == 1
        assert point.evaluation_keys_bytes and point.request_bytes and point.response_bytes
    (ratio,) = results.ratios
    assert (ratio.circuit, ratio.other) == ("inhibitor_exact", "inhibitor_rounded")
    assert ratio.ratio.repetitions == 2 and ratio.complexity_ratio > 1
    rows = attention_markdown(results)
    assert "| inhibitor, exact / inhibitor, rounded |" in rows


def test_a_results_file_reads_back(simulated: Path, tmp_path: Path) -> None:
    results = read_results(simulated / "attention.json")
    write_results(results, tmp_path)
    assert read_results(tmp_path / "attention.json") == results
