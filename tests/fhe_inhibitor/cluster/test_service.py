"""A server whose jobs run on a cluster: what it stores is what it goes on with."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from distributed import Client

from fhe_inhibitor.runtime.execution import TaskDone
from fhe_inhibitor.runtime.manifest import Task
from fhe_inhibitor.runtime.protocol import Status
from fhe_inhibitor.service.worker import in_order
from tests.fhe_inhibitor.conftest import Tiny, User
from tests.fhe_inhibitor.service.api import Api
from tests.fhe_inhibitor.service.serving import Serving, serve, wait_until
from tests.fhe_inhibitor.service.test_faults import assert_each_task_once


@pytest.mark.parametrize("first", [1, 4])
def test_tasks_are_recorded_in_their_order_however_they_end(first: int) -> None:
    """A job goes on after its first n tasks, so task n + 1 may not be recorded before task n."""
    task = Task("a", "a", (), (), {})
    done: list[TaskDone] = [TaskDone(task, {}, 0.0, index, 9) for index in range(first, 10)]
    early = done[:-1]
    random.Random(first).shuffle(early)
    found = list(in_order((one for one in [*early, done[-1]]), first))
    assert found == done


@pytest.mark.fhe
def test_a_job_runs_on_the_cluster_and_goes_on_after_a_kill(
    client: Client, tiny: Tiny, user: User, tmp_path: Path
) -> None:
    address = client.scheduler.address  # type: ignore[union-attr]
    with serve(tiny.folder, tiny.cache, tmp_path / "data", scheduler=address) as server:
        api = Api(server.url, server.token, user.keys)
        api.upload()
        job = api.start(user.request)
        wait_until(lambda: api.job(job).tasks_done > 0, 120)
        server.kill()
        server.start()
        wait_until(lambda: api.job(job).status.final, 120)
        assert api.job(job).status is Status.DONE, api.job(job)
        user.check(api.result(job))
        assert_each_task_once(api, job)
        said = [str(event.get("said")) for event in server.events()]
        assert any("tasks on" in note for note in said)
    refused = Serving(
        tiny.folder, tiny.cache, tmp_path / "other", {"scheduler": "tcp://10.0.0.1:1"}
    )
    with pytest.raises(AssertionError, match="any code"):
        refused.start()
