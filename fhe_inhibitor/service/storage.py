"""Bytes of keys and jobs, as files: each is whole under its name, or not there.

    keys/USER/SHA256            evaluation keys; SHA256.part while they arrive
    jobs/ID/request             as it came, until the job ends
    jobs/ID/task-7              outputs of the seventh task, until no task that is left reads them
    jobs/ID/result              the response, until the job expires

What the database doesn't know of is left over from an interruption; `housekeeping` removes it.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from fhe_inhibitor.system.files import write_atomically

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNFINISHED = ".part"


class DiskFullError(OSError):
    """No space for more, or less than the operator wants to be left."""


class Storage:
    """The folder of the service's files, readable by its owner only.

    reserved_bytes: of the disk; what would use them is refused.
    """

    def __init__(self, folder: Path, reserved_bytes: int = 0) -> None:
        self.folder = folder
        self._reserved_bytes = reserved_bytes
        for name in ("keys", "jobs"):
            (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)

    def keys(self, user: str, sha256: str) -> Path:
        """Return the path of complete keys."""
        return self.folder / "keys" / user / sha256

    def unfinished_keys(self, user: str, sha256: str) -> Path:
        """Return the path of keys that are not all there."""
        return self.folder / "keys" / user / f"{sha256}{UNFINISHED}"

    def received(self, user: str, sha256: str) -> int:
        """Return how many bytes of unfinished keys are there."""
        path = self.unfinished_keys(user, sha256)
        return path.stat().st_size if path.exists() else 0

    def remove_keys(self, user: str, sha256: str) -> None:
        """Remove keys, complete or not."""
        for path in (self.keys(user, sha256), self.unfinished_keys(user, sha256)):
            path.unlink(missing_ok=True)

    def request(self, job: str) -> Path:
        """Return the path of a job's request."""
        return self.folder / "jobs" / job / "request"

    def result(self, job: str) -> Path:
        """Return the path of a job's response."""
        return self.folder / "jobs" / job / "result"

    def task(self, job: str, index: int) -> Path:
        """Return the path of the outputs of a job's task, counted from 1."""
        return self.folder / "jobs" / job / f"task-{index}"

    def remove_tasks(self, job: str, indices: Iterable[int]) -> None:
        """Remove the outputs of a job's tasks, where they are there."""
        for index in indices:
            self.task(job, index).unlink(missing_ok=True)

    def remove_job(self, job: str) -> None:
        """Remove all files of a job."""
        shutil.rmtree(self.folder / "jobs" / job, ignore_errors=True)

    def keep_result(self, job: str) -> None:
        """Remove all files of a job but its result."""
        with suppress(FileNotFoundError):  # the job was removed meanwhile
            for path in (self.folder / "jobs" / job).iterdir():
                if path != self.result(job):
                    path.unlink(missing_ok=True)

    def jobs(self) -> list[str]:
        """Return the jobs that have files."""
        return [path.name for path in (self.folder / "jobs").iterdir()]

    def all_keys(self) -> list[tuple[str, str]]:
        """Return user and SHA-256 of all keys, complete or not."""
        paths = (self.folder / "keys").glob("*/*")
        return [(path.parent.name, path.name.removesuffix(UNFINISHED)) for path in paths]

    def need(self, n_bytes: int) -> None:
        """Raise DiskFullError unless so many bytes fit beside what is reserved."""
        free = shutil.disk_usage(self.folder).free
        if free - n_bytes < self._reserved_bytes:
            raise DiskFullError(errno.ENOSPC, f"{n_bytes} bytes don't fit")

    def write(self, path: Path, data: bytes) -> None:
        """Write a file that is there whole, even after a power cut, or not at all.

        Raises DiskFullError.
        """
        self.need(len(data))
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(path, data, 0o600)
        except OSError as error:
            raise as_disk_full(error) from error


def as_disk_full(error: OSError) -> OSError:
    """Return DiskFullError for an error that means it, any other error as it is."""
    return DiskFullError(*error.args) if error.errno in FULL else error
