"""The server's own page: counts that are true, nothing of anybody, and nothing from elsewhere."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest

from fhe_inhibitor.runtime.protocol import NewKeys, TaskEvent
from fhe_inhibitor.service.access import new_token
from fhe_inhibitor.service.jobs import NewJob
from fhe_inhibitor.service.orders import Report
from fhe_inhibitor.service.service import Service
from fhe_inhibitor.service.settings import load_settings
from fhe_inhibitor.service.status import SPEED_S, Speed, read_page
from fhe_inhibitor.service.supervisor import Supervisor
from fhe_inhibitor.service.web import create_app

MODEL, KEYS, OTHER_KEYS = "a" * 64, "b" * 64, "c" * 64
READY = 'import sys; print(\'{"kind": "ready"}\', flush=True); sys.stdin.read()'


class Elements(HTMLParser):
    """The elements of a page, with their attributes, and the text of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        self.text[self._inside] = self.text.get(self._inside, "") + data


@asynccontextmanager
async def running(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    """Run a service without models, whose worker says that it is ready and does nothing."""

    async def spawn(supervisor: Supervisor, lease: str) -> Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", READY, stdin=PIPE, stdout=PIPE
        )

    monkeypatch.setattr(Supervisor, "_spawn", spawn)
    token = new_token(data_dir / "tokens", "alice")
    service = Service(load_settings(data_dir=data_dir, **settings), [])
    app = create_app(service)
    async with app.router.lifespan_context(app):
        headers = {"Authorization": f"Bearer {token}"}
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://test", headers=headers
        ) as client:
            async with asyncio.timeout(10):
                while not service.supervisor.n_ready:
                    await asyncio.sleep(0.01)
            yield service, client


def fill(service: Service) -> list[str]:
    """Give two users three jobs and two keys; return what nobody may see of them."""
    for user, keys, size in (("alice", KEYS, 1000), ("bob", OTHER_KEYS, 500)):
        service.uploads.start(user, NewKeys(sha256=keys, size=size, circuits_hash=MODEL), MODEL)
    service.uploads._complete("alice", KEYS)
    ids = [
        service.jobs.submit(NewJob(user, MODEL, KEYS, 4, 1, "0" * 64, None), lambda job: None).id
        for user in ("alice", "alice", "bob")
    ]
    for lease in ("first", "second"):
        assert service.jobs.claim(lease, [MODEL]) is not None
    event = TaskEvent(stage="classify", seconds=0.5, index=1, total=1)
    assert service.jobs.record("first", ids[0], event)
    service._on_report(Report(kind="task", job=ids[0], seconds=0.5, lookups=100))
    return [*ids, KEYS, OTHER_KEYS, "alice", "bob", "first", "second"]


def test_the_counts_are_true_and_say_nothing_of_anybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with running(tmp_path, monkeypatch, workers=1) as (service, client):
            hidden = fill(service)
            answer = await client.get("/v1/status")
            assert answer.status_code == 200
            content = answer.json()
            jobs = {"queued": 1, "running": 1, "done": 1}
            assert content["jobs"] == {"failed": 0, "cancelled": 0, "expired": 0, **jobs}
            assert content["workers"] == {"wanted": 1, "ready": 1, "busy": 1}
            assert content["keys"] == {"complete": 1, "arriving": 1, "n_bytes": 1000}
            assert content["lookups_per_s"] == 200.0
            assert (content["longest_wait_s"], content["uptime_s"]) == (0, 0)
            assert not [secret for secret in hidden if secret in answer.text]
            assert service.settings.data_dir.as_posix() not in answer.text

    asyncio.run(run())


def test_methods_that_are_made_up_are_counted_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each pair of a path and a method is kept for ever, and anybody can send one."""

    async def run() -> None:
        async with running(tmp_path, monkeypatch) as (service, client):
            for method in ("GET", "PUT", "BREW", "STEEP", "GETS"):
                await client.request(method, "/health")
            counted = [
                (sample.labels["method"], sample.labels["status"], sample.value)
                for metric in service.metrics.registry.collect()
                for sample in metric.samples
                if sample.name == "fhe_inhibitor_request_seconds_count"
            ]
            assert sorted(counted) == [("GET", "200", 1), ("OTHER", "405", 3), ("PUT", "405", 1)]

    asyncio.run(run())


def test_no_user_holds_all_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is open as long as its job waits, which may be for ever."""

    async def run() -> None:
        async with running(tmp_path, monkeypatch, max_streams=2) as (service, client):
            job = fill(service)[1]
            address = f"/v1/jobs/{job}/events"
            gone = asyncio.Event()
            open_ones = [asyncio.create_task(watch(client, address, gone)) for _ in range(2)]
            async with asyncio.timeout(10):
                while service.streams._open["alice"] < 2:
                    await asyncio.sleep(0.01)
            refused = await client.get(address)
            assert (refused.status_code, refused.json()["error"]) == (429, "too_many_streams")
            assert int(refused.headers["Retry-After"]) >= 1
            with service.streams.counted("bob"):
                pass
            assert (await client.get(f"/v1/jobs/{job}")).status_code == 200
            gone.set()
            assert await asyncio.gather(*open_ones) == [200, 200]
            with service.streams.counted("alice"), service.streams.counted("alice"):
                pass

    asyncio.run(run())


