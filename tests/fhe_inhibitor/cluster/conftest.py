"""Clusters of this machine, of two workers with one thread each, and files for them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster

from fhe_inhibitor.cluster.depot import Depot
from fhe_inhibitor.cluster.orders import CORES_VARIABLE
from fhe_inhibitor.runtime.manifest import DIGESTS_FILE, SERVER_FOLDER
from fhe_inhibitor.runtime.protocol import MODEL_FILES

KEYS = b"of nobody"

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


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often depots of this process gave each file, by its SHA-256."""
    counts: Counter[str] = Counter()
    give = Depot._give

    async def counted(depot: Depot, sha256: str) -> dict[str, Any]:
        counts[sha256] += 1
        return await give(depot, sha256)

    monkeypatch.setattr(Depot, "_give", counted)
    return counts


@pytest.fixture
def circuits(tmp_path: Path) -> Path:
    """Files as a folder of circuits has them; nobody loads these."""
    folder = tmp_path / "circuits"
    for name in (*MODEL_FILES, DIGESTS_FILE, f"{SERVER_FOLDER}/sharedlib.so"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"the content of {name}")
    return folder
