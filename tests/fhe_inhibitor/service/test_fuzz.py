"""Malformed keys and requests: refused, or their job fails; the server and others go on."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
import schemathesis
from schemathesis.core.result import Ok

from fhe_inhibitor.runtime.messages import KEYS_HEADER_BYTES, Request
from fhe_inhibitor.runtime.protocol import Failure, Status
from tests.fhe_inhibitor.conftest import Tiny, User
from tests.fhe_inhibitor.service.api import Api
from tests.fhe_inhibitor.service.serving import SLOW, Serving, serve

pytestmark = pytest.mark.fhe

BATCH = 20
MEMORY_BYTES = 150 << 20  # that the web process may grow by
ENDS = {Status.DONE, Status.FAILED}
FAILURES = {None, Failure.REFUSED, Failure.WORKER_DIED}


@dataclass(frozen=True)
class Material:
    """What malformed requests are made from."""

    good: bytes
    shorter: bytes
    foreign: bytes

    def cut(self, rng: random.Random) -> bytes:
        return self.good[: rng.randrange(len(self.good))]

    def flipped(self, rng: random.Random) -> bytes:
        data = bytearray(self.good)
        for _ in range(rng.choice([1, 1, 10, 100])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(data)

    def damaged_ciphertext(self, rng: random.Random) -> bytes:
        """Flip bits inside a ciphertext's own header, so that the message itself stays whole."""
        request = Request.from_bytes(self.good)
        ciphertexts = dict(request.ciphertexts)
        name = rng.choice(sorted(ciphertexts))
        data = bytearray(ciphertexts[name])
        for _ in range(rng.choice([1, 4, 30])):
            data[rng.randrange(min(len(data), 400))] ^= 1 << rng.randrange(8)
        return Request(request.n, {**ciphertexts, name: bytes(data)}).to_bytes()

    def cut_ciphertext(self, rng: random.Random) -> bytes:
        request = Request.from_bytes(self.good)
        ciphertexts = dict(request.ciphertexts)
        name = rng.choice(sorted(ciphertexts))
        cut = ciphertexts[name][: rng.randrange(len(ciphertexts[name]))]
        return Request(request.n, {**ciphertexts, name: cut}).to_bytes()

    def swapped(self, rng: random.Random) -> bytes:
        request = Request.from_bytes(self.good)
        data = list(request.ciphertexts.values())
        rng.shuffle(data)
        return Request(request.n, dict(zip(request.ciphertexts, data, strict=True))).to_bytes()

    def wrong_shape(self, rng: random.Random) -> bytes:
        good, shorter = Request.from_bytes(self.good), Request.from_bytes(self.shorter)
        data = rng.choice(list(shorter.ciphertexts.values()))
        name = rng.choice(sorted(good.ciphertexts))
        return Request(good.n, {**good.ciphertexts, name: data}).to_bytes()

    def wrong_length(self, rng: random.Random) -> bytes:
        request = Request.from_bytes(self.good)
        return Request(rng.choice([0, 1, 3, 5, 2**31, 2**70]), request.ciphertexts).to_bytes()

    def huge_lengths(self, rng: random.Random) -> bytes:
        """Claim sizes that no memory holds, in the message or in a ciphertext's segments."""
        if rng.random() < 0.5:
            return self.good[:5] + rng.randbytes(4) + self.good[9:]
        request = Request.from_bytes(self.good)
        name, data = next(iter(request.ciphertexts.items()))
        forged = data[:4] + b"\xff\xff\xff\x7f" + data[8:]
        return Request(request.n, {**request.ciphertexts, name: forged}).to_bytes()

    def another_key(self, rng: random.Random) -> bytes:
        return self.foreign

    def garbage(self, rng: random.Random) -> bytes:
        return rng.randbytes(rng.randrange(5000))


MALFORMED: tuple[Callable[[Material, random.Random], bytes], ...] = (
    Material.cut,
    Material.flipped,
    Material.damaged_ciphertext,
    Material.cut_ciphertext,
    Material.swapped,
    Material.wrong_shape,
    Material.wrong_length,
    Material.huge_lengths,
    Material.another_key,
    Material.garbage,
)


