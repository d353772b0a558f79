"""How much a client takes from a server: no answer may fill its memory or its disk."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx

from fhe_inhibitor.remote.errors import RemoteError

MAX_BYTES = "max_bytes"  # the extension of a request that says how long its answer may be
MAX_ANSWER_BYTES = 4 << 20  # of JSON, of events, of an encrypted result
MAX_FILE_BYTES = 256 << 20  # of a model's public file


async def bound(response: httpx.Response) -> None:
    """Let a response end in RemoteError where it gets too long. A hook of httpx's for each."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise RemoteError("the server compresses its answer, which this client asks it not to")
    limit = response.request.extensions.get(MAX_BYTES, MAX_ANSWER_BYTES)
    assert isinstance(response.stream, httpx.AsyncByteStream)
    response.stream = _Bounded(response.stream, limit)


class _Bounded(httpx.AsyncByteStream):
    """What another stream gives, up to a number of bytes."""

    def __init__(self, stream: httpx.AsyncByteStream, limit: int) -> None:
        self._stream = stream
        self._limit = limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._limit
        async for piece in self._stream:
            left -= len(piece)
            if left < 0:
                raise RemoteError(f"the server's answer has more than {self._limit:,} bytes")
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()
