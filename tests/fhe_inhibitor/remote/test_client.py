"""The client against a real server: right, private, patient, and honest about what went wrong."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from demos.relay import DOWN, UP
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.integer.public import PublicModel
from fhe_inhibitor.remote.client import AsyncRemoteClient
from fhe_inhibitor.remote.connection import Connection
from fhe_inhibitor.remote.errors import AccessDenied, JobFailed, ModelMismatch, ServerUnreachable
from fhe_inhibitor.remote.exchange import ClientSide, Exchange
from fhe_inhibitor.remote.pins import PINS_FILE, Pins
from fhe_inhibitor.runtime.classifier import Classification, Outcome
from fhe_inhibitor.runtime.client import Client
from fhe_inhibitor.runtime.costs import stage_name
from fhe_inhibitor.runtime.manifest import read_manifest
from fhe_inhibitor.runtime.protocol import Job, JobList, KeysList, Status
from fhe_inhibitor.system.private_files import write_private
from tests.fhe_inhibitor.conftest import Tiny
from tests.fhe_inhibitor.remote.remote_user import RemoteUser, Wire, heeding_ctrl_c, remote_user
from tests.fhe_inhibitor.service.serving import Serving, serve, wait_until
from tests.fhe_inhibitor.service.test_secrets import secret_windows
from tests.rounding import assert_within_rounding

pytestmark = pytest.mark.fhe

TEXTS = ["a good film", "bad", "the film is n't very good"]


@pytest.fixture
def wire(server: Serving) -> Iterator[Wire]:
    with Wire(server) as wire:
        yield wire


def ask(user: RemoteUser, path: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {user.token}"}
    return httpx.get(f"{user.server.url}/v1{path}", headers=headers).raise_for_status()


def jobs(user: RemoteUser) -> list[Job]:
    """Return all of a user's jobs, the oldest first."""
    return JobList.model_validate_json(ask(user, "/jobs").content).jobs[::-1]


def assert_right(model: IntegerModel, result: Classification) -> None:
    assert_within_rounding(model, result)
    assert result.logits is not None
    # Of two labels: the logistic function of the distance between their logits.
    distance = model.logit_scale * float(np.ptp(result.logits))
    assert result.probability == pytest.approx(1 / (1 + np.exp(-distance)))


def test_the_first_text_sets_up_and_later_ones_are_small(
    tiny: Tiny, server: Serving, wire: Wire, tmp_path: Path
) -> None:
    dave = remote_user(server, "dave", tmp_path / "dave")
    with dave.client(wire.url) as client:
        result = client.classify(TEXTS[0])
        assert_right(tiny.model, result)
        keys_bytes = client.evaluation_keys_bytes
        setup = [step.name for step in client.cost().setup]
    again = ["check circuits", "load keys", "send evaluation keys"]
    assert setup == ["download", "check circuits", "keygen", *again[1:]]
    program = read_manifest(tiny.circuits).program(result.n_positions)
    stages = [task.stage for task in program.tasks]
    assert dave.observer.steps == [*setup, "encrypt", *stages, "decrypt"]
    assert dave.observer.finished("lookups") == sum(task.n_lookups for task in program.tasks)
    assert dave.observer.planned("bytes") > keys_bytes
    names = [stage.name for stage in result.stages if stage.lookups]
    assert names == list(dict.fromkeys(map(stage_name, stages)))
    assert all(stage.seconds > 0 for stage in result.stages)
    assert wire.n_bytes[UP] < 1.01 * keys_bytes + 100_000
    for path in [*(dave.folder / "keys").rglob("*"), *(dave.folder / "cache").rglob("*")]:
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077

    before = dict(wire.n_bytes)
    with dave.client(wire.url) as client:
        assert_right(tiny.model, client.classify(TEXTS[0]))
    assert dave.observer.steps == [*again, "encrypt", *stages, "decrypt"]
    assert dave.observer.planned("bytes") == 0
    assert all(wire.n_bytes[way] - before[way] < 100_000 for way in (UP, DOWN))
    planned = dave.observer.planned("lookups")
    assert dave.observer.finished("lookups") == planned == sum(program.lookups.values())

    sent, (entry,) = bytes(wire.passed[UP]), client.keyring.entries()
    owner = Client(tiny.circuits)
    owner.load_keys(client.keyring.path(entry.circuits_hash))
    secrets, stored = secret_windows(owner), client.keyring.path(entry.circuits_hash).read_bytes()
    assert any(secret in stored for secret in secrets), "the windows are not what keys look like"
    assert not any(secret in sent for secret in secrets)
    assert TEXTS[0].encode() not in sent


