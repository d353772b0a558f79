"""What each address of the API does: models, keys and their upload, jobs and their events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import FileResponse
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Receive, Scope, Send

from fhe_inhibitor.runtime.protocol import (
    LAST_EVENT,
    MAX_IDEMPOTENCY_KEY,
    MODEL_FILES,
    OCTETS,
    PREFIX,
    UPLOAD_LENGTH,
    UPLOAD_OFFSET,
    Job,
    JobList,
    KeysList,
    KeysState,
    ModelInfo,
    ModelList,
    NewKeys,
    Sha256,
    Status,
)
from fhe_inhibitor.service.access import AtOnce
from fhe_inhibitor.service.dependencies import BEARER, KeysId, ServiceHere, User, refusals
from fhe_inhibitor.service.refusals import Refused, not_found
from fhe_inhibitor.service.service import Service
from fhe_inhibitor.service.status import Overview

router = APIRouter(prefix=PREFIX, dependencies=[BEARER])

WAIT_S = 5.0  # for a change; after that a job is read all the same
EVENTS = {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
BYTES = {"content": {OCTETS: {"schema": {"type": "string", "format": "binary"}}}}


@router.get("/models", responses=refusals())
async def list_models(user: User, service: ServiceHere) -> ModelList:
    """List the models that this server runs."""
    return ModelList(models=[model.info for model in service.models.values()])


@router.get("/models/{name}", responses=refusals(404))
async def get_model(name: str, user: User, service: ServiceHere) -> ModelInfo:
    """Describe a model: its hash, which a client compares before it sends anything."""
    return service.model(name).info


@router.get(
    "/models/{name}/files/{file}",
    responses={**refusals(404), 200: BYTES},
    response_class=FileResponse,
)
async def get_file(name: str, file: str, user: User, service: ServiceHere) -> FileResponse:
    """Send one of a model's public files."""
    model = service.model(name)
    if file not in MODEL_FILES:
        raise not_found("file")
    return FileResponse(model.folder / file, media_type=OCTETS)


@router.get("/status", responses=refusals())
async def get_status(user: User, service: ServiceHere) -> Overview:
    """Count jobs, workers and keys of all users, without a word on any of them."""
    return await asyncio.to_thread(service.overview)


@router.post("/keys", responses=refusals(409, 507))
async def announce_keys(new: NewKeys, user: User, service: ServiceHere) -> KeysState:
    """Announce evaluation keys, or ask how far they are."""
    model = service.model_by_circuits_hash(new.circuits_hash)
    keys_hash = model.manifest.keys_hash
    return await asyncio.to_thread(service.uploads.start, user, new, keys_hash)


@router.get("/keys", responses=refusals())
async def list_keys(user: User, service: ServiceHere) -> KeysList:
    """List the caller's keys."""
    return KeysList(keys=await asyncio.to_thread(service.uploads.list_of, user))


@router.get("/keys/{sha256}", responses=refusals(404))
async def get_keys(sha256: KeysId, user: User, service: ServiceHere) -> KeysState:
    """Tell how much of some keys is here."""
    return await asyncio.to_thread(service.uploads.get, user, sha256)


@router.head("/keys/{sha256}", responses=refusals(404), response_class=Response)
async def head_keys(sha256: KeysId, user: User, service: ServiceHere) -> Response:
    """Tell it in headers: Upload-Offset, Upload-Length."""
    state = await asyncio.to_thread(service.uploads.get, user, sha256)
    return Response(headers=_offsets(state))


@router.patch(
    "/keys/{sha256}",
    responses=refusals(404, 409, 507),
    openapi_extra={"requestBody": {**BYTES, "required": True}},
)
async def append_keys(
    sha256: KeysId,
    upload_offset: Annotated[int, Header(ge=0)],
    request: Request,
    response: Response,
    user: User,
    service: ServiceHere,
) -> KeysState:
    """Add the next bytes of keys; the last ones complete them."""
    state = await asyncio.to_thread(service.uploads.get, user, sha256)
    keys_hash = service.model_by_circuits_hash(state.circuits_hash).manifest.keys_hash
    chunks = _counted(request.stream(), service)
    state = await service.uploads.append(user, sha256, upload_offset, chunks, keys_hash)
    response.headers.update(_offsets(state))
    return state


@router.delete("/keys/{sha256}", status_code=204, responses=refusals(404, 409))
async def remove_keys(sha256: KeysId, user: User, service: ServiceHere) -> None:
    """Remove keys that no unfinished job needs."""
    await asyncio.to_thread(service.uploads.remove, user, sha256)


