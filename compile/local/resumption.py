"""A folder that keeps one encrypted run, so that it goes on after its last finished task.

    run.json      whose run it is, and time and SHA-256 of each finished task
    request       the encrypted text, as it was sent to the server's half of the session
    task-7        outputs of the seventh task, until none that is still to run reads them

Everything in it is ciphertexts, hashes and times, for the owner only; a file is whole under its
name or not there. The text is known by a digest under a key that is derived from the secret keys: a
plain or salted one could be found by trying texts. The outputs of the last task are not kept,
because they are decrypted at once.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import ValidationError

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.execution import TaskDone, tasks_to_keep
from fhe_inhibitor.runtime.manifest import Task
from fhe_inhibitor.runtime.messages import Request
from fhe_inhibitor.runtime.protocol import Sha256
from fhe_inhibitor.runtime.server import Value, read_outputs, to_response
from fhe_inhibitor.system.files import Record, writing
from fhe_inhibitor.system.private_files import make_private, write_private
from fhe_inhibitor.system.progress import Observer

RECORD_FILE, REQUEST_FILE, LOCK_FILE = "run.json", "request", ".lock"
TASK, UNFINISHED = "task-", ".unfinished-"


class RunOwner(Record):
    """What a run belongs to: hash of the circuits, SHA-256 of the evaluation keys, and the text.

    text: `Client.keyed_digest` of what the model reads of it.
    """

    circuits_hash: Sha256
    evaluation_keys: Sha256
    text: Sha256


class FinishedTask(Record):
    """Wall time of a task, and the SHA-256 of its file."""

    seconds: float
    sha256: Sha256


class RunRecord(Record):
    """What `run.json` holds. tasks: by index, counted from 1; encrypt_s: of the request."""

    format: Literal[1] = 1
    owner: RunOwner
    request: Sha256
    encrypt_s: float
    tasks: dict[int, FinishedTask] = {}


class KeptRun:
    """A run in a folder that is locked for this process."""

    def __init__(self, folder: Path, owner: RunOwner, observer: Observer) -> None:
        self.folder = folder
        self._owner = owner
        self._observer = observer
        self._record = self._read_record()

    @property
    def encrypt_s(self) -> float:
        """Seconds that encrypting the request took, 0 before."""
        return self._record.encrypt_s if self._record else 0.0

    def seconds(self, index: int) -> float:
        """Return the seconds that a finished task took, 0 for another one."""
        done = self._record.tasks.get(index) if self._record else None
        return done.seconds if done else 0.0

    def request(self) -> Request | None:
        """Return the request that was kept; None if there is none that can be read."""
        if self._record is None:
            return None
        with suppress(OSError, InputError):
            data = (self.folder / REQUEST_FILE).read_bytes()
            if _sha256(data) == self._record.request:
                return Request.from_bytes(data)
        self._observer.note(f"{self.folder / REQUEST_FILE} is missing or damaged: encrypting anew")
        return None

    def keep_request(self, data: bytes, seconds: float) -> None:
        """Keep an encrypted text. Tasks that are kept fit it: it encrypts the same one."""
        self._write_record(
            RunRecord(
                owner=self._owner,
                request=_sha256(data),
                encrypt_s=seconds,
                tasks=self._record.tasks if self._record else {},
            )
        )
        self._write(self.folder / REQUEST_FILE, data)

    def read_values(self, tasks: Sequence[Task]) -> dict[str, Value]:
        """Return the outputs of finished tasks that are kept; removes those that are damaged."""
        values: dict[str, Value] = {}
        finished = self._record.tasks if self._record else {}
        for index, task in enumerate(tasks[:-1], start=1):
            path = self._task(index)
            if index not in finished or not path.exists():
                continue
            try:
                data = path.read_bytes()
                if _sha256(data) != finished[index].sha256:
                    raise InputError("another SHA-256")
                values |= read_outputs(task, data)
            except (OSError, InputError):
                self._observer.note(f"{path} is damaged: {task.stage} runs again")
                with self._writing():
                    path.unlink(missing_ok=True)
        return values

    def keep(
        self, tasks: Sequence[Task], n: int, done: TaskDone[Value], waiting: Iterable[int]
    ) -> None:
        """Keep what a task gave, and remove what none of those that wait, by index, reads."""
        assert self._record is not None
        if done.index == done.total:
            return
        data = to_response(n, done).to_bytes()
        self._write(self._task(done.index), data)
        task = FinishedTask(seconds=done.seconds, sha256=_sha256(data))
        finished = {**self._record.tasks, done.index: task}
        self._write_record(self._record.model_copy(update={"tasks": finished}))
        kept = {self._task(index) for index in tasks_to_keep(tasks, waiting, done.index)}
        self._remove(set(self.folder.glob(f"{TASK}*")) - kept)

    def remove(self) -> None:
        """Remove all files of the run, its record last, and the folder if nothing else is in it."""
        self._remove({*self.folder.glob(f"{TASK}*"), self.folder / REQUEST_FILE})
        self._remove({self.folder / RECORD_FILE})
        self._remove({self.folder / LOCK_FILE})
        with suppress(OSError):
            self.folder.rmdir()

    def _read_record(self) -> RunRecord | None:
        """Return what was kept of this run, None if the folder is empty; refuse another run."""
        path = self.folder / RECORD_FILE
        with self._writing():
            self._remove(set(self.folder.glob(f"{UNFINISHED}*")))
            names = {entry.name for entry in self.folder.iterdir()} - {LOCK_FILE}
            if not names:
                return None
            if RECORD_FILE not in names:
                raise InputError(
                    f"{self.folder} holds other files and no {RECORD_FILE}: name a folder that is "
                    "empty or not there yet"
                )
            try:
                record = RunRecord.model_validate_json(path.read_bytes())
            except ValidationError as error:
                raise InputError(
                    f"{path} can't be read as a run: remove {self.folder}, and begin anew"
                ) from error
        kept, wanted = record.owner, self._owner
        if kept != wanted:
            if kept.circuits_hash != wanted.circuits_hash:
                what = f"another model or error probability (circuits {kept.circuits_hash[:12]}"
                what += f", wanted {wanted.circuits_hash[:12]})"
            elif kept.evaluation_keys != wanted.evaluation_keys:
                what = f"other keys ({kept.evaluation_keys[:12]}, wanted "
                what += f"{wanted.evaluation_keys[:12]})"
            else:
                what = "another text, or of another number of its tokens"
            raise InputError(
                f"{self.folder} holds a run of {what}: repeat the command that began it, or name "
                "another folder"
            )
        return record

    def _task(self, index: int) -> Path:
        return self.folder / f"{TASK}{index}"

    def _write_record(self, record: RunRecord) -> None:
        self._write(self.folder / RECORD_FILE, record.model_dump_json(indent=1).encode())
        self._record = record

    def _write(self, path: Path, data: bytes) -> None:
        with self._writing():
            write_private(path, data)

    def _remove(self, paths: set[Path]) -> None:
        with self._writing():
            for path in paths:
                path.unlink(missing_ok=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with _writing(self.folder):
            yield


@contextmanager
def kept_run(folder: str | Path, owner: RunOwner, observer: Observer) -> Iterator[KeptRun]:
    """Give the run that a folder keeps, or a new one in it, while no other process has it.

    The folder is made, for the owner only, if missing. Raises InputError for one that others can
    look into, that holds other files or the run of another owner, that another process runs in, or
    that can't be written.
    """
    folder = Path(folder)
    with _writing(folder):
        make_private(folder)
        mode = stat.S_IMODE(folder.stat().st_mode)
        if folder.is_dir() and mode & 0o077:
            raise InputError(
                f"{folder} has mode {mode:04o}, so others can look into it: `chmod 700` it, or "
                "name a folder that is not there yet"
            )
        lock = FileLock(folder / LOCK_FILE, mode=0o600)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"another process runs in {folder}: wait for it, or name another folder"
            ) from None
    try:
        yield KeptRun(folder, owner, observer)
    finally:
        lock.release()


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    with writing(f"the folder {folder} of a run", "name another one with --resume"):
        yield


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