def test_many_texts_keep_their_order_and_overlap(tiny: Tiny, carol: RemoteUser) -> None:
    texts = TEXTS * 2
    before = len(jobs(carol))
    with carol.client(in_flight=2) as client:
        results = client.classify_many(texts)
    assert [result.text for result in results] == texts
    for result in results:
        assert_right(tiny.model, result)
    made = jobs(carol)[before:]
    assert [job.n for job in made] == [result.n_positions for result in results] == [4, 2, 4] * 2
    for i in range(1, len(made)):
        ended, began = made[i - 1].finished_at, made[i].created_at
        assert ended is not None and began < ended  # the next was there while this one ran
    for i in range(2, len(made)):
        ended = made[i - 2].finished_at
        assert ended is not None and made[i].created_at > ended  # never three at once


def test_a_text_that_is_refused_costs_nothing(
    server: Serving, tmp_path: Path, carol: RemoteUser
) -> None:
    erin = remote_user(server, "erin", tmp_path / "erin")
    with erin.client() as client:
        for texts, words in ((["good", " "], "empty"), (["\udcff"], "UTF-8")):
            with pytest.raises(InputError, match=words):
                client.classify_many(texts)
        with pytest.raises(InputError, match="9 tokens asked for"):
            client.classify("good", max_tokens=9)
        with pytest.raises(InputError, match="6 tokens, 4 would be read"):
            client.classify(TEXTS[2], strict=True)
        assert not client.keyring.entries()
    assert KeysList.model_validate_json(ask(erin, "/keys").content).keys == []
    with carol.client() as client:
        assert client.classify_many([]) == []


def test_a_client_opens_by_itself_and_not_again_once_closed(tiny: Tiny, carol: RemoteUser) -> None:
    client = carol.client()
    assert_right(tiny.model, client.classify(TEXTS[0]))
    client.close()
    with pytest.raises(InputError, match="closed"):
        client.classify(TEXTS[0])


def test_another_hash_is_told_before_anything_is_sent(carol: RemoteUser, wire: Wire) -> None:
    wanted = "1" * 64
    with (
        carol.client(wire.url, circuits_hash=wanted) as client,
        pytest.raises(ModelMismatch, match="wanted 111111111111; nothing was sent"),
    ):
        client.classify(TEXTS[0])
    assert wire.passed[UP].startswith(b"GET /v1/models ")
    assert wire.passed[UP].count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("token", [None, "fhei_wrong"])
def test_without_a_good_token_there_is_nothing(carol: RemoteUser, token: str | None) -> None:
    stranger = RemoteUser(carol.server, token, carol.folder)
    with stranger.client() as client, pytest.raises(AccessDenied, match="401"):
        client.classify(TEXTS[0])


