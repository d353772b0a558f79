"""The asynchronous client of a server elsewhere; `remote` has the synchronous one.

async with AsyncRemoteClient("https://host:8000", token) as client:
    print((await client.classify("a gripping , funny film")).label)
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio
import anyio.to_thread

from fhe_inhibitor.integer.public import PublicModel
from fhe_inhibitor.remote.connection import Connection
from fhe_inhibitor.remote.errors import JobFailed, NotFound, RemoteError
from fhe_inhibitor.remote.exchange import ClientSide, Exchange, RemoteClassification
from fhe_inhibitor.remote.model import choose_model, fetch_files
from fhe_inhibitor.remote.options import Progress, RemoteOptions
from fhe_inhibitor.runtime.keyring import Keyring, make_keys_elsewhere
from fhe_inhibitor.runtime.protocol import Job, ModelInfo, Status, TaskEvent

CANCEL_S = 5.0  # to tell the server that a result isn't wanted any more

Result = TypeVar("Result")


class AsyncRemoteClient:
    """Classifies texts on a server; an asynchronous context manager.

    on_progress: called as work gets on, in the event loop's thread. Keys are made in another
    process, because Concrete holds Python's interpreter lock for seconds meanwhile; what takes
    milliseconds, such as encryption, runs in a thread, one call at a time. setup_s: seconds of
    what was done before the first text. evaluation_keys_bytes: as sent, once.

    Raises InputError for an address or a token that can't be one.
    """

    def __init__(
        self,
        server: str,
        token: str | None = None,
        options: RemoteOptions | None = None,
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        self.options = options or RemoteOptions()
        self.keyring = Keyring(self.options.keys_dir)
        self.setup_s: dict[str, float] = {}
        self.evaluation_keys_bytes = 0
        self._connection = Connection(server, token, self.options)
        self._on_progress = on_progress
        self._preparing, self._in_use = asyncio.Lock(), asyncio.Lock()
        self._model: ModelInfo | None = None
        self._fetched: tuple[Path, PublicModel] | None = None
        self._side: ClientSide | None = None
        self._evaluation_keys = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._connection.close()

    @property
    def is_private(self) -> bool:
        """Whether nobody between client and server can read the token."""
        return self._connection.is_private

    async def connect(self) -> ModelInfo:
        """Return the model, after checking that client and server can agree on it."""
        if self._model is None:
            self._model = await choose_model(self._connection, self.options)
        return self._model

    async def public_model(self) -> PublicModel:
        """Return the public part of the server's model, fetched unless the cache has it."""
        return (await self._fetch())[1]

    async def make_keys(self) -> Path:
        """Make keys for the server's model, unless there are some; return its public files' folder.

        Raises InputError if they can't be written.
        """
        model, (folder, _) = await self.connect(), await self._fetch()
        digest = model.model_hash
        async with self._preparing:
            if not self.keyring.path(digest).exists():
                self._on_progress(Progress("keygen", 0, 0, ""))
                with self._timed("keygen"):
                    await make_keys_elsewhere(
                        self.keyring, folder, digest, model.name, self.options.passphrase
                    )
        return folder

    async def prepare(self) -> None:
        """Fetch the model's public files, make or load keys, upload those for evaluation.

        The first text does it otherwise. Raises RemoteError, or InputError for keys or a cache
        that can't be read or written.
        """
        await self._prepared()

    async def classify(
        self, text: str, max_tokens: int | None = None, strict: bool = False
    ) -> RemoteClassification:
        """Classify one text; arguments as `classify_many`."""
        return (await self.classify_many([text], max_tokens, strict))[0]

    async def classify_many(
        self, texts: Sequence[str], max_tokens: int | None = None, strict: bool = False
    ) -> list[RemoteClassification]:
        """Classify texts; while the server runs one, the next is encrypted.

        max_tokens: tokens that the model reads of a text, its most important ones; the model's
        default if None. strict: refuse a text that has more.

        Raises InputError, before keys are made or anything is encrypted, for what
        `PublicModel.tokenize` refuses; JobFailed if the server gives up on a text; RemoteError.
        If it is cancelled, so are the jobs on the server.
        """
        public = await self.public_model()
        tokens = [public.tokenize(text, max_tokens, strict) for text in texts]
        side = await self._prepared()
        exchanges = [
            side.exchange(public, text, read) for text, read in zip(texts, tokens, strict=True)
        ]
        await self._exchange_all(public, side, exchanges)
        # Only now: what a decryption gives must not change what the server sees.
        return [await self._in_thread(side.decrypt, public, exchange) for exchange in exchanges]

    async def delete_keys(self, evaluation_keys: str) -> None:
        """Remove evaluation keys, known by their SHA-256, from the server."""
        await self._connection.delete_keys(evaluation_keys)

    async def _fetch(self) -> tuple[Path, PublicModel]:
        model = await self.connect()
        async with self._preparing:
            if self._fetched is None:
                with self._timed("fetch model"):
                    folder = await fetch_files(
                        self._connection, model, self.options.cache_dir, self._on_progress
                    )
                    self._fetched = folder, await self._in_thread(PublicModel.load, folder)
            return self._fetched

    async def _prepared(self) -> ClientSide:
        folder = await self.make_keys()
        model = await self.connect()
        async with self._preparing:
            if self._side is None:
                side = await self._load_keys(model, folder)
                await self._upload_keys(side, model)
                self._side = side
            return self._side

    async def _load_keys(self, model: ModelInfo, folder: Path) -> ClientSide:
        self._on_progress(Progress("load keys", 0, 0, ""))
        with self._timed("load keys"):
            side = await self._in_thread(ClientSide, folder)
            await self._in_thread(
                self.keyring.load, model.model_hash, side.client, self.options.passphrase
            )
        return side

    async def _upload_keys(self, side: ClientSide, model: ModelInfo) -> None:
        with self._timed("send evaluation keys"):
            keys = await self._in_thread(side.client.evaluation_keys)
            self.evaluation_keys_bytes = len(keys)
            self._evaluation_keys = await self._connection.upload_keys(
                keys,
                model,
                lambda n: self._on_progress(Progress("upload", n, len(keys), "bytes")),
            )

    async def _exchange_all(
        self, public: PublicModel, side: ClientSide, exchanges: Sequence[Exchange]
    ) -> None:
        """Send all requests, at most `in_flight` of them unanswered, and receive all responses."""
        total = sum(task.n_lookups for exchange in exchanges for task in exchange.tasks)

        def show(step: str) -> None:
            done = sum(exchange.lookups_done for exchange in exchanges)
            self._on_progress(Progress(step, done, total, "lookups"))

        slots = anyio.Semaphore(self.options.in_flight)
        try:
            async with anyio.create_task_group() as group:
                for exchange in exchanges:
                    await slots.acquire()
                    show("encrypt")
                    await self._in_thread(side.encrypt, public, exchange)
                    group.start_soon(self._exchange, side, exchange, show, slots)
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _exchange(
        self,
        side: ClientSide,
        exchange: Exchange,
        show: Callable[[str], None],
        slots: anyio.Semaphore,
    ) -> None:
        def on_tasks_done(done: int, event: TaskEvent | None) -> None:
            exchange.note_task(done, event)
            show(exchange.tasks[done].stage if done < len(exchange.tasks) else "decrypt")

        job = await self._submit(side, exchange.request)
        show(exchange.tasks[0].stage)
        try:
            job = await self._connection.follow(job, on_tasks_done)
        except asyncio.CancelledError:
            with anyio.move_on_after(CANCEL_S, shield=True), suppress(RemoteError):
                await self._connection.delete_job(job.id)
            raise
        if job.status is not Status.DONE:
            reason = job.message or job.error or "without a reason"
            raise JobFailed(f"the server gave up on a text, {job.status}: {reason}", job.error)
        exchange.response = await self._connection.result(job.id)
        exchange.ended = time.perf_counter()
        slots.release()

    async def _submit(self, side: ClientSide, request: bytes) -> Job:
        model, key = await self.connect(), uuid.uuid4().hex
        try:
            return await self._connection.submit(
                request, model.model_hash, self._evaluation_keys, key
            )
        except NotFound:  # keys that weren't used for long are dropped
            await self._upload_keys(side, model)
            return await self._connection.submit(
                request, model.model_hash, self._evaluation_keys, key
            )

    async def _in_thread(self, call: Callable[..., Result], *arguments: Any) -> Result:
        async with self._in_use:
            return await anyio.to_thread.run_sync(call, *arguments)

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.setup_s[step] = time.perf_counter() - start