@router.post(
    "/jobs",
    status_code=202,
    responses=refusals(404, 409, 507),
    openapi_extra={"requestBody": {**BYTES, "required": True}},
)
async def submit_job(
    circuits_hash: Annotated[Sha256, Query()],
    keys: Annotated[Sha256, Query(description="SHA-256 of complete keys.")],
    request: Request,
    user: User,
    service: ServiceHere,
    idempotency_key: Annotated[
        str | None, Header(min_length=1, max_length=MAX_IDEMPOTENCY_KEY)
    ] = None,
) -> Job:
    """Queue an encrypted request."""
    service.model_by_circuits_hash(circuits_hash)  # told before the body is read
    with service.bodies.counted(user):
        body = await request.body()
        job = await asyncio.to_thread(
            service.submit, user, circuits_hash, keys, body, idempotency_key
        )
    service.supervisor.wake()
    return job


@router.get("/jobs", responses=refusals())
async def list_jobs(user: User, service: ServiceHere) -> JobList:
    """List the caller's jobs, the newest first."""
    return JobList(jobs=await asyncio.to_thread(service.jobs.list_of, user))


@router.get("/jobs/{id}", responses=refusals(404))
async def get_job(id: str, user: User, service: ServiceHere) -> Job:
    """Tell how far a job is."""
    return await asyncio.to_thread(service.jobs.get, user, id)


@router.get(
    "/jobs/{id}/events",
    responses={**refusals(404), 200: EVENTS},
    response_class=EventSourceResponse,
)
async def watch_job(
    id: str,
    user: User,
    service: ServiceHere,
    last_event_id: Annotated[str | None, Header()] = None,
) -> EventSourceResponse:
    """Tell of each finished task, and at last of the job's end."""
    job = await asyncio.to_thread(service.jobs.get, user, id)
    events = _events(service, user, id, _seen(last_event_id, job))
    return UserEvents(events, service.streams, user)


@router.get(
    "/jobs/{id}/result",
    responses={**refusals(404, 409, 410), 200: BYTES},
    response_class=Response,
)
async def get_result(id: str, user: User, service: ServiceHere) -> Response:
    """Send the encrypted logits, as often as they are asked for."""
    job = await asyncio.to_thread(service.jobs.get, user, id)
    expired = Refused(410, "expired", "this result has expired: submit the request again")
    if job.status is Status.EXPIRED:
        raise expired
    if not job.status.final:
        raise Refused(409, "not_done", f"{job.tasks_done} of {job.tasks_total} tasks are done")
    if job.status is not Status.DONE:
        raise Refused(409, "no_result", f"this job is {job.status}: {job.message or 'no result'}")
    try:
        content = await asyncio.to_thread(service.storage.result(id).read_bytes)
    except FileNotFoundError:  # removed meanwhile
        raise expired from None
    return Response(content, media_type=OCTETS)


@router.delete("/jobs/{id}", status_code=204, responses=refusals(404))
async def remove_job(id: str, user: User, service: ServiceHere) -> None:
    """Cancel an unfinished job, forget another one."""
    await asyncio.to_thread(service.remove_job, user, id)


def _offsets(state: KeysState) -> dict[str, str]:
    return {UPLOAD_OFFSET: str(state.received), UPLOAD_LENGTH: str(state.size)}


async def _counted(chunks: AsyncIterator[bytes], service: ServiceHere) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        service.metrics.received(len(chunk))
        yield chunk


class UserEvents(EventSourceResponse):
    """A stream of events, of the few that a user may have open at once."""

    def __init__(self, content: AsyncIterator[ServerSentEvent], streams: AtOnce, user: str) -> None:
        super().__init__(content)
        self._streams, self._user = streams, user

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, or refuse it before anything is sent."""
        with self._streams.counted(self._user):
            await super().__call__(scope, receive, send)


async def _events(
    service: Service, user: str, job_id: str, seen: int
) -> AsyncIterator[ServerSentEvent]:
    """Yield the events of a job after the `seen`-th task, until it ends or is forgotten."""
    while True:
        change = service.next_change()
        try:
            job = await asyncio.to_thread(service.jobs.get, user, job_id)
        except Refused:
            return
        for event in await asyncio.to_thread(service.jobs.events, job_id, seen):
            seen = event.index
            yield ServerSentEvent(event.model_dump_json(), event="task", id=str(seen))
        if job.status.final:
            yield ServerSentEvent(job.model_dump_json(), event=job.status, id=LAST_EVENT)
            return
        try:
            await asyncio.wait_for(change.wait(), WAIT_S)
        except TimeoutError:
            continue


def _seen(last_event_id: str | None, job: Job) -> int:
    """Return the last task that a client knows of."""
    if last_event_id == LAST_EVENT:
        return job.tasks_total
    number = last_event_id or ""
    valid = number.isascii() and number.isdigit() and len(number) < 10
    return min(int(number), job.tasks_total) if valid else 0
