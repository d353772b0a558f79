"""Keys that a job needs stay, and keys that come fit on the disk, whoever asks at the same time."""

from __future__ import annotations

import threading
import time
from collections import namedtuple
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fhe_inhibitor.runtime.manifest import Encryption, Manifest, Program, Task
from fhe_inhibitor.runtime.messages import KEYS_HEADER_BYTES, Request, pack_keys
from fhe_inhibitor.runtime.protocol import NewKeys, Status
from fhe_inhibitor.service.housekeeping import clean
from fhe_inhibitor.service.refusals import Refused
from fhe_inhibitor.service.service import Service
from fhe_inhibitor.service.settings import load_settings
from fhe_inhibitor.service.storage import DiskFullError
from fhe_inhibitor.service.uploads import UNDER_WAY_S

MODEL, KEYS = "a" * 64, "b" * 64
SIZE = KEYS_HEADER_BYTES + 100


TASK = Task("classify", "classify", ("x.0",), ("logits",), {4: 1})
MANIFEST = Manifest(
    model_hash=MODEL,
    keys_hash=MODEL,
    p_error=0.1,
    exact_rounding=False,
    dim=1,
    n_labels=2,
    input_range=(0, 1),
    logit_range=(0, 1),
    programs={4: Program((Encryption("x.0", "x", "classify", 0),), (TASK,))},
    benchmarks={},
    benchmark_size=1,
)


class Parts:
    """A service that isn't started: its keys and jobs, and circuits that nobody runs."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        unbounded = {"reserved_bytes": 0, "max_keys": 1000, "max_unfinished_jobs": 1000}
        at_once = {"keys_ttl_s": 1e-9, "job_ttl_s": 1e-9}
        settings = {**unbounded, **at_once, **settings}
        self.service = Service(load_settings(data_dir=folder, **settings), [])
        circuits: Any = SimpleNamespace(manifest=MANIFEST)  # of a ServedModel, what a job asks for
        self.service._by_hash[MODEL] = circuits
        self.database, self.storage = self.service.database, self.service.storage
        self.jobs, self.uploads = self.service.jobs, self.service.uploads

    def add_keys(self, sha256: str = KEYS) -> None:
        """Have complete keys, as after an upload."""
        self.uploads.start("ann", NewKeys(sha256=sha256, size=SIZE, circuits_hash=MODEL), MODEL)
        self.storage.write(self.storage.keys("ann", sha256), bytes(SIZE))
        self.uploads._complete("ann", sha256)

    def submit(self, sha256: str = KEYS) -> str:
        body = Request(4, {"x.0": b"ciphertext"}).to_bytes()
        return self.service.submit("ann", MODEL, sha256, body, None).id

    def clean(self) -> None:
        clean(self.database, self.storage, self.jobs, self.uploads)


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path)


def refusal(call: Callable[[], object]) -> str:
    """Return the code of what a call refuses, empty if it doesn't."""
    try:
        call()
    except Refused as refused:
        return refused.code
    except DiskFullError:
        return "disk_full"
    return ""


