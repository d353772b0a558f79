"""Heads on the workers of a cluster: what they are sent as, and what results say of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster

from circuits.blocks import cut
from compile.benchmark import circuit as head_circuit
from compile.benchmark import process as head_process
from compile.benchmark import report as attention_report
from compile.benchmark import run as attention_benchmark
from compile.benchmark.circuit import HeadCall, head_calls
from compile.benchmark.elsewhere import count_workers
from compile.benchmark.process import Compiled
from compile.benchmark.report import attention_markdown, write_attention
from compile.benchmark.results import AttentionOptions, Quality, Workers, read_results
from compile.benchmark.run import benchmark_attention, comparable
from compile.verifier import VerificationError
from fhe_inhibitor.benchmark.heads import make_head
from fhe_inhibitor.cluster import connection
from fhe_inhibitor.cluster.depot import REQUESTS
from fhe_inhibitor.cluster.options import Cluster
from fhe_inhibitor.cluster.orders import Equipment
from fhe_inhibitor.runtime.messages import pack_keys
from fhe_inhibitor.system.progress import Observer
from tests.compile.benchmark.test_run import InProcess
from tests.fhe_inhibitor.cluster.conftest import OPTIONS
from tests.fhe_inhibitor.cluster.sentences import left_alone

KIND = Equipment("EPYC", cores=8, memory_gb=64, tasks_at_once=2, threads=4)
FLEET = (Workers(**vars(KIND), machines=1, workers=2),)
SMALLER = (Workers(**vars(KIND), machines=1, workers=1),)
ASKED = AttentionOptions(
    lengths=(4,),
    head_dim=1,
    bits=2,
    circuits=("inhibitor_exact", "dot_product_exact"),
    seeds=(0, 1),
    repetitions=3,
    point_s=60.0,
    mode="execute",
    split=2,
)
KEYS_BYTES = {"inhibitor_exact": 300 << 20, "dot_product_exact": 1000 << 20}
QUALITY = Quality(correlation=1.0, normalised_error=0.0, values=1)


class ScriptedProcess:
    """Stands for a head with keys, whose calls take what a test says, and tells what it was given.

    calls: run seconds and fleet of each circuit's calls, in turn.
    """

    calls: dict[str, list[tuple[float, tuple[Workers, ...]]]]
    told: list[tuple[Any, ...]]

    def __init__(self, circuit: str, *arguments: Any) -> None:
        self._circuit = circuit
        self.told.append(("make", circuit, *arguments))

    def compile(self, repetitions: int) -> Compiled:
        return Compiled({5: 10}, {5: 10}, 1e9, 100, 100, [1.0], QUALITY)

    def generate_keys(self, repetitions: int) -> list[float]:
        return [1.0]

    def evaluation_keys_bytes(self) -> int:
        return KEYS_BYTES[self._circuit]

    def join(self, observer: Observer, cluster: Cluster) -> None:
        self.told.append(("join", self._circuit, cluster))

    def measure_lookups(self, observer: Observer) -> tuple[dict[int, float], float]:
        return {5: 0.01}, 0.1

    def call(self, observer: Observer, seed: int) -> HeadCall:
        self.told.append(("call", self._circuit, seed))
        run_s, workers = self.calls[self._circuit].pop(0)
        return HeadCall(
            0.1, run_s, 0.1, 10, 20, 1.0, True, [1.0], [1.0], calls_s=2 * run_s, workers=workers
        )


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Have children be scripted, and no scheduler be asked; return what they are told."""
    monkeypatch.setattr(attention_benchmark, "Child", InProcess)
    monkeypatch.setattr(attention_benchmark, "_make", ScriptedProcess)
    monkeypatch.setattr(connection, "for_children", lambda cluster: cluster)
    ScriptedProcess.told = []
    ScriptedProcess.calls = {
        "inhibitor_exact": [(1.0, FLEET), (1.0, FLEET), (2.0, SMALLER)],
        "dot_product_exact": [(5.0, FLEET), (7.0, SMALLER), (6.0, SMALLER)],
    }
    return ScriptedProcess.told


