"""What a worker keeps: its part of the cores, and files within a limit."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import dask
import pytest
from distributed import Client, LocalCluster

from fhe_inhibitor.cluster.depot import Depot
from fhe_inhibitor.cluster.orders import CORES_VARIABLE, ENGINE_RESOURCE
from fhe_inhibitor.cluster.store import Store
from fhe_inhibitor.cluster.worker import hands_of
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.manifest import SERVER_FOLDER, TOKENIZER_FILE
from tests.fhe_inhibitor.cluster.conftest import OPTIONS

NATIVE = f"{SERVER_FOLDER}/sharedlib.so"


@pytest.mark.parametrize(("cores", "tasks", "threads"), [("4", 2, 2), ("3", 2, 1), (None, 2, 1)])
def test_tasks_at_once_share_a_worker_s_cores(
    monkeypatch: pytest.MonkeyPatch, cores: str | None, tasks: int, threads: int
) -> None:
    if cores is None:
        monkeypatch.delenv(CORES_VARIABLE, raising=False)
    else:
        monkeypatch.setenv(CORES_VARIABLE, cores)
    options = {**OPTIONS, "threads_per_worker": tasks}
    with LocalCluster(n_workers=1, processes=False, protocol="tcp://", **options) as cluster:
        (worker,) = cluster.workers.values()
        hands = hands_of(worker)
        assert hands is hands_of(worker)
        assert (hands.n_engines, hands.threads) == (tasks, threads)
        # One more than engines, so that what is small never waits for a call.
        assert worker.state.nthreads == tasks + 1
        assert ENGINE_RESOURCE not in worker.state.total_resources  # before it was compared


def test_keys_are_fetched_once_while_they_fit(here: Client, given: Counter[str]) -> None:
    depot = Depot(here)
    worker = next(iter(here.cluster.workers.values()))  # type: ignore[union-attr]
    store = Store(worker, n_bytes=250)
    first, second, third = (depot.add(bytes([n]) * 100) for n in range(3))
    for sha256 in (first, second, first, third, first):
        assert store.keys(depot.source, sha256).read_bytes()[1:] in (
            bytes(99),
            b"\1" * 99,
            b"\2" * 99,
        )
    # The third took the place of the second, which was used longer ago.
    assert given == {first: 1, second: 1, third: 1}
    folder = store.keys(depot.source, first).parent
    assert {path.name for path in folder.iterdir()} == {first, third}
    store.keys(depot.source, second)
    assert given[second] == 2
    with pytest.raises(InputError, match="holds no"):
        store.fetch(depot.source, "0" * 64)
    depot.close()
    soon = dask.config.set({"distributed.comm.timeouts.connect": "0.2s"})
    with soon, pytest.raises(InputError, match="can't reach"):
        store.fetch(depot.source, first)


def test_circuits_of_two_compilations_are_not_mixed(
    here: Client, circuits: Path, tmp_path: Path
) -> None:
    """Their public files are the same, their native code isn't; a first fetch broke off."""
    depot = Depot(here)
    store = Store(next(iter(here.cluster.workers.values())))  # type: ignore[union-attr]
    other = shutil.copytree(circuits, tmp_path / "other")
    (other / NATIVE).write_text("of another compilation")
    first, second = depot.add_circuits(circuits), depot.add_circuits(other)
    assert first.circuits_hash == second.circuits_hash
    lacking = {**first.files, TOKENIZER_FILE: "0" * 64}
    with pytest.raises(InputError, match="holds no"):
        store.circuits(depot.source, replace(first, files=lacking))
    for wanted, folder in ((second, other), (first, circuits)):
        content = store.circuits(depot.source, wanted) / NATIVE
        assert content.read_text() == (folder / NATIVE).read_text()
    depot.close()
