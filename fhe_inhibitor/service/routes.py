"""The routes of models and keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import FileResponse

from fhe_inhibitor.runtime.protocol import (
    MODEL_FILES,
    OCTETS,
    PREFIX,
    UPLOAD_LENGTH,
    UPLOAD_OFFSET,
    KeysList,
    KeysState,
    ModelInfo,
    ModelList,
    NewKeys,
)
from fhe_inhibitor.service.dependencies import BEARER, KeysId, ServiceHere, User, refusals
from fhe_inhibitor.service.refusals import not_found

router = APIRouter(prefix=PREFIX, dependencies=[BEARER])

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
    responses=refusals(404, 408, 409, 507),
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


def _offsets(state: KeysState) -> dict[str, str]:
    return {UPLOAD_OFFSET: str(state.received), UPLOAD_LENGTH: str(state.size)}


async def _counted(chunks: AsyncIterator[bytes], service: ServiceHere) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        service.metrics.received(len(chunk))
        yield chunk
