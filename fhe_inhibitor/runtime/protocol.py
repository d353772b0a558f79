"""What client and server say to each other, over HTTP.

    GET    /health  /ready  /docs               open to all: alive, working, OpenAPI
    GET    /  /status                           open to all: the status page; `service.status`

All else lies under `/v1` and wants `Authorization: Bearer TOKEN`.

    GET    /v1/status                           counts over all users; `service.status`

    GET    /v1/models                           `ModelList`
    GET    /v1/models/{name}                    `ModelInfo`
    GET    /v1/models/{name}/files/{file}       the file's bytes; `MODEL_FILES` are all there are

    POST   /v1/keys                             `NewKeys` -> `KeysState`; the same SHA-256 goes on
    GET    /v1/keys                             `KeysList`
    GET    /v1/keys/{sha256}                    `KeysState`; HEAD the same, in headers
    PATCH  /v1/keys/{sha256}                    bytes from header `Upload-Offset` on -> `KeysState`
    DELETE /v1/keys/{sha256}                    204

    POST   /v1/jobs?circuits_hash=..&keys=..       body: `messages.Request`; 202 `Job`
    GET    /v1/jobs                             `JobList`, the newest first, 1,000 at most
    GET    /v1/jobs/{id}                        `Job`
    GET    /v1/jobs/{id}/events                 server-sent events, see below
    GET    /v1/jobs/{id}/result                 `messages.Response`, until the job expires
    DELETE /v1/jobs/{id}                        204: cancels an unfinished job, forgets another

Keys: of one upload, known by its SHA-256. A PATCH whose offset is not what the server has is
answered 409 `wrong_offset`, with the true one in header `Upload-Offset`; a cut PATCH keeps what
arrived. The piece that completes the keys is answered when their SHA-256 was found right; 422
`wrong_keys` for another one (then all is dropped), or for keys of other circuits (told as soon as
their first bytes are there). Keys unused for `Limits.keys_ttl_s` are dropped.

Jobs: header `Idempotency-Key` makes a repeated POST return the first one's job, while that is
known; with another request it is refused, 409 `idempotency_conflict`. A job ends as `done`,
`failed`, `cancelled`; `Limits.job_ttl_s` later its ciphertexts go and it is `expired`. Of those
without a result a user's newest 1,000 are known.

Events: `task`, data `TaskEvent`, id its index, for each finished task from the first on, or from
the one after header `Last-Event-ID`; then one named by the final status, data `Job`, id `end`, and
the stream ends. Comments in between keep the connection alive.

Errors are an `Error` as JSON: 401 `no_token`; 404 `not_found`, also for what belongs to another
user; 408 `stalled` (the body came too slowly); 409 `wrong_model` (another circuits hash),
`wrong_offset`, `upload_busy`, `keys_incomplete`, `keys_in_use`, `idempotency_conflict`, `not_done`
(no result yet), `no_result` (the job failed or was cancelled); 410 `expired`; 413 `too_large`; 422
`invalid`, `wrong_keys`; 429 `too_many_requests`, `too_many_keys`, `too_many_jobs`,
`too_many_streams`, `too_many_bodies` (requests that have not all arrived), with `Retry-After`; 503
`not_ready`; 507 `disk_full`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.manifest import EMBEDDING_FILE, MANIFEST_FILE, SPECS_FILE, TOKENIZER_FILE

PROTOCOL_VERSION = 2
PREFIX = "/v1"
MODEL_FILES = (MANIFEST_FILE, SPECS_FILE, EMBEDDING_FILE, TOKENIZER_FILE)
UPLOAD_OFFSET, UPLOAD_LENGTH = "Upload-Offset", "Upload-Length"
IDEMPOTENCY_KEY = "Idempotency-Key"
MAX_IDEMPOTENCY_KEY = 128
OCTETS = "application/octet-stream"
LAST_EVENT = "end"
LOOPBACK = ("127.0.0.1", "::1", "localhost")  # where a token crosses no network

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Seconds = Annotated[float, Field(description="Seconds since 1970, UTC.")]


def circuits_hash(files: Mapping[str, str]) -> str:
    """Return the one hash over all that client and server must agree on.

    files: SHA-256 of each of `MODEL_FILES`, by name.
    """
    agreed = {"protocol": PROTOCOL_VERSION, "files": {name: files[name] for name in MODEL_FILES}}
    return hashlib.sha256(json.dumps(agreed, sort_keys=True).encode()).hexdigest()


class Error(BaseModel):
    """Why something was refused: a code for programs, one line for people."""

    error: str
    message: str


class FileInfo(BaseModel):
    """One of a model's public files."""

    name: str
    size: int
    sha256: Sha256

    @classmethod
    def of(cls, path: Path) -> FileInfo:
        """Describe a file. Raises InputError if it can't be read."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} can't be read ({error}); compile the model again") from error
        return cls(name=path.name, size=len(content), sha256=hashlib.sha256(content).hexdigest())


def folder_hash(folder: Path) -> str:
    """Return the `circuits_hash` of a folder of circuits. Raises InputError if it lacks a file."""
    files = [FileInfo.of(folder / name) for name in MODEL_FILES]
    return circuits_hash({file.name: file.sha256 for file in files})


class Limits(BaseModel):
    """What the server allows one user; sizes in bytes."""

    max_keys_bytes: int
    max_request_bytes: int
    max_chunk_bytes: int
    max_keys: int
    max_unfinished_jobs: int
    keys_ttl_s: float
    job_ttl_s: float


class ModelInfo(BaseModel):
    """A model that the server runs."""

    name: str
    circuits_hash: Sha256
    model_hash: Sha256
    keys_hash: Sha256
    buckets: list[int]
    labels: list[str]
    default_tokens: int
    files: list[FileInfo]
    limits: Limits
    protocol_version: int = PROTOCOL_VERSION


class ModelList(BaseModel):
    models: list[ModelInfo]


class NewKeys(BaseModel):
    """Announces evaluation keys, as `Client.evaluation_keys` returns them."""

    sha256: Sha256
    size: Annotated[int, Field(gt=0)]
    circuits_hash: Sha256


class KeysState(BaseModel):
    """How much of the keys is there; `complete` once all is, with the right SHA-256."""

    sha256: Sha256
    circuits_hash: Sha256
    size: int
    received: int
    complete: bool
    created_at: Seconds
    expires_at: Seconds


class KeysList(BaseModel):
    keys: list[KeysState]


class Status(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def final(self) -> bool:
        """Whether no task of such a job will run any more."""
        return self not in (Status.QUEUED, Status.RUNNING)


class Failure(StrEnum):
    """Why a job failed; `Job.message` says it in words."""

    REFUSED = "refused"  # the request or the keys do not fit the circuits
    WORKER_DIED = "worker_died"  # twice: a forged ciphertext or key, or too little memory
    TIMED_OUT = "timed_out"
    DISK_FULL = "disk_full"
    INTERNAL = "internal"


class Job(BaseModel):
    """A request on its way to a result. n: tokens, which the server learns."""

    id: str
    circuits_hash: Sha256
    keys: Sha256
    n: int
    status: Status
    tasks_done: int
    tasks_total: int
    restarts: Annotated[int, Field(description="Workers that died while they ran it.")] = 0
    error: Failure | None = None
    message: str | None = None
    created_at: Seconds
    finished_at: Seconds | None = None
    expires_at: Seconds | None = None


class JobList(BaseModel):
    jobs: list[Job]


class TaskEvent(BaseModel):
    """A task that finished, the `index`-th of `total`, counted from 1."""

    stage: str
    seconds: float
    index: int
    total: int