def test_no_user_fills_the_memory_with_slow_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request is in memory, as far as it came, until it is a job."""

    async def run() -> None:
        async with running(tmp_path, monkeypatch, max_unfinished_jobs=2) as (service, client):
            circuits: Any = object()
            service._by_hash[MODEL] = circuits
            goes_on = asyncio.Event()
            n_begun = 0

            async def body() -> AsyncIterator[bytes]:
                nonlocal n_begun
                n_begun += 1
                yield b"x"
                await goes_on.wait()
                yield b"y"

            async def submit() -> httpx.Response:
                asked = {"circuits_hash": MODEL, "keys": KEYS}
                return await client.post("/v1/jobs", params=asked, content=body())

            slow = [asyncio.create_task(submit()) for _ in range(2)]
            async with asyncio.timeout(10):
                while n_begun < 2:
                    await asyncio.sleep(0.01)
                refused = await submit()
            assert (refused.status_code, refused.json()["error"]) == (429, "too_many_bodies")
            assert "2 requests of yours have not all arrived" in refused.json()["message"]
            assert int(refused.headers["Retry-After"]) >= 1
            assert n_begun == 2, "the body was read all the same"
            with service.bodies.counted("bob"):
                pass
            goes_on.set()
            answers = [*await asyncio.gather(*slow), await submit()]
            assert [answer.json()["message"] for answer in answers] == ["no such keys"] * 3

    asyncio.run(run())


async def watch(client: httpx.AsyncClient, address: str, gone: asyncio.Event) -> int:
    """Hold a stream of events until the event is set; return its HTTP status.

    httpx would wait for the end of the answer.
    """
    statuses = []

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    headers = [(b"authorization", client.headers["Authorization"].encode())]
    scope = {
        "type": "http", "method": "GET", "path": address, "raw_path": address.encode(),
        "query_string": b"", "headers": headers, "http_version": "1.1",
    }  # fmt: skip
    transport: Any = client._transport
    await transport.app(scope, receive, send)
    (status,) = statuses
    return status


def test_strangers_learn_whether_jobs_run_and_no_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with running(tmp_path, monkeypatch) as (service, client):
            client.headers.pop("Authorization")
            assert (await client.get("/v1/status")).status_code == 401
            content = (await client.get("/status")).json()
            assert (content["ready"], content["reason"], content["overview"]) == (True, None, None)
            service.supervisor._ready.clear()
            answer = await client.get("/status")
            assert answer.status_code == 200, "a page that asks would have an error in its console"
            assert answer.json()["reason"] == "no worker is ready yet"

    asyncio.run(run())


def test_an_operator_can_show_the_counts_to_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with running(tmp_path, monkeypatch, open_status=True) as (service, client):
            of_users = (await client.get("/v1/status")).json()
            client.headers.pop("Authorization")
            assert (await client.get("/status")).json()["overview"] == of_users
            assert (await client.get("/v1/status")).status_code == 401

    asyncio.run(run())


def test_the_page_runs_what_is_in_it_and_asks_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> httpx.Response:
        async with running(tmp_path, monkeypatch) as (_, client):
            return await client.get("/")

    answer = asyncio.run(run())
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    parts = dict(part.split(" ", 1) for part in policy.split("; "))
    assert parts["default-src"] == parts["form-action"] == parts["frame-ancestors"] == "'none'"
    assert parts["connect-src"] == "'self'"
    page = Elements()
    page.feed(answer.text)
    for tag in ("script", "style"):
        digest = hashlib.sha256(page.text[tag].encode()).digest()
        assert parts[f"{tag}-src"] == f"'sha256-{base64.b64encode(digest).decode()}'"
    for _, attributes in page.found:
        assert not set(attributes) & {"style", "onclick", "onload", "onsubmit"}
        for name in ("src", "href", "action", "srcset"):
            assert attributes.get(name, "data:,") == "data:,"
    asked = re.findall(r'fetch\("([^"]*)"', page.text["script"])
    assert sorted(asked) == ["/status", "/v1/status"]
    assert "://" not in answer.text and "@import" not in answer.text


def test_the_page_is_readable_by_those_who_listen() -> None:
    page = Elements()
    page.feed(read_page()[0])
    attributes = dict(page.found)
    assert attributes["html"]["lang"] == "en"
    (viewport,) = [a for tag, a in page.found if a.get("name") == "viewport"]
    assert "width=device-width" in str(viewport["content"])
    assert any(a.get("role") == "status" for _, a in page.found)
    assert {"main", "h1", "h2", "label", "noscript"} <= set(attributes)


def test_speed_is_that_of_work_lately(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("fhe_inhibitor.service.status.time.monotonic", lambda: now[0])
    speed = Speed()
    assert speed.lookups_per_s() is None
    for lookups, seconds in ((100, 1.0), (10, 1.5), (0, 0.0)):
        speed.report(Report(kind="task", lookups=lookups, seconds=seconds))
    speed.report(Report(kind="done"))
    assert speed.lookups_per_s() == 44.0
    now[0] = SPEED_S - 1
    speed.report(Report(kind="task", lookups=1234, seconds=10.0))
    now[0] = SPEED_S + 1
    assert speed.lookups_per_s() == 120.0, "two digits"
    now[0] = 3 * SPEED_S
    assert speed.lookups_per_s() is None
