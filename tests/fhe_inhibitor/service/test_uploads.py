"""Keys arrive piece by piece, are never taken for others, and don't stay for ever."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fhe_inhibitor.runtime.messages import pack_keys
from fhe_inhibitor.runtime.protocol import Status
from tests.fhe_inhibitor.conftest import Tiny, User
from tests.fhe_inhibitor.service.api import Api
from tests.fhe_inhibitor.service.serving import Serving, serve, wait_until

pytestmark = pytest.mark.fhe


@pytest.fixture
def fresh(server: Serving, alice: Api) -> Iterator[Api]:
    """The same user with other keys, which are no keys but begin like some."""
    keys = alice.keys[:37] + bytes(range(256)) * 4000
    api = Api(server.url, server.token, keys, alice.circuits_hash)
    yield api
    api.http.delete(f"/keys/{api.keys_id}")


def test_an_upload_goes_on_where_it_broke_off(fresh: Api, user: User) -> None:
    assert fresh.announce().json()["received"] == 0
    half = len(fresh.keys) // 2
    state = fresh.append(0, fresh.keys[:half]).json()
    assert (state["received"], state["complete"]) == (half, False)
    for wrong in (0, half - 1, half + 1, len(fresh.keys)):
        refused = fresh.append(wrong, b"x")
        assert fresh.error(refused) == (409, "wrong_offset")
        assert refused.headers["Upload-Offset"] == str(half)
    head = fresh.http.head(f"/keys/{fresh.keys_id}")
    assert head.headers["Upload-Offset"] == str(half)
    assert head.headers["Upload-Length"] == str(len(fresh.keys))
    assert fresh.error(fresh.submit(user.request)) == (409, "keys_incomplete")
    assert fresh.announce().json()["received"] == half
    assert fresh.append(half, fresh.keys[half:]).json()["complete"]
    assert fresh.announce().json()["complete"]
    assert fresh.error(fresh.append(0, b"")) == (409, "wrong_offset")


def test_a_cut_connection_keeps_what_arrived(server: Serving, fresh: Api) -> None:
    fresh.announce().raise_for_status()
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            f"PATCH /v1/keys/{fresh.keys_id} HTTP/1.1\r\nHost: {host}\r\n"
            f"Authorization: Bearer {fresh.token}\r\nUpload-Offset: 0\r\n"
            f"Content-Length: {len(fresh.keys)}\r\n\r\n".encode()
        )
        connection.sendall(fresh.keys[:100_000])
    path = f"/keys/{fresh.keys_id}"
    wait_until(lambda: fresh.http.get(path).json()["received"] == 100_000, 10)
    fresh.upload()


def test_wrong_keys_are_refused_and_dropped(fresh: Api) -> None:
    damaged = fresh.keys[:-1] + b"\0"
    fresh.announce().raise_for_status()
    assert fresh.error(fresh.append(0, damaged)) == (422, "wrong_keys")
    assert fresh.http.get(f"/keys/{fresh.keys_id}").status_code == 404
    foreign = pack_keys("ab" * 32, bytes(1000))
    fresh.announce().raise_for_status()
    assert fresh.error(fresh.append(0, foreign)) == (422, "wrong_keys")
    assert fresh.http.get(f"/keys/{fresh.keys_id}").status_code == 404


def test_more_than_announced_is_refused(fresh: Api) -> None:
    fresh.announce().raise_for_status()
    fresh.append(0, fresh.keys[:1000]).raise_for_status()
    assert fresh.error(fresh.append(1000, fresh.keys)) == (413, "too_large")
    assert fresh.announce().json()["received"] == 1000
    assert fresh.error(fresh.announce(size=len(fresh.keys) + 1)) == (422, "invalid")


def test_limits_are_kept(tiny: Tiny, user: User, tmp_path: Path) -> None:
    size = len(user.keys)
    limits = {"max_keys": 2, "max_keys_bytes": size, "max_request_bytes": 50_000,
              "max_chunk_bytes": 1 << 20, "max_unfinished_jobs": 2,
              "keys_ttl_s": 3, "job_ttl_s": 1, "workers": 1}  # fmt: skip
    with serve(tiny.folder, tiny.cache, tmp_path / "data", **limits) as server:
        api = Api(server.url, server.token, user.keys)
        assert api.error(api.announce(size=size + 1)) == (413, "too_large")
        api.upload()
        api.announce(sha256="1" * 64).raise_for_status()
        assert api.error(api.announce(sha256="2" * 64)) == (429, "too_many_keys")
        too_long = api.http.patch(
            f"/keys/{'1' * 64}", content=bytes((1 << 20) + 1), headers={"Upload-Offset": "0"}
        )
        assert api.error(too_long) == (413, "too_large")
        assert api.error(api.http.post("/keys", content=bytes(1 << 17))) == (413, "too_large")
        assert api.error(api.submit(bytes(50_001))) == (413, "too_large")
        first, second = api.start(user.request), api.start(user.request)
        refused = api.submit(user.request)
        assert api.error(refused) == (429, "too_many_jobs")
        assert int(refused.headers["Retry-After"]) >= 1
        assert api.error(api.http.delete(f"/keys/{api.keys_id}")) == (409, "keys_in_use")
        for job in (first, second):
            user.check(api.result(job))
        # A second later the results are gone, three seconds later the keys.
        wait_until(lambda: _gone(api, first), 10)
        wait_until(lambda: not api.http.get("/keys").json()["keys"], 10)
        wait_until(lambda: not list((tmp_path / "data" / "keys").glob("*/*")), 5)
        wait_until(lambda: not list((tmp_path / "data" / "jobs").iterdir()), 5)


def test_who_asks_too_often_waits(tiny: Tiny, user: User, tmp_path: Path) -> None:
    settings = {"requests_per_s": 20, "burst_requests": 5}
    with serve(tiny.folder, tiny.cache, tmp_path / "data", **settings) as server:
        api = Api(server.url, server.token, b"")
        answers = [api.http.get("/jobs") for _ in range(50)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert api.error(refused[0]) == (429, "too_many_requests")
        time.sleep(int(refused[0].headers["Retry-After"]))
        assert api.http.get("/jobs").status_code == 200
        other = Api(server.url, server.other_token, b"", api.circuits_hash)
        assert other.http.get("/jobs").status_code == 200


def _gone(api: Api, job: str) -> bool:
    """Whether a job has expired; some seconds later it is forgotten."""
    with contextlib.suppress(httpx.HTTPStatusError):
        if api.job(job).status is Status.EXPIRED:
            result = api.http.get(f"/jobs/{job}/result")
            assert result.status_code == 404 or api.error(result) == (410, "expired")
            return True
    return api.http.get(f"/jobs/{job}").status_code == 404
