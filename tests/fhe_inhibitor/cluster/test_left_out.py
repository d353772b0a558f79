"""Workers that can't run the circuits are left out, and one line says why."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from distributed import Client, LocalCluster, Security, Worker

from fhe_inhibitor.cluster import executor as cluster_executor
from fhe_inhibitor.cluster import worker as cluster_worker
from fhe_inhibitor.cluster.executor import ClusterExecutor
from fhe_inhibitor.cluster.machines import Machine, this_machine
from fhe_inhibitor.cluster.options import Cluster
from fhe_inhibitor.cluster.orders import ClusterError
from fhe_inhibitor.cluster.store import Store
from fhe_inhibitor.runtime.manifest import MANIFEST_FILE
from tests.fhe_inhibitor.cluster.conftest import KEYS, OPTIONS
from tests.fhe_inhibitor.cluster.sentences import Notes


def test_one_worker_of_two_differs(
    here: Client, circuits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = Notes()
    other, fit = here.scheduler_info()["workers"]
    right = cluster_worker.Fit._check

    def check(plugin: cluster_worker.Fit, worker: Worker) -> str | None:
        if worker.address != other:
            return right(plugin, worker)
        with monkeypatch.context() as patch:
            lacking = replace(this_machine(), instructions=frozenset())
            patch.setattr(cluster_worker, "this_machine", lambda: lacking)
            return right(plugin, worker)

    monkeypatch.setattr(cluster_worker.Fit, "_check", check)
    with ClusterExecutor(Cluster(here), circuits, KEYS, notes) as executor:
        assert executor._connection is not None
        assert executor._connection.seen[fit] is None
        (note,) = notes.notes
        assert note.startswith(f"the worker {other} is left out: its processor lacks ")
        assert "\n" not in note


def test_where_all_differ_nothing_is_sent(
    here: Client, circuits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = this_machine()
    newer = Machine(own.architecture, own.instructions | {"avx9"}, own.versions)
    monkeypatch.setattr(cluster_executor, "this_machine", lambda: newer)
    with pytest.raises(ClusterError, match=r"no worker of .* lacks avx9"):
        ClusterExecutor(Cluster(here), circuits, KEYS)


@pytest.mark.parametrize("change", ["damaged", "gone"])
def test_wrong_circuits_in_a_shared_folder(
    here: Client, circuits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """A worker trusts what it reads no more than what comes to it."""
    shared = tmp_path / "shared"
    right = Store.circuits

    def spoiled(store: Store, source: object, wanted: object) -> Path:
        path = shared / wanted.files[MANIFEST_FILE]  # type: ignore[attr-defined]
        path.unlink(missing_ok=True)
        if change == "damaged":
            path.write_bytes(b"others")
        return right(store, source, wanted)

    monkeypatch.setattr(Store, "circuits", spoiled)
    with pytest.raises(ClusterError, match="damaged" if change == "damaged" else "lacks"):
        ClusterExecutor(Cluster(here, shared=shared), circuits, KEYS)


def test_files_come_over_tls_under_the_cluster_s_certificates(
    circuits: Path, given: Counter[str]
) -> None:
    """The depot speaks as the scheduler does, and hears nobody without a certificate."""
    security = Security.temporary()
    with (
        LocalCluster(n_workers=1, processes=False, security=security, protocol="tls://", **OPTIONS)
        as cluster,
        Client(cluster, security=security, set_as_default=False) as client,
        ClusterExecutor(Cluster(client), circuits, KEYS) as executor,
    ):  # fmt: skip
        connection = executor._connection
        assert connection is not None
        address = connection.depot.source.address
        assert address is not None and address.startswith("tls://")
        (worker,) = cluster.workers.values()
        work = connection.plugin.work
        store = cluster_worker.hands_of(worker).store
        assert store.keys(work.source, work.keys).read_bytes() == KEYS
        found = store.circuits(work.source, work.circuits)
        assert (found / MANIFEST_FILE).read_text() == f"the content of {MANIFEST_FILE}"
        assert given[work.keys] == 1
        store.keys(work.source, work.keys)
        assert given[work.keys] == 1
        with pytest.raises(OSError):
            Client(f"tcp://{address.partition('://')[2]}", timeout=1, set_as_default=False)


def test_circuits_cannot_leave_their_folder(here: Client, circuits: Path) -> None:
    with ClusterExecutor(Cluster(here), circuits, KEYS) as executor:
        assert executor._connection is not None
        work = executor._connection.plugin.work
        (worker, _) = here.cluster.workers.values()  # type: ignore[union-attr]
        shutil.rmtree(worker.local_directory, ignore_errors=True)
        files = {"../../outside": work.circuits.files[MANIFEST_FILE]}
        wanted = replace(work.circuits, circuits_hash="0" * 64, files=files)
        with pytest.raises(cluster_worker.InputError, match="outside"):
            cluster_worker.hands_of(worker).store.circuits(work.source, wanted)
