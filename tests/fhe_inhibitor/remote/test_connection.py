"""Calls are repeated where that is safe and helps, and every refusal is an error of its kind."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import stamina.instrumentation
from fastapi import Response

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.remote.bounds import MAX_ANSWER_BYTES, MAX_FILE_BYTES
from fhe_inhibitor.remote.connection import Connection
from fhe_inhibitor.remote.errors import (
    AccessDenied,
    ModelMismatch,
    NotFound,
    QuotaExceeded,
    RemoteError,
    ServerUnreachable,
)
from fhe_inhibitor.remote.model import choose_model
from fhe_inhibitor.remote.options import RemoteOptions
from fhe_inhibitor.runtime.protocol import (
    MODEL_FILES,
    PROTOCOL_VERSION,
    FileInfo,
    Job,
    KeysState,
    Limits,
    ModelInfo,
    ModelList,
    Status,
    TaskEvent,
    circuits_hash,
)
from fhe_inhibitor.system.progress import Observer
from tests.fhe_inhibitor.runtime.scripted import Scripted, refusal, scripted_server

FILE = {"name": "f", "sha256": "0" * 64}
DIGESTS = {name: f"{i:064x}" for i, name in enumerate(MODEL_FILES)}
MODEL = ModelInfo(
    name="tiny",
    circuits_hash=circuits_hash(DIGESTS),
    model_hash="ab" * 32,
    keys_hash="cd" * 32,
    buckets=[2, 4],
    labels=["negative", "positive"],
    default_tokens=4,
    files=[FileInfo(name=name, size=1, sha256=digest) for name, digest in DIGESTS.items()],
    limits=Limits(
        max_keys_bytes=1000,
        max_request_bytes=1000,
        max_chunk_bytes=4,
        max_keys=1,
        max_unfinished_jobs=1,
        keys_ttl_s=1,
        job_ttl_s=1,
    ),
)
# Named a second time: of two digests under one name, the last one makes the right hash.
OTHER_FILE = MODEL.files[0].model_copy(update={"sha256": "9" * 64})
JOB = Job(
    id="j",
    circuits_hash=MODEL.circuits_hash,
    keys="ef" * 32,
    n=2,
    status=Status.QUEUED,
    tasks_done=0,
    tasks_total=2,
    created_at=0,
)
EVENT = TaskEvent(stage="classify", seconds=1, index=2, total=2)


@pytest.fixture(scope="module")
def running() -> Iterator[Scripted]:
    stamina.instrumentation.set_on_retry_hooks(())
    with scripted_server() as scripted:
        yield scripted
    stamina.instrumentation.set_on_retry_hooks(None)


@pytest.fixture
def server(running: Scripted) -> Scripted:
    running.answers = {"GET /models": [json(ModelList(models=[MODEL]))]}
    running.asked = []
    return running


def json(content: Any) -> Response:
    return Response(content.model_dump_json())


def events(*lines: str) -> Response:
    return Response("\n\n".join(lines) + "\n\n", media_type="text/event-stream")


def ask(
    server: Scripted | str,
    call: Callable[[Connection], Coroutine[Any, Any, Any]],
    token: str | None = "token",
    **options: Any,
) -> Any:
    """Return what a call gives on a new connection."""

    async def run() -> Any:
        url = server if isinstance(server, str) else server.url
        connection = Connection(url, token, RemoteOptions(**options))
        try:
            return await call(connection)
        finally:
            await connection.close()

    return asyncio.run(run())


def submit(connection: Connection) -> Coroutine[Any, Any, Job]:
    return connection.submit(b"request", MODEL.circuits_hash, "ef" * 32, "key-1")


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (refusal(401, "no_token"), AccessDenied, "pass a token that this server gave you"),
        (refusal(404, "not_found", "no such job"), NotFound, "no such job"),
        (refusal(410, "expired"), NotFound, "410"),
        (refusal(409, "wrong_model"), ModelMismatch, "409"),
        (refusal(413, "too_large"), QuotaExceeded, "413"),
        (refusal(429, "too_many_keys", Retry_After="60"), QuotaExceeded, "429"),
        (refusal(507, "disk_full"), RemoteError, "507"),
        (refusal(422, "invalid", "body: \\u001b[31mred"), RemoteError, r"422: body: \[31mred"),
        (Response("<html>", 400), RemoteError, "400: Bad Request"),
    ],
)
def test_a_refusal_is_an_error_of_its_kind_and_not_repeated(
    server: Scripted, answer: Response, kind: type[RemoteError], words: str
) -> None:
    server.answers["POST /jobs"] = [answer]
    with pytest.raises(kind, match=words) as caught:
        ask(server, submit)
    assert type(caught.value) is kind
    assert "\x1b" not in str(caught.value)
    assert server.count("POST /jobs") == 1


@pytest.mark.parametrize(
    "answer",
    [
        refusal(503, "not_ready", Retry_After="0.1"),
        refusal(429, "too_many_requests", Retry_After="0.1"),
        refusal(429, "too_many_jobs", Retry_After="0.1"),
        Response("bad gateway", 502, {"Retry-After": "0.1"}),
    ],
)
def test_what_passes_is_waited_for_under_one_idempotency_key(
    server: Scripted, answer: Response
) -> None:
    server.answers["POST /jobs"] = [answer, answer, json(JOB)]
    assert ask(server, submit) == JOB
    keys = [headers["idempotency-key"] for name, headers in server.asked if name == "POST /jobs"]
    assert keys == ["key-1"] * 3


def test_the_server_says_how_long_to_wait(server: Scripted) -> None:
    server.answers["POST /jobs"] = [refusal(503, "not_ready", Retry_After="0.7"), json(JOB)]
    start = time.perf_counter()
    ask(server, submit)
    assert 0.7 <= time.perf_counter() - start < 1.5


def test_patience_ends(server: Scripted) -> None:
    server.answers["POST /jobs"] = [refusal(503, "not_ready", Retry_After="0.2")]
    with pytest.raises(ServerUnreachable, match="503"):
        ask(server, submit, patience_s=0.5)
    assert 2 <= server.count("POST /jobs") <= 4


@pytest.mark.parametrize("wait", ["3600", "1e999", "nan"])
def test_no_server_makes_a_client_wait_beyond_its_patience(server: Scripted, wait: str) -> None:
    server.answers["POST /jobs"] = [refusal(503, "not_ready", Retry_After=wait)]
    start = time.perf_counter()
    with pytest.raises(ServerUnreachable, match="503"):
        ask(server, submit, patience_s=0.3)
    assert time.perf_counter() - start < 3


def test_a_server_that_never_answered_is_given_up_soon() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    start = time.perf_counter()
    with pytest.raises(ServerUnreachable, match=f"{url} can't be reached"):
        ask(url, Connection.models)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    "url", ["host:8000", "ftp://host", "http://", "", "http://[::1", "/models"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="is no address"):
        ask(url, Connection.models)


@pytest.mark.parametrize("token", ["", "two\nlines", "caf\xe9"])
def test_a_token_that_is_none_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(InputError, match="the token is empty or has") as caught:
        ask("http://127.0.0.1", Connection.models, token=token)
    assert not token or token not in str(caught.value)


@pytest.mark.parametrize("n", [0, -1])
def test_no_request_at_once_is_refused(n: int) -> None:
    with pytest.raises(InputError, match=f"in_flight is {n}: pass 1 or more"):
        RemoteOptions(in_flight=n)


def test_certificates_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for path in (tmp_path / "ca.pem", tmp_path / "missing.pem"):
        with pytest.raises(InputError, match="holds no certificates"):
            ask("https://127.0.0.1", Connection.models, ca=path)


@pytest.mark.parametrize("content", ["", "{}", '{"models": [{}]}', "<html>"])
def test_another_service_is_no_server_of_ours(server: Scripted, content: str) -> None:
    server.answers["GET /models"] = [Response(content)]
    with pytest.raises(ModelMismatch, match="doesn't answer with a ModelList"):
        ask(server, Connection.models)


def choose(**options: Any) -> Callable[[Connection], Coroutine[Any, Any, ModelInfo]]:
    return lambda connection: choose_model(connection, RemoteOptions(**options))


def test_the_only_model_is_taken_or_the_one_that_is_named(server: Scripted) -> None:
    assert ask(server, choose()) == ask(server, choose(model="tiny")) == MODEL
    with pytest.raises(InputError, match="no model 'other'; it has tiny; name one"):
        ask(server, choose(model="other"))
    two = ModelList(models=[MODEL, MODEL.model_copy(update={"name": "second"})])
    server.answers["GET /models"] = [json(two)]
    with pytest.raises(InputError, match=r"which model\? it has tiny, second; name one"):
        ask(server, choose())
    assert ask(server, choose(model="second")).name == "second"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"circuits_hash": "0" * 64}, "don't have its hash"),
        ({"files": MODEL.files[1:]}, "don't have its hash"),
        ({"files": [OTHER_FILE, *MODEL.files]}, "don't have its hash"),
        ({"protocol_version": PROTOCOL_VERSION + 1}, "install the same version"),
    ],
)
def test_what_does_not_agree_is_told_before_anything_is_sent(
    server: Scripted, changes: dict[str, Any], words: str
) -> None:
    server.answers["GET /models"] = [
        json(ModelList(models=[MODEL.model_copy(update=changes)])),
    ]
    with pytest.raises(ModelMismatch, match=words):
        ask(server, choose())
    assert {name for name, _ in server.asked} == {"GET /models"}


def test_another_hash_than_the_one_wanted_is_told(server: Scripted) -> None:
    with pytest.raises(ModelMismatch, match="wanted 111111111111; nothing was sent"):
        ask(server, choose(circuits_hash="1" * 64))


LONG = bytes(MAX_ANSWER_BYTES + 1)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("GET /models", Connection.models),
        ("GET /jobs/j/result", lambda connection: connection.result("j")),
        ("GET /models/tiny/files/f", lambda c: c.model_file("tiny", FileInfo(**FILE, size=1))),
    ],
)
@pytest.mark.parametrize("status", [200, 404])
def test_an_answer_that_is_too_long_is_given_up(
    server: Scripted, name: str, call: Callable[[Connection], Any], status: int
) -> None:
    server.answers[name] = [Response(LONG, status)]
    with pytest.raises(RemoteError, match="more than 4,194,304 bytes"):
        ask(server, call)
    assert server.count(name) == 1


def test_events_without_an_end_are_given_up(server: Scripted) -> None:
    server.answers[f"GET /jobs/{JOB.id}/events"] = [
        Response(LONG, media_type="text/event-stream"),
    ]
    with pytest.raises(RemoteError, match="more than 4,194,304 bytes"):
        ask(server, lambda connection: connection.follow(JOB, lambda done, event: None))


def test_a_file_may_be_longer_if_it_was_announced_and_is_not_too_long(server: Scripted) -> None:
    name = "GET /models/tiny/files/f"
    server.answers[name] = [Response(LONG)]
    file = FileInfo(name="f", sha256=hashlib.sha256(LONG).hexdigest(), size=len(LONG))
    assert ask(server, lambda connection: connection.model_file("tiny", file)) == LONG
    huge = FileInfo(**FILE, size=MAX_FILE_BYTES + 1)
    with pytest.raises(RemoteError, match="f of tiny has more than"):
        ask(server, lambda connection: connection.model_file("tiny", huge))
    assert server.count(name) == 1


def test_an_answer_that_may_be_any_length_in_memory_is_refused(server: Scripted) -> None:
    content = gzip.compress(bytes(MAX_ANSWER_BYTES))
    server.answers["GET /models"] = [Response(content, headers={"Content-Encoding": "gzip"})]
    with pytest.raises(RemoteError, match="compresses"):
        ask(server, Connection.models)
    assert server.asked[-1][1]["accept-encoding"] == "identity"


def test_a_file_that_is_another_is_refused(server: Scripted) -> None:
    file = MODEL.files[0]
    server.answers[f"GET /models/tiny/files/{file.name}"] = [Response(b"other")]
    with pytest.raises(RemoteError, match="isn't the file that the server announced"):
        ask(server, lambda connection: connection.model_file("tiny", file))


def test_a_server_that_keeps_nothing_of_an_upload_is_given_up(server: Scripted) -> None:
    keys = b"0123456789"
    state = KeysState(
        sha256="84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882",
        circuits_hash=MODEL.circuits_hash,
        size=len(keys),
        received=4,
        complete=False,
        created_at=0,
        expires_at=0,
    )
    server.answers["POST /keys"] = [json(state)]
    server.answers[f"PATCH /keys/{state.sha256}"] = [json(state)]
    with pytest.raises(RemoteError, match="keeps 4 of 10 bytes"):
        ask(server, lambda connection: connection.upload_keys(keys, MODEL, Observer()))


def follow(server: Scripted) -> tuple[Job, list[tuple[int, TaskEvent | None]]]:
    told: list[tuple[int, TaskEvent | None]] = []
    job = ask(server, lambda c: c.follow(JOB, lambda done, task: told.append((done, task))))
    return job, told


def test_a_stream_that_ends_early_goes_on_after_its_last_event(server: Scripted) -> None:
    first = EVENT.model_copy(update={"index": 1, "stage": "layer0.project"})
    done = JOB.model_copy(update={"status": Status.DONE, "tasks_done": 2})
    server.answers["GET /jobs/j"] = [json(JOB)]
    server.answers["GET /jobs/j/events"] = [
        events(f"id: 1\nevent: task\ndata: {first.model_dump_json()}", ": still there"),
        events(
            f"id: 2\nevent: task\ndata: {EVENT.model_dump_json()}",
            f"id: end\nevent: done\ndata: {done.model_dump_json()}",
        ),
    ]
    assert follow(server) == (done, [(1, first), (2, EVENT)])
    streams = [headers for name, headers in server.asked if name == "GET /jobs/j/events"]
    assert [headers["last-event-id"] for headers in streams] == ["0", "1"]


@pytest.mark.parametrize("answer", [Response("{}"), refusal(503, "not_ready", Retry_After="1")])
def test_without_streams_the_job_is_asked_for(server: Scripted, answer: Response) -> None:
    half = JOB.model_copy(update={"tasks_done": 1, "status": Status.RUNNING})
    done = JOB.model_copy(update={"tasks_done": 2, "status": Status.DONE})
    server.answers["GET /jobs/j/events"] = [answer]
    server.answers["GET /jobs/j"] = [json(half), json(done)]
    assert follow(server) == (done, [(1, None)])


def test_a_job_that_is_gone_is_told(server: Scripted) -> None:
    with pytest.raises(NotFound):
        follow(server)
