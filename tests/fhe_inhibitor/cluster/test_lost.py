"""What a worker can't do is its own failure; a run that always loses its scheduler ends."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from distributed.comm import CommClosedError

from fhe_inhibitor.cluster.executor import (
    SCHEDULERS_LOST,
    ClusterExecutor,
    Run,
    forget_the_gone,
)
from fhe_inhibitor.cluster.options import Cluster
from fhe_inhibitor.cluster.orders import ClusterError, WorkerFailedError
from fhe_inhibitor.cluster.store import Store
from fhe_inhibitor.runtime.manifest import Task
from fhe_inhibitor.runtime.protocol import Failure
from fhe_inhibitor.service.worker import _failure_of
from tests.fhe_inhibitor.cluster.conftest import KEYS

TASKS = [Task("one", "one", ("x",), ("y",), {}), Task("two", "two", ("y",), ("z",), {})]


class Ciphertext:
    """Of nobody; tasks hand it on."""

    def serialize(self) -> bytes:
        return b"ciphertext"


def go_on(executor: ClusterExecutor) -> list[Any]:
    return list(executor.go_on(TASKS, {"x": Ciphertext()}))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), Failure.DISK_FULL),
        (TimeoutError("of a network drive"), Failure.INTERNAL),
    ],
)
def test_a_worker_s_own_error_is_not_a_lost_scheduler(
    here: Client,
    circuits: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: OSError,
    failure: Failure,
) -> None:
    tries = []

    def keys(store: Store, *_: object) -> Path:
        tries.append(store)
        raise error

    monkeypatch.setattr(Store, "keys", keys)
    with ClusterExecutor(Cluster(here), circuits, KEYS) as executor:
        before = executor._connection
        with pytest.raises(WorkerFailedError, match=str(error.args[-1])) as caught:
            go_on(executor)
        assert executor._connection is before
    assert len(tries) == 2
    assert _failure_of(caught.value) is failure


def test_a_scheduler_that_is_lost_again_and_again_ends_a_run(
    here: Client, circuits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses count from the last task that was done."""
    n_attempts = 0

    def attempt(executor: ClusterExecutor, run: Run, observer: object) -> Iterator[Any]:
        nonlocal n_attempts
        n_attempts += 1
        if n_attempts == 3:
            run.left.remove(1)
        raise CommClosedError("gone")
        yield

    monkeypatch.setattr(ClusterExecutor, "_attempt", attempt)
    monkeypatch.setattr(ClusterExecutor, "_reconnect", lambda executor: None)
    with (
        ClusterExecutor(Cluster(here), circuits, KEYS) as executor,
        pytest.raises(ClusterError, match="lost 5 times in a row .*gone"),
    ):
        go_on(executor)
    assert n_attempts == 2 + SCHEDULERS_LOST


def test_a_scheduler_that_did_not_come_back_is_joined_by_the_next_run(
    here: Client, circuits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run gives up, the second one finds no scheduler, the third one has one again."""

    def gone(*_: object) -> Any:
        raise CommClosedError("gone")

    with ClusterExecutor(Cluster(here, patience_s=0), circuits, KEYS) as executor:
        with monkeypatch.context() as patch:
            patch.setattr(ClusterExecutor, "_join", gone)
            patch.setattr("fhe_inhibitor.cluster.executor.Sent", gone)
            for words in ("did not come back: the scheduler was lost .*gone", "was lost .*gone"):
                with pytest.raises(ClusterError, match=words):
                    go_on(executor)
        assert executor._connection is None
        assert executor._joined() is executor._connection


def test_a_scheduler_of_another_version_is_named(
    here: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds no function of that name in its own code."""

    def lacks(*_: object) -> Any:
        raise AttributeError("module has no attribute 'left_behind'")

    monkeypatch.setattr(here, "run_on_scheduler", lacks)
    with pytest.raises(ClusterError, match="another version .*'left_behind'.*start it again"):
        forget_the_gone(here)
