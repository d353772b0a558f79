"""Clusters of this machine, of two workers with one thread each."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from distributed import Client, LocalCluster

from fhe_inhibitor.cluster.orders import CORES_VARIABLE

OPTIONS = {
    "threads_per_worker": 1,
    "dashboard_address": "127.0.0.1:0",
    "silence_logs": logging.CRITICAL,
}


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Of a cluster whose workers are processes, as they always are but in tests.

    Each has two cores for the one task that it runs at once.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CORES_VARIABLE, "2")
        with (
            LocalCluster(n_workers=2, **OPTIONS) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield client


@pytest.fixture
def here() -> Iterator[Client]:
    """Of a cluster whose two workers live in this process, for what needs no engine."""
    with (
        LocalCluster(n_workers=2, processes=False, protocol="tcp://", **OPTIONS) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client