def at_once(*calls: Callable[[], object]) -> list[str]:
    """Do calls in threads, all from the same moment on; return their refusals."""
    barrier = threading.Barrier(len(calls))
    refusals = [""] * len(calls)

    def do(index: int) -> None:
        barrier.wait()
        refusals[index] = refusal(calls[index])

    threads = [threading.Thread(target=do, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return refusals


def test_keys_are_not_removed_between_check_and_job(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever removes them waits until the job is there, and is refused."""
    use, transaction = parts.uploads.use, parts.database.transaction
    begun: list[str] = []
    parts.add_keys()
    answers: list[str] = []
    remover = threading.Thread(
        target=lambda: answers.append(refusal(lambda: parts.uploads.remove("ann", KEYS)))
    )

    def named_transaction() -> AbstractContextManager:
        begun.append(threading.current_thread().name)
        return transaction()

    def then_remove(*arguments: str) -> None:
        use(*arguments)
        begun.clear()
        remover.start()
        remover.join(0.3)
        assert answers == []

    monkeypatch.setattr(parts.database, "transaction", named_transaction)
    monkeypatch.setattr(parts.uploads, "use", then_remove)
    job = parts.submit()
    remover.join()
    assert begun == [remover.name], "the job is added in another transaction"
    assert answers == ["keys_in_use"]
    assert parts.storage.keys("ann", KEYS).exists()
    assert parts.jobs.get("ann", job).status is Status.QUEUED


def test_a_job_and_a_removal_at_once_never_leave_a_job_without_keys(parts: Parts) -> None:
    for number in range(50):
        sha256 = f"{number:064x}"
        parts.add_keys(sha256)
        submitted, removed = at_once(
            partial(parts.submit, sha256), partial(parts.uploads.remove, "ann", sha256)
        )
        assert (submitted, removed) in (("", "keys_in_use"), ("not_found", ""))
        assert parts.storage.keys("ann", sha256).exists() == (submitted == "")


def test_what_is_needed_does_not_end_a_round_of_cleaning(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that are needed again after they were found idle stay; all others go, and jobs too."""
    names = [f"{number:064x}" for number in range(3)]
    for name in names:
        parts.add_keys(name)
    right, jobs = parts.database.rows, list[str]()

    def then_one_is_needed(query: str, *values: Any) -> list:
        rows = right(query, *values)
        if "used_at <" in query:
            jobs.append(parts.submit(names[0]))
            parts.uploads.remove("ann", names[1])
        return rows

    monkeypatch.setattr(parts.database, "rows", then_one_is_needed)
    (parts.storage.folder / "jobs" / "leftover").mkdir()
    parts.clean()
    assert [state.sha256 for state in parts.uploads.list_of("ann")] == [names[0]]
    assert parts.storage.all_keys() == [("ann", names[0])]
    assert parts.storage.jobs() == jobs and len(jobs) == 1


def test_keys_that_were_used_meanwhile_are_not_idle(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts.add_keys()
    right = parts.database.rows

    def then_they_are_used(query: str, *values: Any) -> list:
        rows = right(query, *values)
        if "used_at <" in query:
            parts.uploads.use("ann", KEYS, MODEL)
        return rows

    monkeypatch.setattr(parts.database, "rows", then_they_are_used)
    assert parts.uploads.expire() == 0
    assert parts.uploads.get("ann", KEYS).complete


def test_a_step_of_cleaning_that_fails_stops_no_other(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    (parts.storage.folder / "jobs" / "leftover").mkdir()
    monkeypatch.setattr(parts.uploads, "expire", lambda: 1 / 0)
    parts.clean()
    assert parts.storage.jobs() == []


def test_a_result_is_kept_of_a_job_that_was_removed_meanwhile(parts: Parts) -> None:
    parts.storage.keep_result("removed")
    assert parts.storage.jobs() == []


def test_keys_of_another_model_or_incomplete_ones_make_no_job(parts: Parts) -> None:
    assert refusal(parts.submit) == "not_found"
    parts.uploads.start("ann", NewKeys(sha256=KEYS, size=SIZE, circuits_hash=MODEL), MODEL)
    assert refusal(parts.submit) == "keys_incomplete"
    parts.uploads._complete("ann", KEYS)
    with parts.database.transaction() as connection:
        connection.execute("UPDATE keys SET circuits_hash = ?", ("c" * 64,))
    assert refusal(parts.submit) == "wrong_model"
    assert parts.jobs.statuses() == {}


GB = 1 << 30


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The free bytes of the disk, in a list."""
    free = [GB]
    usage = namedtuple("usage", ["free"])
    monkeypatch.setattr("fhe_inhibitor.service.storage.shutil.disk_usage", lambda _: usage(free[0]))
    return free


def announce(parts: Parts, number: int, size: int) -> None:
    new = NewKeys(sha256=f"{number:064x}", size=size, circuits_hash=MODEL)
    parts.uploads.start(f"user{number}", new, MODEL)


def test_keys_announced_at_once_never_ask_for_more_than_the_disk_has(
    tmp_path: Path, disk: list[int]
) -> None:
    parts = Parts(tmp_path, max_keys_bytes=GB, reserved_bytes=GB // 10)
    refusals = at_once(*(partial(announce, parts, number, GB // 4) for number in range(12)))
    assert sorted(refusals) == [""] * 3 + ["disk_full"] * 9


def test_what_has_come_is_not_reserved_twice_nor_what_was_given_up(
    tmp_path: Path, disk: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = Parts(tmp_path, max_keys_bytes=GB)
    announce(parts, 1, GB)
    with pytest.raises(DiskFullError):
        announce(parts, 2, 2000)
    path = parts.storage.unfinished_keys("user1", f"{1:064x}")
    path.parent.mkdir()
    with path.open("wb") as file:
        file.truncate(GB - 1000)  # sparse
    disk[0] = 3000
    announce(parts, 2, 2000)
    with pytest.raises(DiskFullError):
        announce(parts, 3, 1)
    now = time.time()
    monkeypatch.setattr("fhe_inhibitor.service.uploads.time.time", lambda: now + UNDER_WAY_S + 1)
    announce(parts, 3, 3000)
    with pytest.raises(DiskFullError):  # what was given up and comes all the same has to fit again
        parts.uploads._go_on("user1", f"{1:064x}")


def test_complete_keys_may_be_announced_again_on_a_full_disk(parts: Parts, disk: list[int]) -> None:
    parts.add_keys()
    parts.storage.keys("ann", KEYS).write_bytes(pack_keys(MODEL, bytes(100)))
    disk[0] = 0
    announced = NewKeys(sha256=KEYS, size=SIZE, circuits_hash=MODEL)
    assert parts.uploads.start("ann", announced, MODEL).complete


def test_who_has_too_many_keys_is_told_the_commands(tmp_path: Path) -> None:
    """The secret keys to some may be lost: nothing but their SHA-256 names them then."""
    uploads = Parts(tmp_path, max_keys=1).uploads
    new = NewKeys(sha256=KEYS, size=SIZE, circuits_hash=MODEL)
    uploads.start("alice", new, MODEL)
    with pytest.raises(Refused, match="keys list --server URL.*keys remove SHA256 --server URL"):
        uploads.start("alice", new.model_copy(update={"sha256": "c" * 64}), MODEL)