def test_circuits_take_turns_and_keep_their_keys_ready(
    tmp_path: Path, told: list[tuple[Any, ...]]
) -> None:
    """Engines keep the keys of all circuits of a length, or each call would unpack them anew."""
    cluster = Cluster("tcp://127.0.0.1:1")
    results = benchmark_attention(ASKED, tmp_path, None, Observer(), cluster)
    first, second = ASKED.circuits
    assert [what[:2] for what in told[:4]] == [
        ("make", first), ("make", second), ("join", first), ("join", second),
    ]  # fmt: skip
    assert all(made[-1] == ASKED.split for made in told[:2])
    for _, _, joined in told[2:4]:
        assert replace(joined, keys_bytes=cluster.keys_bytes) == cluster
        assert sum(KEYS_BYTES.values()) < joined.keys_bytes < sum(KEYS_BYTES.values()) * 1.01
    assert told[4:] == [("call", c, seed) for seed in (0, 1, 0) for c in ASKED.circuits]
    assert results.parameters.on_cluster
    assert results == read_results(tmp_path / "attention.json")


def test_results_say_who_ran_what_and_compare_like_with_like(
    tmp_path: Path, told: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster("tcp://127.0.0.1:1")
    results = benchmark_attention(ASKED, tmp_path, None, Observer(), cluster)
    assert results.fleets == (FLEET, SMALLER)
    inhibitor, dot_product = (results.find(circuit, 4) for circuit in ASKED.circuits)
    assert inhibitor is not None and dot_product is not None
    assert (inhibitor.fleet, dot_product.fleet) == ([0, 0, 1], [0, 1, 1])
    assert inhibitor.seconds["calls"] == [2.0, 2.0, 4.0]
    # In the second round one of them had lost a worker.
    assert comparable(dot_product, inhibitor) == [(5.0, 1.0), (6.0, 2.0)]
    (ratio,) = results.ratios
    assert ratio.ratio.repetitions == 2
    page = attention_markdown(results)
    assert (
        "2 workers on 1 machine (EPYC, 8 cores, 64 GB), 2 tasks at once each, of 4 threads; "
        "at other times 1 worker on 1 machine" in page
    )
    assert "Each was cut into 2 blocks of queries" in page and "| calls, added up |" in page
    monkeypatch.setattr(attention_report, "plot_attention", lambda *arguments: None)
    write_attention(results, tmp_path)
    assert "calls_median_s" in (tmp_path / "attention.csv").read_text()


def test_a_run_on_a_cluster_goes_on_there_alone(
    tmp_path: Path, told: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark_attention(ASKED, tmp_path, None, Observer(), Cluster("tcp://127.0.0.1:1"))
    whole = ASKED.model_copy(update={"split": 1})
    with pytest.raises(ValueError, match="on_cluster True, split 2"):
        benchmark_attention(whole, tmp_path, None, Observer())
    told.clear()
    benchmark_attention(ASKED, tmp_path, None, Observer(), Cluster("tcp://127.0.0.1:1"))
    assert told == []


@pytest.mark.parametrize(("split", "sizes"), [(1, [5]), (2, [3, 2]), (5, [1] * 5), (9, [1] * 5)])
def test_blocks_of_one_size_share_a_function(split: int, sizes: list[int]) -> None:
    head = make_head("inhibitor_rounded", n=5, head_dim=1, bits=2).head
    calls, wires = head_calls(head, split)
    assert [wires[call.stage.inputs[0]].shape[0] for call in calls] == sizes
    names = {size: "head" if size == 5 else f"head_{size}_queries" for size in sizes}
    assert [call.function.name for call in calls] == [names[size] for size in sizes]
    assert len({id(call.function) for call in calls}) == len(set(sizes))
    assert {call.stage.inputs[1:] for call in calls} == {("k", "v")}
    assert len({call.stage.outputs for call in calls}) == len(calls)
    if split > 1:
        rows = [wires[call.stage.inputs[0]].rows for call in calls]
        assert rows == [(block.start, block.stop) for block in cut(5, split)]


@pytest.mark.parametrize("split", [1, 2])
def test_a_head_that_could_leave_its_tables_is_not_traced(split: int) -> None:
    head = make_head("inhibitor_rounded", n=5, head_dim=1, bits=2).head
    with pytest.raises(VerificationError, match=r"^head(.rows0)?: lookup 3: .*lengthen the table"):
        head_calls(replace(head, v_range=(0, 100)), split)


def test_workers_are_counted_by_kind_and_machine() -> None:
    other = replace(KIND, processor="Xeon")
    fleet = {"tls://h:1": KIND, "tls://h:2": KIND, "tls://[::1]:3": KIND, "tcp://g:1": other}
    assert count_workers(fleet) == (
        Workers(**vars(KIND), machines=2, workers=3),
        Workers(**vars(other), machines=1, workers=1),
    )
    assert count_workers({}) == ()


@pytest.mark.fhe
def test_a_worker_runs_the_blocks_of_an_encrypted_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def make(*arguments: Any) -> Any:
        made.append(head_process.HeadProcess(*arguments))
        return made[-1]

    monkeypatch.setattr(attention_benchmark, "Child", InProcess)
    monkeypatch.setattr(attention_benchmark, "_make", make)
    monkeypatch.setattr(head_process, "MAX_MODEL_HEADS", 20)
    monkeypatch.setattr(head_process, "ends_on_request", lambda: None)  # it takes pytest's signal
    monkeypatch.setattr(head_circuit, "benchmark_size", lambda bit_width: 8)
    asked = ASKED.model_copy(
        update={
            "lengths": (2,),
            "bits": 4,  # keys of narrower lookups are larger
            "circuits": ("inhibitor_exact",),
            "repetitions": 1,
        }
    )
    shared = tmp_path / "shared"
    with (
        LocalCluster(n_workers=1, **OPTIONS) as local,
        Client(local, set_as_default=False) as client,
        left_alone(client),
    ):
        results = benchmark_attention(
            asked, tmp_path, None, Observer(), Cluster(client, shared=shared)
        )
        (head,) = made
        head._elsewhere.close()
        assert not [n for n in plugins(client) if n.startswith("fhe-inhibitor")]
    (point,) = results.points
    assert point.complete and point.equal == [1.0] and point.inside
    assert point.lookups == point.formula
    assert {*point.summaries} == {"compile", "keygen", "encrypt", "run", "decrypt", "calls"}
    assert {*point.lookup_s} == {*point.lookups}
    assert point.fleet == [0]
    ((kind,),) = results.fleets
    assert (kind.machines, kind.workers, kind.tasks_at_once, kind.threads) == (1, 1, 1, 1)
    # Circuits, one file of evaluation keys: nothing else was left there, nothing secret ever was.
    assert not list((shared / REQUESTS).iterdir())
    keys = head._circuit.module.client.evaluation_keys.serialize()
    largest = max(shared.iterdir(), key=lambda path: path.stat().st_size)
    assert largest.stat().st_size == len(pack_keys("ab" * 32, keys))
    secret = head._circuit.module.client.keys._keyset.get_client_keys().get_secret_keys()
    parts = [data[len(data) // 2 :][:512] for data in (key.serialize() for key in secret)]
    assert parts and all(any(part) for part in parts)
    files = [path for path in shared.rglob("*") if path.is_file()]
    assert not any(part in path.read_bytes() for part in parts for path in files)


def plugins(client: Client) -> list[str]:
    """Return what workers are told when they come."""
    return list(client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.worker_plugins)))
