"""Many at once: none is lost, none waits for ever, and nothing grows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.fhe_inhibitor.conftest import Tiny, User
from tests.fhe_inhibitor.service.api import Api
from tests.fhe_inhibitor.service.serving import SLOW, serve

pytestmark = pytest.mark.fhe

N_CLIENTS = 8
P99_S = 0.2
PROBES = ("/health", "/ready", "/v1/jobs", "/v1/keys", "/v1/models")
GROWTH_BYTES = 30 << 20


@pytest.fixture
def people(alice: Api, bob: Api, user: User, other_user: User) -> list[tuple[Api, User]]:
    return [(alice, user), (bob, other_user)] * (N_CLIENTS // 2)


@pytest.mark.parametrize("seconds", [3, pytest.param(120, marks=SLOW)])
def test_eight_clients_at_once(people: list[tuple[Api, User]], seconds: float) -> None:
    served, latencies = load(people, seconds)
    assert len(served) == len(set(served)) >= N_CLIENTS
    assert len(latencies) > 5 * len(PROBES)


@pytest.mark.timing
@pytest.mark.parametrize("seconds", [8, pytest.param(120, marks=SLOW)])
def test_cheap_requests_stay_quick_meanwhile(
    people: list[tuple[Api, User]], seconds: float
) -> None:
    served, latencies = load(people, seconds)
    p99_s = float(np.quantile(latencies, 0.99))
    print(f"{len(served)} jobs; {len(latencies)} cheap requests, p99 {1000 * p99_s:.1f} ms")
    assert p99_s < P99_S


def load(people: list[tuple[Api, User]], seconds: float) -> tuple[list[str], list[float]]:
    """Let people classify at once; return their jobs, and seconds of cheap requests meanwhile."""
    end = time.monotonic() + seconds
    failed: list[BaseException] = []
    served: list[str] = []
    latencies: list[float] = []

    def classify(api: Api, person: User) -> None:
        own = Api(api.url, api.token, api.keys, api.circuits_hash)
        while time.monotonic() < end:
            job = own.start(person.request)
            person.check(own.result(job))
            served.append(job)

    def probe() -> None:
        api = people[0][0]
        headers = {"Authorization": f"Bearer {api.token}"}
        with httpx.Client(base_url=api.url, headers=headers) as client:
            while time.monotonic() < end:
                for path in PROBES:
                    start = time.perf_counter()
                    client.get(path).raise_for_status()
                    latencies.append(time.perf_counter() - start)
                    time.sleep(0.01)

    def guard(work: Callable[..., None], *arguments: object) -> None:
        try:
            work(*arguments)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guard, args=(classify, *person)) for person in people]
    threads.append(threading.Thread(target=guard, args=(probe,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    return served, latencies


def test_who_comes_late_does_not_wait_for_a_long_queue(
    alice: Api, bob: Api, user: User, other_user: User
) -> None:
    greedy = [alice.start(user.request) for _ in range(8)]
    late = [bob.start(other_user.request) for _ in range(2)]
    ended = [alice.wait(job) for job in greedy] + [bob.wait(job) for job in late]
    order = [job.id for job in sorted(ended, key=lambda job: job.finished_at or 0)]
    # At most one of the greedy user's jobs was under way, and two turns are his.
    assert order.index(late[0]) <= 2
    assert order.index(late[1]) <= 4


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_is_flat_over_200_jobs(tiny: Tiny, user: User, tmp_path: Path) -> None:
    with serve(tiny.folder, tiny.cache, tmp_path / "data") as server:
        api = Api(server.url, server.token, user.keys)
        api.upload()
        (worker,) = server.workers()
        processes = [server.web(), worker]
        sizes = []
        for n in range(1, 201):
            user.check(api.result(api.start(user.request)))
            if n in (40, 200):
                sizes.append([process.memory_info().rss for process in processes])
        growth = np.subtract(sizes[1], sizes[0])
        print(f"RSS in MB after 40 and 200 jobs: {np.array(sizes) >> 20}")
        assert (growth < GROWTH_BYTES).all()