def test_a_damaged_file_of_the_cache_is_fetched_again(carol: RemoteUser) -> None:
    (path,) = (carol.folder / "cache").rglob("embedding.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"!")
    with carol.client() as client:
        client.public_model()
    assert path.read_bytes() == content
    assert carol.observer.steps == ["download"]


def test_an_upload_that_is_cut_goes_on(carol: RemoteUser, wire: Wire) -> None:
    with carol.client() as client:
        (entry,) = client.keyring.entries()
        client.delete_keys(entry.evaluation_keys)
    wire.cut_at = (UP, 200_000, b"")
    with carol.client(wire.url) as client:
        client.prepare()
        keys_bytes = client.evaluation_keys_bytes
    assert wire.n_cut == 1
    (state,) = KeysList.model_validate_json(ask(carol, "/keys").content).keys
    assert state.complete and state.size == keys_bytes
    assert carol.observer.finished("bytes") == carol.observer.planned("bytes") == keys_bytes


def test_a_stream_that_is_cut_goes_on(tiny: Tiny, carol: RemoteUser, wire: Wire) -> None:
    with carol.client(wire.url) as client:
        client.prepare()
        wire.cut_at = (DOWN, 0, b"event: task")
        result = client.classify(TEXTS[0])
    assert wire.n_cut == 1
    assert_right(tiny.model, result)
    assert all(stage.seconds > 0 for stage in result.stages)


def test_a_submission_that_is_cut_is_one_job(tiny: Tiny, carol: RemoteUser, wire: Wire) -> None:
    before = len(jobs(carol))
    with carol.client(wire.url) as client:
        client.prepare()
        wire.cut_at = (DOWN, 0, b"202 Accepted")  # the job is there, the client never hears of it
        assert_right(tiny.model, client.classify(TEXTS[0]))
    assert wire.n_cut == 1
    assert len(jobs(carol)) == before + 1


def test_keys_that_the_server_dropped_are_sent_again(tiny: Tiny, carol: RemoteUser) -> None:
    with carol.client() as client:
        client.prepare()
        (entry,) = client.keyring.entries()
        client.delete_keys(entry.evaluation_keys)
        assert_right(tiny.model, client.classify(TEXTS[0]))


def test_keys_from_a_backup_are_those_that_the_server_computes_with(
    tiny: Tiny, server: Serving, tmp_path: Path
) -> None:
    """Later keys took their place meanwhile, and are described and uploaded."""
    frank = remote_user(server, "frank", tmp_path / "frank")
    made, stored = [], []
    for _ in range(2):
        with frank.client() as client:
            client.prepare()
            (entry,) = client.keyring.entries()
            path = client.keyring.path(entry.circuits_hash)
            made.append(entry.evaluation_keys)
            stored.append(path.read_bytes())
            path.unlink()
    write_private(path, stored[0])
    with frank.client() as client:
        assert_right(tiny.model, client.classify(TEXTS[0]))
        (entry,) = client.keyring.entries()
    assert entry.evaluation_keys == made[0] != made[1]
    assert jobs(frank)[-1].keys == made[0]


def test_a_job_that_the_server_gives_up_is_an_error(carol: RemoteUser) -> None:
    with stopped_workers(carol.server), carol.client() as client:
        threading.Thread(target=cancel_when_there, args=(carol, client_jobs(carol))).start()
        with pytest.raises(JobFailed, match="gave up on a text, cancelled"):
            client.classify(TEXTS[0])


def test_texts_apart_are_told_when_they_are_done_whatever_the_others_do(
    tiny: Tiny, carol: RemoteUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is empty, the server gives up on one, and one response can't be decrypted."""
    texts = ["a good film", " ", "bad", "dull", "good"]
    follow, decrypt = Connection.follow, ClientSide.decrypt

    async def give_up(connection: Connection, job: Job, *arguments: Any) -> Job:
        job = await follow(connection, job, *arguments)
        changes = {"status": Status.FAILED, "message": "too little memory"}
        return job.model_copy(update=changes) if job.n == 4 else job

    def refuse(side: ClientSide, public: PublicModel, exchange: Exchange) -> Classification:
        if exchange.text == "bad":
            raise InputError("holds no logits")
        return decrypt(side, public, exchange)

    monkeypatch.setattr(Connection, "follow", give_up)
    monkeypatch.setattr(ClientSide, "decrypt", refuse)
    told: dict[int, Outcome] = {}
    lookups: list[int] = []

    def deliver(outcome: Outcome) -> None:
        told[outcome.index] = outcome
        lookups.append(carol.observer.finished("lookups"))

    before = len(jobs(carol))
    with carol.client() as client:
        client.classify_apart(texts, deliver)
        with pytest.raises(InputError, match="9 tokens asked for"):
            client.classify_apart(texts, deliver, max_tokens=9)
    assert {index: outcome.text for index, outcome in told.items()} == dict(enumerate(texts))
    assert len(told) == len(lookups) == len(texts)
    errors = {index: type(told[index].error) for index in (0, 1, 2)}
    assert errors == {0: JobFailed, 1: InputError, 2: InputError}
    assert "too little memory" in str(told[0].error) and "no logits" in str(told[2].error)
    for index in (3, 4):
        result = told[index].result
        assert result is not None and result.text == texts[index]
        assert_right(tiny.model, result)
    assert len(jobs(carol)) - before == 4  # what can't be decrypted doesn't change what is sent
    assert lookups[1] < lookups[-1] == carol.observer.planned("lookups")


def client_jobs(user: RemoteUser) -> set[str]:
    return {job.id for job in jobs(user)}


def new_job(user: RemoteUser, known: set[str]) -> str:
    """Return the id of the next job of a user."""
    wait_until(lambda: client_jobs(user) - known, 120)
    return (client_jobs(user) - known).pop()


def cancel_when_there(user: RemoteUser, known: set[str]) -> None:
    headers = {"Authorization": f"Bearer {user.token}"}
    httpx.delete(f"{user.server.url}/v1/jobs/{new_job(user, known)}", headers=headers)


@contextmanager
def stopped_workers(server: Serving) -> Iterator[None]:
    """Keep a server's workers where they are until the end of the block."""
    workers = server.workers()
    for worker in workers:
        worker.suspend()
    try:
        yield
    finally:
        for worker in workers:
            worker.resume()


def test_cancellation_cancels_on_the_server_and_leaves_the_client_usable(
    tiny: Tiny, carol: RemoteUser
) -> None:
    known = client_jobs(carol)

    def two_are_there() -> bool:
        return len(client_jobs(carol) - known) == 2

    async def cancel_then_classify() -> Classification:
        options = carol.options()
        async with AsyncRemoteClient(carol.server.url, carol.token, options) as client:
            with stopped_workers(carol.server):
                task = asyncio.create_task(client.classify_many(TEXTS))
                await asyncio.to_thread(
                    wait_until, lambda: len(client_jobs(carol) - known) == 2, 30
                )
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            return await client.classify(TEXTS[0])

    assert_right(tiny.model, asyncio.run(cancel_then_classify()))
    made = [job for job in jobs(carol) if job.id not in known]
    assert [job.status for job in made] == [Status.CANCELLED, Status.CANCELLED, Status.DONE]


def test_a_job_that_the_server_did_not_name_yet_is_cancelled_too(
    carol: RemoteUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = client_jobs(carol)
    submit, calls = Connection.submit, 0

    async def answer_late(*arguments: Any) -> Job:
        """Submit; keep the first answer for as long as anybody waits for it."""
        nonlocal calls
        calls += 1
        job = await submit(*arguments)
        if calls == 1:
            await asyncio.Event().wait()
        return job

    async def cancel() -> None:
        options = carol.options()
        async with AsyncRemoteClient(carol.server.url, carol.token, options) as client:
            task = asyncio.create_task(client.classify(TEXTS[0]))
            await asyncio.to_thread(new_job, carol, known)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    monkeypatch.setattr(Connection, "submit", answer_late)
    with stopped_workers(carol.server):
        asyncio.run(cancel())
    (job,) = [job for job in jobs(carol) if job.id not in known]
    assert (job.status, calls) == (Status.CANCELLED, 2)


def test_the_event_loop_stays_alive_meanwhile(carol: RemoteUser) -> None:
    async def count_while_classifying() -> int:
        options = carol.options()
        async with AsyncRemoteClient(carol.server.url, carol.token, options) as client:
            await client.prepare()
            task, n = asyncio.create_task(client.classify_many(TEXTS)), 0
            while not task.done():
                await asyncio.sleep(0.01)
                n += 1
            await task
        return n

    assert asyncio.run(count_while_classifying()) > 10


def test_ctrl_c_cancels_on_the_server(carol: RemoteUser) -> None:
    known = client_jobs(carol)

    def interrupt() -> None:
        new_job(carol, known)
        os.kill(os.getpid(), signal.SIGINT)

    with heeding_ctrl_c(), stopped_workers(carol.server), carol.client() as client:
        client.prepare()
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            client.classify(TEXTS[0])
    (job,) = [job for job in jobs(carol) if job.id not in known]
    assert job.status is Status.CANCELLED


@pytest.mark.slow  # the service's own tests kill servers, too
def test_a_server_that_dies_meanwhile_is_waited_for(tiny: Tiny, tmp_path: Path) -> None:
    with serve(tiny.folder, tiny.cache, tmp_path / "data") as server:
        grace = remote_user(server, "grace", tmp_path / "grace")
        with grace.client() as client:
            client.prepare()
            server.kill()
            threading.Timer(1.0, server.start).start()
            assert_right(tiny.model, client.classify(TEXTS[0]))
        server.stop()
        with grace.client(patience_s=1.0) as client, pytest.raises(ServerUnreachable):
            client.connect()


def test_using_a_server_pins_its_model(carol: RemoteUser) -> None:
    """As if another model had been there when carol first came."""
    path = carol.folder / "keys" / PINS_FILE
    address, name = carol.server.url, "tiny"
    with carol.client() as client:
        now = client.connect()
        client.make_keys()
    assert Pins(path.parent)._read()[address] == {name: now.circuits_hash}
    Pins(path.parent).pin(address, now.model_copy(update={"circuits_hash": "1" * 64}))
    with Wire(carol.server) as wire:
        Pins(path.parent).pin(wire.url, now.model_copy(update={"circuits_hash": "1" * 64}))
        with (
            carol.client(wire.url) as client,
            pytest.raises(ModelMismatch, match="it was 111111111111 before; nothing was sent"),
        ):
            client.classify("a good film")
        assert wire.passed[UP].count(b"HTTP/1.1") == 1
    with carol.client(accept_new_model=True) as client:
        client.make_keys()
    with carol.client() as client:
        assert client.connect() == now


def test_a_server_of_ordinary_circuits_says_what_it_lacks(carol: RemoteUser) -> None:
    with carol.client() as client, pytest.raises(InputError, match="1 at most.*serve --long"):
        client.classify_document(" ".join(TEXTS), 2, 3)
