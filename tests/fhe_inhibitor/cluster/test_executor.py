"""Two real workers run encrypted tasks: right, each once, with keys that nobody sends twice."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from distributed import Client, Worker

from compile.local.session import Session
from fhe_inhibitor.cluster.depot import REQUESTS
from fhe_inhibitor.cluster.executor import ClusterExecutor
from fhe_inhibitor.cluster.options import Cluster
from fhe_inhibitor.cluster.worker import hands_of
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.messages import pack_keys
from fhe_inhibitor.system.files import file_sha256
from tests.fhe_inhibitor.cluster.sentences import (
    Notes,
    check_logits,
    left_alone,
    run_all,
    sentences,
)
from tests.fhe_inhibitor.conftest import TEXT, Tiny, User
from tests.fhe_inhibitor.service.test_secrets import forbidden_in, loaded_by


def test_neither_worker_nor_engine_loads_what_decrypts() -> None:
    for module in ("cluster.worker", "cluster.engine"):
        modules, holders = loaded_by(module, "fhe_inhibitor")
        assert f"fhe_inhibitor.{module}" in modules
        assert not forbidden_in(modules)
        assert holders == []


def test_nobody_loads_dask_who_has_not_asked_for_it() -> None:
    program = (
        "import sys, compile.local.session, fhe_inhibitor.cli.main, fhe_inhibitor.service.worker;"
        "print([m for m in sys.modules if m.split('.')[0] in ('dask', 'distributed')])"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True)
    assert done.stdout == b"[]\n", done.stderr


@pytest.mark.fhe
def test_two_sentences_at_once(client: Client, tiny: Tiny, user: User, given: Counter[str]) -> None:
    tasks, values = sentences(tiny, user, 2)
    notes = Notes()
    with (
        left_alone(client),
        ClusterExecutor(Cluster(client), tiny.circuits, user.keys, notes) as executor,
    ):
        done, waits = [], []
        for one in executor.go_on(tasks, values, notes):
            done.append(one)
            # A call of the other sentence runs: it holds neither event loop nor interpreter.
            start = time.perf_counter()
            client.run(lambda dask_worker: dask_worker.state.executing_count)
            waits.append(time.perf_counter() - start)
        assert min(waits) < max(one.seconds for one in done) / 2
        check_logits(user, done, 1)  # the other sentence's stayed there
        assert [bool(one.outputs) for one in done] == [one.index == len(tasks) for one in done]
        placement = executor.placement
        assert set(placement.tasks) == set(client.scheduler_info()["workers"])
        assert sum(placement.tasks.values()) == len(tasks)
        assert notes.notes == [placement.describe()]
        sha256 = executor._connection.plugin.work.keys  # type: ignore[union-attr]
        assert given[sha256] == 2  # once to each worker
        for threads, modules in client.run(seen_by_an_engine).values():
            assert threads == 2  # and not what Dask's nanny set
            assert "fhe_inhibitor.runtime.server" in modules
            assert not forbidden_in(modules)
        # Nothing that the scheduler held is as large as keys.
        largest = client.run_on_scheduler(
            lambda dask_scheduler: max(
                p.nbytes_total for p in dask_scheduler.task_prefixes.values()
            )
        )
        assert largest < len(user.keys) / 10


@pytest.mark.fhe
def test_kept_outputs_come_back_and_a_run_goes_on_from_them(
    client: Client, tiny: Tiny, user: User
) -> None:
    """As after a restart: values that lie here go to workers, and only what is left runs."""
    tasks, values = sentences(tiny, user, 1)
    with ClusterExecutor(Cluster(client), tiny.circuits, user.keys) as executor:
        done = run_all(executor, tasks, values, keep=True)
        assert all(one.outputs for one in done)
        kept = {name: value for one in done[:2] for name, value in one.outputs.items()}
        rest = run_all(executor, tasks, {**values, **kept}, left=[3, 4])
        assert [one.index for one in rest] == [3, 4]
        assert executor.placement.given_bytes > 0
        check_logits(user, [*done[:2], *rest], 1)


@pytest.mark.fhe
def test_keys_of_others_are_refused_and_the_engine_goes_on(
    client: Client, tiny: Tiny, user: User
) -> None:
    tasks, values = sentences(tiny, user, 1)
    foreign = pack_keys("ab" * 32, user.keys[40:2000])
    with (
        ClusterExecutor(Cluster(client), tiny.circuits, foreign) as executor,
        pytest.raises(InputError, match="keys"),
    ):
        run_all(executor, tasks, values)
    with ClusterExecutor(Cluster(client), tiny.circuits, user.keys) as executor:
        check_logits(user, run_all(executor, tasks, values), 1)


@pytest.mark.fhe
def test_a_session_s_text_runs_on_the_cluster(client: Client, tiny: Tiny, tmp_path: Path) -> None:
    notes = Notes()
    address = client.scheduler.address  # type: ignore[union-attr]
    with Session(
        tiny.model,
        cache_dir=tiny.cache,
        keys_dir=tmp_path / "keys",
        observer=notes,
        cluster=Cluster(address, shared=tmp_path / "shared"),
    ) as session:
        result = session.classify(TEXT, resume=tmp_path / "run")
        assert result.logits is not None and result.clear_logits is not None
        assert all(abs(a - b) < 15 for a, b in zip(result.logits, result.clear_logits, strict=True))
        assert session.placement is not None and sum(session.placement.tasks.values()) == 4
        assert [stage.name for stage in result.stages][1:-1] == [
            "layer0.project", "layer0.attend", "layer0.feed_forward", "classify",
        ]  # fmt: skip
        assert not (tmp_path / "run").exists()
    # Keys and circuits wait there for workers that come later; ciphertexts don't.
    names = {path.name for path in (tmp_path / "shared").iterdir() if path.is_file()}
    assert list((tmp_path / "shared" / REQUESTS).iterdir()) == []
    circuits = {file_sha256(path) for path in tiny.circuits.rglob("*") if path.is_file()}
    assert circuits < names and len(names - circuits) == 1


def seen_by_an_engine(dask_worker: Worker) -> tuple[int, list[str]]:
    """Return threads and modules of the process beside a worker that has run a task."""
    assert os.environ["OMP_NUM_THREADS"] == "1"
    with hands_of(dask_worker).engine() as engine:
        return engine.call("threads"), engine.call("loaded")
