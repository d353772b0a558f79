"""The calls of `runtime.protocol`, each repeated with growing pauses while that can help.

Every call may be repeated safely: a job carries an idempotency key, an upload its offset. A server
that has never answered is given up after a few attempts; one that has is waited for, as it may
be starting again.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import stamina
from httpx_sse import EventSource, SSEError
from pydantic import BaseModel, ValidationError

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.remote.address import find_proxy, make_http, parse_address, without_password
from fhe_inhibitor.remote.bounds import MAX_ANSWER_BYTES, MAX_BYTES, MAX_FILE_BYTES, bound
from fhe_inhibitor.remote.errors import (
    AccessDenied,
    ModelMismatch,
    NotFound,
    QuotaExceeded,
    RemoteError,
    ServerUnreachable,
)
from fhe_inhibitor.remote.options import RemoteOptions
from fhe_inhibitor.runtime.protocol import (
    IDEMPOTENCY_KEY,
    LAST_EVENT,
    LOOPBACK,
    PREFIX,
    UPLOAD_OFFSET,
    Error,
    FileInfo,
    Job,
    KeysList,
    KeysState,
    ModelInfo,
    ModelList,
    NewKeys,
    TaskEvent,
)
from fhe_inhibitor.system.progress import Observer

FIRST_ATTEMPTS = 3
CHUNK_BYTES = 4 << 20
POLL_S = 1.0
TIMEOUT = httpx.Timeout(60.0, connect=10.0)
WAIT_S = 1.0  # where the server asks to come back and doesn't say when
MAX_SHOWN = 300

# stamina logs each repetition as a warning, which Python prints where no handler is set up.
logging.getLogger("stamina").addHandler(logging.NullHandler())

Answer = TypeVar("Answer", bound=BaseModel)


class Connection:
    """A server, as one user sees it; `close` it.

    address: `server`, the same however that was written. is_private: whether nobody between client
    and server can read the token.

    Raises InputError for an address that is none, a token that no header can hold, proxies or
    certificates in the environment that can't be used, and a way on which others could read the
    token, unless the options say `insecure`.
    """

    def __init__(self, server: str, token: str | None, options: RemoteOptions) -> None:
        if token is not None and not (token.isascii() and token.isprintable() and token):
            raise InputError("the token is empty or has characters that no token has: copy it anew")
        url = parse_address(server)
        self.is_private = url.host in LOOPBACK or (url.scheme == "https" and options.verify)
        if not (self.is_private or options.insecure):
            raise InputError(_INSECURE.format(server=server))
        headers = _HEADERS if token is None else {**_HEADERS, "Authorization": f"Bearer {token}"}
        self._proxy = find_proxy(url)
        self._http = make_http(url, self._proxy, options, headers, TIMEOUT)
        self._http.event_hooks = {"response": [bound]}
        self.server, self.address = server, str(self._http.base_url).rstrip("/")
        self._patience_s = options.patience_s
        self._has_answered = False

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def models(self) -> list[ModelInfo]:
        """Return the models that the server runs."""
        return _read(ModelList, await self._call("GET", "/models")).models

    async def model_file(self, model: str, file: FileInfo) -> bytes:
        """Return a public file of a model. Raises RemoteError if it isn't what was announced."""
        if file.size > MAX_FILE_BYTES:
            raise RemoteError(f"{file.name} of {model} has more than {MAX_FILE_BYTES:,} bytes")
        path = f"/models/{quote(model, safe='')}/files/{file.name}"
        limit = max(file.size, MAX_ANSWER_BYTES)
        content = (await self._call("GET", path, extensions={MAX_BYTES: limit})).content
        if hashlib.sha256(content).hexdigest() != file.sha256:
            raise RemoteError(f"{file.name} of {model} isn't the file that the server announced")
        return content

    async def find_keys(self, digest: str) -> KeysState | None:
        """Return what the server says of complete evaluation keys, None if it lacks them."""
        try:
            state = _read(KeysState, await self._call("GET", f"/keys/{digest}"))
        except NotFound:
            return None
        return state if state.complete else None

    async def upload_keys(self, keys: bytes, model: ModelInfo, observer: Observer) -> KeysState:
        """Send evaluation keys, or what the server lacks of them."""
        digest = hashlib.sha256(keys).hexdigest()
        new = NewKeys(sha256=digest, size=len(keys), circuits_hash=model.circuits_hash)
        state = _read(KeysState, await self._call("POST", "/keys", json=new.model_dump()))
        chunk_bytes = min(CHUNK_BYTES, model.limits.max_chunk_bytes)
        observer.plan(len(keys) - state.received, "bytes")
        while not state.complete:
            before, end = state.received, state.received + chunk_bytes
            state = await self._upload_chunk(state, keys[before:end])
            if state.received <= before and not state.complete:
                raise RemoteError(f"the server keeps {before} of {len(keys)} bytes of the keys")
            observer.finish(state.received - before)
        return state

    async def _upload_chunk(self, state: KeysState, chunk: bytes) -> KeysState:
        path, headers = f"/keys/{state.sha256}", {UPLOAD_OFFSET: str(state.received)}
        try:
            answer = await self._call("PATCH", path, content=chunk, headers=headers)
        except RemoteError as error:
            if error.code != "wrong_offset":
                raise
            # An attempt that was cut off brought something: go on from there.
            answer = await self._call("GET", path)
        return _read(KeysState, answer)

    async def list_keys(self) -> list[KeysState]:
        """Return what the server has of this user's evaluation keys, the oldest first."""
        return _read(KeysList, await self._call("GET", "/keys")).keys

    async def delete_keys(self, digest: str) -> None:
        """Remove evaluation keys from the server."""
        await self._call("DELETE", f"/keys/{digest}")

    async def submit(
        self, request: bytes, circuits_hash: str, keys: str, idempotency_key: str
    ) -> Job:
        """Send an encrypted request; the same key twice is the same job."""
        answer = await self._call(
            "POST",
            "/jobs",
            params={"circuits_hash": circuits_hash, "keys": keys},
            content=request,
            headers={IDEMPOTENCY_KEY: idempotency_key},
        )
        return _read(Job, answer)

    async def job(self, job_id: str) -> Job:
        """Return how far a job is."""
        return _read(Job, await self._call("GET", f"/jobs/{job_id}"))

    async def delete_job(self, job_id: str) -> None:
        """Cancel a job."""
        await self._call("DELETE", f"/jobs/{job_id}")

    async def result(self, job_id: str) -> bytes:
        """Return the encrypted logits of a job that is done."""
        return (await self._call("GET", f"/jobs/{job_id}/result")).content

    async def follow(self, job: Job, on_tasks_done: Callable[[int, TaskEvent | None], None]) -> Job:
        """Return a job when no task of it will run any more.

        on_tasks_done: called with the number of finished tasks, and the last one if the server
        told of it. A stream of events that breaks is opened again where it broke, once more even
        when the job has ended; in between the job is asked for, so that a client without streams
        gets there too.
        """
        done, last_event, ended = 0, 0, False

        def on_event(task: TaskEvent) -> None:
            nonlocal done, last_event
            last_event = task.index
            done = max(done, last_event)
            on_tasks_done(done, task)

        while True:
            try:
                return await self._stream(job.id, last_event, on_event)
            except (httpx.TransportError, SSEError, ValidationError, _StreamEnded):
                pass
            except RemoteError as error:
                if error.retry_after_s is None:
                    raise
            if ended:
                return job
            job = await self.job(job.id)
            ended = job.status.final
            if not ended:
                if job.tasks_done > done:
                    done = job.tasks_done
                    on_tasks_done(done, None)
                await asyncio.sleep(POLL_S)

    async def _stream(self, job_id: str, last: int, on_event: Callable[[TaskEvent], None]) -> Job:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(last)}
        path = f"{PREFIX}/jobs/{job_id}/events"
        async with self._http.stream("GET", path, headers=headers) as response:
            if not response.is_success:
                await response.aread()
                raise _refusal(response, self.server)
            async for event in EventSource(response).aiter_sse():
                if event.id == LAST_EVENT:
                    return Job.model_validate_json(event.data)
                if event.event == "task":
                    on_event(TaskEvent.model_validate_json(event.data))
        raise _StreamEnded

    async def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Return a successful answer; raises RemoteError for any other, InputError once closed."""
        if self._http.is_closed:
            raise InputError("this client is closed: make another one")
        attempts = None if self._has_answered else FIRST_ATTEMPTS
        patience = stamina.retry_context(
            partial(_is_worth_another, patience_s=self._patience_s),
            attempts=attempts,
            timeout=self._patience_s,
            wait_jitter=0.3,
        )
        try:
            async for attempt in patience:
                with attempt:
                    response = await self._http.request(method, PREFIX + path, **options)
                    self._has_answered = True
                    if not response.is_success:
                        raise _refusal(response, self.server)
                    return response
        except httpx.RequestError as error:
            way = f" through the proxy {without_password(self._proxy)}" if self._proxy else ""
            raise ServerUnreachable(
                f"{self.server} can't be reached{way} ({_describe(error)}): is the server running, "
                "and the address right?"
            ) from error
        raise AssertionError("stamina returns or raises")


_HEADERS = {"Accept-Encoding": "identity"}  # bytes on the wire are bytes in memory
_INSECURE = (
    "others could read the token on its way to {server}: pass an address of https, and verify the "
    "certificate; or say --insecure, in Python RemoteOptions(insecure=True)"
)


class _StreamEnded(Exception):
    """A stream of events ended before the job did."""


def _is_worth_another(error: Exception, patience_s: float) -> bool | float:
    """Whether to repeat a call; the seconds to wait, if the server says so and we have them."""
    if isinstance(error, RemoteError):
        return False if error.retry_after_s is None else min(error.retry_after_s, patience_s)
    return isinstance(error, httpx.TransportError) and _ssl_error(error) is None


def _ssl_error(error: BaseException | None) -> ssl.SSLError | None:
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error


def _describe(error: httpx.RequestError) -> str:
    if isinstance(cause := _ssl_error(error), ssl.SSLCertVerificationError):
        return f"its certificate isn't trusted: {cause.verify_message}; --ca names one to trust"
    return str(error) or type(error).__name__


def _refusal(response: httpx.Response, server: str) -> RemoteError:
    """Return what the server's answer means."""
    try:
        error = Error.model_validate_json(response.content)
    except ValidationError:
        # None of ours, but another program's, or a gateway's where the server is away.
        other = "" if response.is_server_error else ", but not as a server of fhe-inhibitor does"
        error = Error(error="", message=f"{response.reason_phrase}{other}")
    status, code = response.status_code, error.error or None
    message = f"{server} answers {status}: {error.message[:MAX_SHOWN]}"
    if status == 401:
        return AccessDenied(f"{message}; pass a token that this server gave you", code)
    if status in (404, 410):
        return NotFound(message, code)
    if code == "wrong_model":
        return ModelMismatch(message, code)
    if status in (413, 429):
        again = _retry_after(response) if status == 429 and code != "too_many_keys" else None
        return QuotaExceeded(message, code, again)
    if status in (502, 503, 504):
        return ServerUnreachable(message, code, _retry_after(response))
    return RemoteError(message, code, WAIT_S if code == "upload_busy" else None)


def _retry_after(response: httpx.Response) -> float:
    try:
        seconds = float(response.headers["Retry-After"])
    except (KeyError, ValueError):
        return WAIT_S
    return max(seconds, 0.1) if math.isfinite(seconds) else WAIT_S


def _read(kind: type[Answer], response: httpx.Response) -> Answer:
    try:
        return kind.model_validate_json(response.content)
    except ValidationError as error:
        raise ModelMismatch(
            f"{response.url.copy_with(query=None)} doesn't answer with a {kind.__name__}: it is no "
            "server of this version"
        ) from error
