"""What workers were told goes with whoever told it, however that ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, Scheduler
from distributed.comm import CommClosedError

from fhe_inhibitor.cluster import executor as cluster_executor
from fhe_inhibitor.cluster.executor import ClusterExecutor, Connection
from fhe_inhibitor.cluster.machines import this_machine
from fhe_inhibitor.cluster.options import Cluster
from fhe_inhibitor.cluster.orders import ClusterError
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


def _add_plugin(name: str, dask_scheduler: Scheduler) -> None:
    dask_scheduler.worker_plugins[name] = b""
