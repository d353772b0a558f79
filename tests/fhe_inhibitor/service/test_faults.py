"""Whatever dies, hangs or fills up, accepted jobs end, with the right result or a clear status."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
import uuid
from pathlib import Path

import httpx
import psutil
import pytest

from fhe_inhibitor.runtime.protocol import Failure, Status
from fhe_inhibitor.service.storage import DiskFullError, Storage
from tests.fhe_inhibitor.conftest import Tiny, User
from tests.fhe_inhibitor.service.api import Api
from tests.fhe_inhibitor.service.serving import SLOW, START_S, Serving, serve, wait_until

pytestmark = pytest.mark.fhe

LONGEST_WAIT_S = 4.0  # a worker starts, unpacks keys and runs some tasks in that time
JOBS_PER_KILL = 2
FREE_BYTES = 120_000  # enough for the database, not for the outputs of a task


@pytest.mark.parametrize("n_kills", [3, pytest.param(20, marks=SLOW)])
def test_killed_anywhere_every_accepted_job_ends_right_and_once(
    tiny: Tiny, user: User, tmp_path: Path, n_kills: int
) -> None:
    rng = random.Random(n_kills)
    jobs = []
    with serve(tiny.folder, tiny.cache, tmp_path / "data", max_unfinished_jobs=1000) as server:
        api = Api(server.url, server.token, user.keys)
        api.upload()
        for kill in range(n_kills):
            jobs += [submit_through(api, user.request) for _ in range(JOBS_PER_KILL)]
            time.sleep(rng.uniform(0, LONGEST_WAIT_S))
            if kill % 2:
                kill_worker(server)
            else:
                server.kill()
                server.start()
        for job in jobs:
            user.check(api.result(job))
            assert_each_task_once(api, job)
        listed = api.http.get("/jobs").json()["jobs"]
        assert sorted(job["id"] for job in listed) == sorted(jobs)


def test_keys_uploaded_before_a_kill_serve_after_it(tiny: Tiny, user: User, tmp_path: Path) -> None:
    with serve(tiny.folder, tiny.cache, tmp_path / "data") as server:
        api = Api(server.url, server.token, user.keys)
        api.announce().raise_for_status()
        api.append(0, user.keys[:1_000_000]).raise_for_status()
        server.kill()
        server.start()
        assert api.announce().json()["received"] == 1_000_000
        api.upload()
        server.kill()
        server.start()
        user.check(api.result(api.start(user.request)))


def test_a_task_that_takes_too_long_ends_its_job_alone(
    tiny: Tiny, user: User, tmp_path: Path
) -> None:
    with serve(tiny.folder, tiny.cache, tmp_path / "data", task_timeout_s=0.05) as server:
        api = Api(server.url, server.token, user.keys)
        api.upload()
        (worker,) = server.workers()
        ended = api.wait(api.start(user.request))  # unpacking the keys alone takes longer
        assert (ended.status, ended.error) == (Status.FAILED, Failure.TIMED_OUT)
        assert "0.05 s" in (ended.message or "")
        wait_until(lambda: not worker.is_running(), 10)
        server.wait_ready()


def test_a_full_disk_is_told_and_nothing_else_suffers(
    tiny: Tiny, user: User, tmp_path: Path
) -> None:
    """On a file system of its own that really is full."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    mount = f'mount -t tmpfs -o size={len(user.keys) + (1 << 20)} none {data_dir} && exec "$0" "$@"'
    alone = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    with serve(tiny.folder, tiny.cache, data_dir, before=(*alone, mount)) as server:
        api = Api(server.url, server.token, user.keys)
        api.upload()
        assert server.process is not None
        inside = Path(f"/proc/{server.process.pid}/root{data_dir}")
        filler = bytes(shutil.disk_usage(inside).free - FREE_BYTES)
        (inside / "filler").write_bytes(filler)
        more = Api(server.url, server.other_token, user.keys)
        assert more.error(more.announce()) == (507, "disk_full")
        ended = api.wait(api.start(user.request))
        assert (ended.status, ended.error) == (Status.FAILED, Failure.DISK_FULL)
        assert api.http.get("/keys").json()["keys"][0]["complete"]
        assert httpx.get(f"{server.url}/health").status_code == 200
        (inside / "filler").unlink()
        user.check(api.result(api.start(user.request)))


def test_a_reserve_of_the_disk_is_kept(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    storage = Storage(tmp_path, reserved_bytes=free // 2)
    storage.need(free // 4)
    with pytest.raises(DiskFullError):
        storage.need(3 * free // 4)


def test_circuits_that_cannot_be_loaded_leave_the_server_unready(
    tiny: Tiny, tmp_path: Path
) -> None:
    """As they are if somebody removes them while the server runs: at its start they are remade."""
    cache = shutil.copytree(tiny.cache, tmp_path / "cache")
    (library,) = cache.glob("*/circuits/module/server/sharedlib.so")
    server = Serving(tiny.folder, cache, tmp_path / "data")
    server.start()
    server.wait_ready()
    library.unlink()
    n_events = len(server.events())
    (worker,) = server.workers()
    worker.kill()
    wait_until(
        lambda: sum(e["event"] == "worker can't start" for e in server.events()[n_events:]), START_S
    )
    assert httpx.get(f"{server.url}/ready").status_code == 503
    assert server.stop() != 0


def test_workers_end_with_a_killed_server(tiny: Tiny, user: User, tmp_path: Path) -> None:
    with serve(tiny.folder, tiny.cache, tmp_path / "data", workers=2) as server:
        wait_until(lambda: len(server.workers()) == 2, START_S)
        workers = server.workers()
        server.kill()
        assert not psutil.wait_procs(workers, timeout=10)[1]


def test_one_folder_of_data_has_one_server(tiny: Tiny, server: Serving) -> None:
    second = Serving(tiny.folder, tiny.cache, server.data_dir)
    with pytest.raises(AssertionError, match="another server uses"):
        second.start()


def submit_through(api: Api, request: bytes) -> str:
    """Submit a request as a client would: again until the server is there to answer."""
    key = uuid.uuid4().hex
    accepted: list[str] = []

    def submit() -> bool:
        accepted.append(api.submit(request, key).raise_for_status().json()["id"])
        return True

    wait_until(submit, START_S)
    return accepted[-1]


def kill_worker(server: Serving) -> None:
    wait_until(server.workers, START_S)
    os.kill(server.workers()[0].pid, signal.SIGKILL)


def assert_each_task_once(api: Api, job: str) -> None:
    text = api.http.get(f"/jobs/{job}/events").text
    ids = [line.removeprefix("id: ") for line in text.splitlines() if line.startswith("id: ")]
    assert ids == [*map(str, range(1, api.job(job).tasks_total + 1)), "end"]