@pytest.mark.parametrize("n_requests", [BATCH, pytest.param(2000, marks=SLOW)])
def test_malformed_requests_hurt_nobody(
    tiny: Tiny, server: Serving, alice: Api, bob: Api, user: User, other_user: User, n_requests: int
) -> None:
    material = Material(user.request, encrypt_short(tiny, user), other_user.request)
    rng = random.Random(n_requests)
    process = server.web()
    memory = process.memory_info().rss
    for batch in range(n_requests // BATCH):
        theirs = bob.start(other_user.request)
        bodies = [MALFORMED[i % len(MALFORMED)](material, rng) for i in range(BATCH)]
        answers = [alice.submit(body) for body in bodies]
        for answer in answers:
            assert answer.status_code == 202 or 400 <= answer.status_code < 500, answer.text
        jobs = [answer.json()["id"] for answer in answers if answer.status_code == 202]
        for job in jobs:
            ended = alice.wait(job)
            assert ended.status in ENDS and ended.error in FAILURES, (batch, ended)
            alice.http.delete(f"/jobs/{job}").raise_for_status()
        other_user.check(bob.result(theirs))
        bob.http.delete(f"/jobs/{theirs}").raise_for_status()
    assert process.is_running(), "the web process was replaced"
    assert process.memory_info().rss < memory + MEMORY_BYTES
    user.check(alice.result(alice.start(user.request)))


@pytest.mark.parametrize("n_keys", [2, pytest.param(60, marks=SLOW)])
def test_malformed_keys_hurt_nobody(
    server: Serving, alice: Api, bob: Api, user: User, other_user: User, n_keys: int
) -> None:
    rng = random.Random(n_keys)
    for index in range(n_keys):
        api = Api(server.url, server.token, malformed_keys(user.keys, rng, index))
        answer = api.announce()
        if answer.status_code == 200:
            api.upload()
            ended = api.wait(api.start(user.request))
            assert ended.status in ENDS and ended.error in FAILURES, ended
            api.http.delete(f"/jobs/{ended.id}").raise_for_status()
            api.http.delete(f"/keys/{api.keys_id}").raise_for_status()
        other_user.check(bob.result(bob.start(other_user.request)))


def test_a_worker_that_concrete_takes_down_is_replaced_and_the_job_says_so(
    tiny: Tiny, user: User, tmp_path: Path
) -> None:
    """Whether a forged input crashes Concrete is Concrete's affair, so this crash is a signal."""
    with serve(tiny.folder, tiny.cache, tmp_path / "data") as server:
        api = Api(server.url, server.token, user.keys)
        api.upload()
        job = api.start(user.request)
        while not (ended := api.job(job)).status.final:
            for worker in server.workers():
                if ended.status is Status.RUNNING:
                    os.kill(worker.pid, 11)  # SIGSEGV
        assert (ended.error, ended.restarts) == (Failure.WORKER_DIED, 2)
        assert "2 workers died" in (ended.message or "")
        user.check(api.result(api.start(user.request)))


def encrypt_short(tiny: Tiny, user: User) -> bytes:
    """Return a request of another length than the user's."""
    x, padding = tiny.model.encode(tiny.model.tokenize("bad"))
    return user.client.encrypt(x, padding).to_bytes()


def malformed_keys(keys: bytes, rng: random.Random, index: int) -> bytes:
    """Return keys that begin like good ones, so that the server takes them."""
    header, body = keys[:KEYS_HEADER_BYTES], bytearray(keys[KEYS_HEADER_BYTES:])
    match index % 4:
        case 0:
            return header + bytes(body[: rng.randrange(len(body))])
        case 1:  # the parameters are at the beginning
            for _ in range(rng.choice([1, 8, 64])):
                body[rng.randrange(2000)] ^= 1 << rng.randrange(8)
        case 2:
            for _ in range(1000):
                body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
        case _:
            return header + rng.randbytes(rng.randrange(100_000))
    return header + bytes(body)


def test_the_api_is_what_its_page_says(server: Serving) -> None:
    """Each operation, with good and bad arguments, answers as the OpenAPI page says."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    headers = {"Authorization": f"Bearer {server.other_token}"}
    operations = [op.ok() for op in schema.get_all_operations() if isinstance(op, Ok)]
    assert len(operations) > 10
    for operation in operations:

        @hypothesis.given(case=operation.as_strategy())
        @hypothesis.settings(max_examples=15, deadline=None, derandomize=True)
        def check(case: schemathesis.Case) -> None:
            case.call_and_validate(headers=headers)

        check()
