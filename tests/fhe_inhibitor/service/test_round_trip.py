"""A text crosses the network encrypted; what belongs to somebody else stays out of sight."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import httpx
import pytest

from fhe_inhibitor.integer.public import PublicModel
from fhe_inhibitor.runtime.client import Client
from fhe_inhibitor.runtime.protocol import MODEL_FILES, ModelInfo, Status, circuits_hash
from fhe_inhibitor.system import huge_pages
from tests.fhe_inhibitor.conftest import TEXT, User
from tests.fhe_inhibitor.service.api import Api
from tests.fhe_inhibitor.service.serving import Serving

pytestmark = pytest.mark.fhe


def test_a_stranger_gets_all_it_needs_from_the_server(
    alice: Api, user: User, tmp_path: Path
) -> None:
    info = ModelInfo.model_validate(alice.model())
    assert (info.name, info.labels, info.buckets) == ("tiny", ["negative", "positive"], [2, 4])
    for file in info.files:
        content = alice.http.get(f"/models/tiny/files/{file.name}").raise_for_status().content
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file.size, file.sha256)
        (tmp_path / file.name).write_bytes(content)
    assert info.circuits_hash == circuits_hash({file.name: file.sha256 for file in info.files})
    model = PublicModel.load(tmp_path)
    x, padding = model.encode(model.tokenize(TEXT))
    client = Client(tmp_path)
    user.client.save_keys(tmp_path / "keys")
    client.load_keys(tmp_path / "keys")
    request = client.encrypt(x, padding).to_bytes()
    response = alice.result(alice.start(request))
    assert len(request) < 100_000 and len(response) < 100_000
    user.check(response)


@pytest.mark.skipif(
    huge_pages.mode() != "madvise", reason="all memory has huge pages here, or none"
)
def test_a_worker_asks_for_huge_pages(server: Serving) -> None:
    for worker in server.workers():
        assert f"{huge_pages.TUNABLE}=1" in worker.environ()[huge_pages.VARIABLE]
    assert server.workers()


def test_a_job_is_told_of_task_by_task(alice: Api, user: User) -> None:
    job = alice.start(user.request)
    with alice.http.stream("GET", f"/jobs/{job}/events") as response:
        events = [event for event in "".join(response.iter_text()).split("\r\n\r\n") if event]
    tasks = [_event(event) for event in events if not event.startswith(":")]
    total = alice.job(job).tasks_total
    assert [task["id"] for task in tasks] == [*map(str, range(1, total + 1)), "end"]
    assert all(task["event"] == "task" for task in tasks[:-1])
    assert [json.loads(task["data"])["index"] for task in tasks[:-1]] == [*range(1, total + 1)]
    assert tasks[-1]["event"] == json.loads(tasks[-1]["data"])["status"] == "done"
    again = alice.http.get(f"/jobs/{job}/events", headers={"Last-Event-ID": str(total - 1)})
    assert again.text.count("event: task") == 1
    result = alice.result(job)
    user.check(result)
    assert alice.result(job) == result


def test_a_repeated_submission_is_one_job(alice: Api, user: User) -> None:
    first, second = (alice.submit(user.request, key="twice").json()["id"] for _ in range(2))
    assert first == second
    refused = alice.submit(user.request[:-1], key="twice")
    assert alice.error(refused) == (422, "invalid")
    other = alice.submit(user.request, key="twice", keys="0" * 64)
    assert alice.error(other) == (404, "not_found")
    alice.wait(first)
    alice.http.delete(f"/jobs/{first}").raise_for_status()
    assert alice.http.get(f"/jobs/{first}").status_code == 404


def test_a_cancelled_job_ends(alice: Api, user: User) -> None:
    jobs = [alice.start(user.request) for _ in range(3)]
    assert alice.error(alice.http.get(f"/jobs/{jobs[-1]}/result")) == (409, "not_done")
    for job in jobs:
        alice.http.delete(f"/jobs/{job}").raise_for_status()
    for job in jobs:
        assert alice.job(job).status is Status.CANCELLED
        assert alice.error(alice.http.get(f"/jobs/{job}/result")) == (409, "no_result")
        assert "event: cancelled" in alice.http.get(f"/jobs/{job}/events").text


def test_another_model_is_told_before_anything_is_sent(alice: Api, user: User) -> None:
    wrong = "0" * 64
    assert alice.error(alice.announce(circuits_hash=wrong)) == (409, "wrong_model")
    assert alice.error(alice.submit(b"", circuits_hash=wrong)) == (409, "wrong_model")


def test_what_belongs_to_another_user_is_not_there(
    server: Serving, alice: Api, bob: Api, user: User
) -> None:
    job = alice.start(user.request)
    alice.wait(job)
    keys, missing = alice.keys_id, "0" * 64
    for method, path in (
        ("GET", f"/jobs/{job}"),
        ("GET", f"/jobs/{job}/events"),
        ("GET", f"/jobs/{job}/result"),
        ("DELETE", f"/jobs/{job}"),
        ("GET", f"/keys/{keys}"),
        ("HEAD", f"/keys/{keys}"),
        ("DELETE", f"/keys/{keys}"),
        ("PATCH", f"/keys/{keys}"),
    ):
        headers = {"Upload-Offset": "0"}
        theirs = bob.http.request(method, path, headers=headers)
        nobodys = path.replace(job, "0" * 32).replace(keys, missing)
        nothing = bob.http.request(method, nobodys, headers=headers)
        assert theirs.status_code == nothing.status_code == 404, (method, path)
        assert theirs.content == nothing.content
    assert bob.error(bob.submit(user.request, keys=keys)) == (404, "not_found")
    assert job not in bob.http.get("/jobs").text
    assert keys not in bob.http.get("/keys").text
    user.check(alice.result(job))


@pytest.mark.parametrize("authorization", [None, "Bearer", "Bearer nonsense", "Basic eDp5"])
def test_strangers_are_refused(server: Serving, authorization: str | None) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    paths = ["models", "models/tiny", f"models/tiny/files/{MODEL_FILES[0]}", "keys", "jobs"]
    for path in [*paths, f"keys/{'0' * 64}", "jobs/1", "jobs/1/events", "jobs/1/result"]:
        response = httpx.get(f"{server.url}/v1/{path}", headers=headers)
        assert (response.status_code, response.json()["error"]) == (401, "no_token")


def test_health_metrics_and_page_are_open(server: Serving, alice: Api, user: User) -> None:
    alice.wait(alice.start(user.request))
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
    metrics = httpx.get(f"{server.url}/metrics").text
    assert 'fhe_inhibitor_jobs{status="done"}' in metrics
    assert "fhe_inhibitor_task_seconds_count" in metrics
    assert "openapi.json" in httpx.get(f"{server.url}/docs").text


def _event(text: str) -> dict[str, str]:
    pairs = (line.split(": ", 1) for line in text.splitlines() if line)
    return {name: value for name, value in pairs}
