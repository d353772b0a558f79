"""What the routes need to know of a request: the service, and whose request it is."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Path, Request, Security
from fastapi.security import HTTPBearer

from fhe_inhibitor.runtime.protocol import Error, Sha256
from fhe_inhibitor.service.service import Service

REFUSALS: dict[int, str] = {
    400: "Not HTTP as it should be",
    401: "No token that this server knows",
    404: "Not there, or another user's",
    408: "The body came too slowly",
    409: "Not in this state",
    410: "Expired",
    413: "Too large",
    422: "Invalid",
    429: "Too many",
    503: "Not ready",
    507: "Disk full",
}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what the OpenAPI page says of these statuses."""
    return {
        status: {"model": Error, "description": REFUSALS[status]}
        for status in (400, 401, 408, 413, 422, 429, *statuses)
    }


def _service(request: Request) -> Service:
    return request.app.state.service


ServiceHere = Annotated[Service, Depends(_service)]


async def _user(request: Request, service: ServiceHere) -> str:
    """Return who asks; refuse strangers, and those who ask too often."""
    user = service.tokens.user(request.headers.get("authorization"))
    service.rates.count(user)
    return user


User = Annotated[str, Depends(_user)]
BEARER = Security(HTTPBearer(auto_error=False))  # for the OpenAPI page; `_user` checks
KeysId = Annotated[Sha256, Path(description="SHA-256 of the keys as uploaded.")]
