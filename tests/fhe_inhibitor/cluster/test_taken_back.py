"""What workers were told goes with whoever told it, however that ends."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, Scheduler
from distributed.comm import CommClosedError

from fhe_inhibitor.cluster import executor as cluster_executor
from fhe_inhibitor.cluster.depot import Depot
from fhe_inhibitor.cluster.executor import ClusterExecutor, Connection
from fhe_inhibitor.cluster.machines import this_machine
from fhe_inhibitor.cluster.options import Cluster
from fhe_inhibitor.cluster.orders import ClusterError
from fhe_inhibitor.cluster.store import Store
from fhe_inhibitor.errors import InputError
from tests.fhe_inhibitor.cluster.conftest import KEYS


def told(client: Client) -> list[str]:
    """Return the names of what a scheduler tells workers that come."""

    def plugins(dask_scheduler: Scheduler) -> list[str]:
        return [name for name in dask_scheduler.worker_plugins if "fhe-inhibitor" in name]

    return client.run_on_scheduler(plugins)


def connection_of(executor: ClusterExecutor) -> Connection:
    assert executor._connection is not None
    return executor._connection


def address_of(client: Client) -> str:
    scheduler: Any = client.scheduler
    return str(scheduler.address)


def test_where_no_worker_fits_nothing_stays(
    here: Client, circuits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = replace(this_machine(), instructions=this_machine().instructions | {"avx9"})
    monkeypatch.setattr(cluster_executor, "this_machine", lambda: newer)
    with pytest.raises(ClusterError, match="avx9"):
        ClusterExecutor(Cluster(here), circuits, KEYS)
    assert told(here) == []


def test_who_connects_again_takes_back_what_was_told_before(here: Client, circuits: Path) -> None:
    with ClusterExecutor(Cluster(here), circuits, KEYS) as executor:
        before = told(here)
        executor._reconnect()
        (name,) = told(here)
        assert [name] != before
    assert told(here) == []


def test_the_next_client_takes_back_what_a_killed_one_left(here: Client, circuits: Path) -> None:
    """And nothing of one that lives, nor of an older version, whose names have no client."""
    here.run_on_scheduler(_add_plugin, "fhe-inhibitor-0123456789ab")
    killed = ClusterExecutor(Cluster(address_of(here)), circuits, KEYS)
    with ClusterExecutor(Cluster(here), circuits, KEYS) as living:
        assert len(told(here)) == 3
        # To a scheduler, a process that was killed is a connection that was closed.
        connection_of(killed).client.close()
        with ClusterExecutor(Cluster(address_of(here)), circuits, KEYS) as third:
            names = [connection_of(one).plugin.name for one in (living, third)]
            assert told(here) == ["fhe-inhibitor-0123456789ab", *names]
    killed.close()


def test_a_client_that_was_taken_for_gone_notices(here: Client, circuits: Path) -> None:
    """Its tasks would wait for ever: no worker has their resource."""
    with ClusterExecutor(Cluster(here), circuits, KEYS) as executor:
        connection = connection_of(executor)
        here.unregister_worker_plugin(connection.plugin.name)
        with pytest.raises(CommClosedError, match="knows nothing of these circuits"):
            executor._look_for_workers(connection)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_request_leaves_a_shared_folder_when_it_is_dropped(here: Client, tmp_path: Path) -> None:
    """Also one that was there already, of a process that was killed; keys stay."""
    killed = Depot(here, tmp_path)
    names = [killed.add(b"keys", lasting=True), killed.add(b"request"), killed.add(b"another")]
    worker = next(iter(here.cluster.workers.values()))  # type: ignore[union-attr]
    depot = Depot(here, tmp_path)
    assert depot.add(b"request") == names[1]
    depot.add(b"third")
    assert Store(worker).fetch(depot.requests, names[1]) == b"request"
    assert Store(worker).fetch(depot.source, names[0]) == b"keys"
    depot.drop(names[1])
    assert names[1] not in files(tmp_path)
    depot.close()
    assert files(tmp_path) == sorted([names[0], names[2]])


def test_requests_that_were_left_go_when_nobody_can_want_them(here: Client, tmp_path: Path) -> None:
    killed = Depot(here, tmp_path)
    keys, old, young = (killed.add(b"keys", lasting=True), killed.add(b"old"), killed.add(b"young"))
    for name, days in ((keys, 30), (f"requests/{old}", 8), (f"requests/{young}", 6)):
        then = time.time() - days * 24 * 3600
        os.utime(tmp_path / name, (then, then))
    Depot(here, tmp_path)
    assert files(tmp_path) == sorted([keys, young])


def test_a_shared_folder_that_is_full_is_named(
    here: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raised as it is, it would be taken for a lost scheduler."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    depot = Depot(here, tmp_path)
    monkeypatch.setattr("fhe_inhibitor.cluster.depot.write_atomically", full)
    for lasting in (False, True):
        with pytest.raises(InputError, match=f"folder {tmp_path} has no space left.*--shared"):
            depot.add(b"request", lasting)


def _add_plugin(name: str, dask_scheduler: Scheduler) -> None:
    dask_scheduler.worker_plugins[name] = b""
