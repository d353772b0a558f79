"""The asynchronous client of a server elsewhere; `client` has the synchronous one.

async with AsyncRemoteClient("https://host:8765", token) as client:
    print((await client.classify("a gripping , funny film")).label)
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import anyio
import anyio.to_thread

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.documents import cut_documents, describe_cost, tell_neutral
from fhe_inhibitor.integer.public import PublicModel, Tokens, as_texts
from fhe_inhibitor.remote.connection import Connection
from fhe_inhibitor.remote.errors import JobFailed, NotFound, RemoteError
from fhe_inhibitor.remote.exchange import ClientSide, Exchange
from fhe_inhibitor.remote.model import choose_model, fetch_files
from fhe_inhibitor.remote.options import RemoteOptions
from fhe_inhibitor.remote.pins import Pins
from fhe_inhibitor.runtime.classifier import Classification, DocumentClassification, Outcome
from fhe_inhibitor.runtime.costs import SessionCost, StageCost
from fhe_inhibitor.runtime.keyring import Keyring, make_keys_elsewhere
from fhe_inhibitor.runtime.protocol import Job, KeysState, ModelInfo, Status, TaskEvent
from fhe_inhibitor.system.machine import peak_memory_bytes
from fhe_inhibitor.system.progress import Observer, Stopwatch, tell_crossing

CANCEL_S = 5.0  # to tell the server that a result isn't wanted any more

Result = TypeVar("Result")
OnEnd = Callable[[int, JobFailed | None], Awaitable[None]]


class AsyncRemoteClient:
    """Classifies texts on a server; an asynchronous context manager.

    It has the calls of a `Classifier`, to await. observer: is told of progress, in the event loop's
    thread. Keys are made in another process, because Concrete holds Python's interpreter lock for
    seconds meanwhile; what takes milliseconds, such as encryption, runs in a thread, one call at a
    time. evaluation_keys_bytes: of those that the server has.

    Raises InputError for an address or a token that can't be one.
    """

    def __init__(
        self,
        server: str,
        token: str | None = None,
        options: RemoteOptions | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.options = options or RemoteOptions()
        self.keyring = Keyring(self.options.keys_dir)
        self.evaluation_keys_bytes = 0
        self._connection = Connection(server, token, self.options)
        self._observer = observer or Observer()
        self._setup = Stopwatch(self._observer)
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
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections. A closed client can't be used again."""
        await self._connection.close()

    @property
    def is_private(self) -> bool:
        """Whether nobody between client and server can read the token."""
        return self._connection.is_private

    def cost(self) -> SessionCost:
        """Return what the client cost so far beyond its texts."""
        setup = tuple(StageCost(step, seconds) for step, seconds in self._setup.stop().items())
        return SessionCost(setup, self.evaluation_keys_bytes, peak_memory_bytes())

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

        From now on the server must have this model. Raises ModelMismatch for a model whose keys
        would not be secure, InputError if keys can't be written.
        """
        model, (folder, _) = await self.connect(), await self._fetch()
        digest = model.circuits_hash
        async with self._preparing:
            await self._accept(folder)
            if not self.keyring.path(digest).exists():
                self._setup.begin("keygen")
                await make_keys_elsewhere(
                    self.keyring, folder, digest, model.name, self.options.passphrase
                )
                self._setup.stop()
            Pins(self.keyring.folder).pin(self._connection.address, model)
        return folder

    async def prepare(self) -> None:
        """Fetch the model's public files, make or load keys, upload those for evaluation.

        The first text does it otherwise. Raises RemoteError, or InputError for keys or a cache
        that can't be read or written.
        """
        await self._prepared()

    async def classify(
        self, text: str, max_tokens: int | None = None, strict: bool = False
    ) -> Classification:
        """Classify one text; arguments as `classify_many`."""
        return (await self.classify_many([text], max_tokens, strict))[0]

    async def classify_many(
        self, texts: Sequence[str], max_tokens: int | None = None, strict: bool = False
    ) -> list[Classification]:
        """Classify texts as `Classifier.classify_many` says; the next is encrypted meanwhile.

        Raises InputError before keys are made or anything is encrypted; JobFailed if the server
        gives up on a text; RemoteError. If it is cancelled, so are the jobs on the server.
        """
        texts = as_texts(texts, "classify_many")
        public = await self.public_model()
        tokens = public.tokenize_many(texts, max_tokens, strict, self._observer)
        side = await self._prepared()
        exchanges = [
            side.exchange(public, text, read) for text, read in zip(texts, tokens, strict=True)
        ]
        await self._exchange_all(public, side, exchanges)
        # Only now: what a decryption gives must not change what the server sees.
        return [await self._in_thread(side.decrypt, public, exchange) for exchange in exchanges]

    async def classify_apart(
        self,
        texts: Sequence[str],
        deliver: Callable[[Outcome], None],
        max_tokens: int | None = None,
        strict: bool = False,
    ) -> None:
        """Classify texts as `Classifier.classify_apart` says, `in_flight` of them at once.

        `deliver` is called in the event loop's thread. What is sent depends on no decryption: the
        next text follows in the same way after a label and after an error.
        """
        texts = as_texts(texts, "classify_apart")
        public = await self.public_model()
        tokens = public.tokenize_each(texts, max_tokens, strict, self._observer)
        side = await self._prepared()
        places: list[int] = []
        exchanges: list[Exchange] = []
        for index, (text, read) in enumerate(zip(texts, tokens, strict=True)):
            if isinstance(read, Tokens):
                places.append(index)
                exchanges.append(side.exchange(public, text, read))
            else:
                deliver(Outcome(index, text, error=read))

        async def on_end(i: int, failed: JobFailed | None) -> None:
            index, text = places[i], exchanges[i].text
            try:
                if failed is not None:
                    raise failed
                result = await self._in_thread(side.decrypt, public, exchanges[i])
                outcome = Outcome(index, text, result)
            except (InputError, JobFailed) as error:
                outcome = Outcome(index, text, error=error)
            deliver(outcome)

        await self._exchange_all(public, side, exchanges, on_end)

    async def classify_document(
        self, text: str, max_tokens: int | None = None, max_pieces: int | None = None
    ) -> DocumentClassification:
        """Classify one long text; arguments as `classify_documents`."""
        return (await self.classify_documents([text], max_tokens, max_pieces))[0]

    async def classify_documents(
        self,
        texts: Sequence[str],
        max_tokens: int | None = None,
        max_pieces: int | None = None,
    ) -> list[DocumentClassification]:
        """Classify long texts as `Classifier.classify_documents` says, each in one request.

        Tells how much is asked of the server before it is sent. Raises as `classify_many` does, and
        InputError for more pieces than the server's circuits add.
        """
        texts = as_texts(texts, "classify_documents")
        public = await self.public_model()
        documents = cut_documents(public, texts, max_tokens, max_pieces)
        tell_neutral(public, documents, self._observer)
        side = await self._prepared()
        exchanges = [
            side.exchange(public, text, document)
            for text, document in zip(texts, documents, strict=True)
        ]
        for document in documents:
            if len(document.pieces) < document.n_pieces:
                self._observer.note(document.describe())
        n_lookups = sum(task.n_lookups for exchange in exchanges for task in exchange.tasks)
        n_pieces = sum(len(document.pieces) for document in documents)
        self._observer.note(describe_cost(n_pieces, n_lookups, None))
        await self._exchange_all(public, side, exchanges)
        results = [await self._in_thread(side.decrypt, public, exchange) for exchange in exchanges]
        return cast(list[DocumentClassification], results)

    async def list_keys(self) -> list[KeysState]:
        """Return what the server has of all evaluation keys under this token, lost ones included.

        Raises RemoteError.
        """
        return await self._connection.list_keys()

    async def delete_keys(self, evaluation_keys: str) -> None:
        """Remove evaluation keys, known by their SHA-256, from the server."""
        await self._connection.delete_keys(evaluation_keys)

    async def _fetch(self) -> tuple[Path, PublicModel]:
        model = await self.connect()
        async with self._preparing:
            if self._fetched is None:
                folder = await fetch_files(
                    self._connection, model, self.options.cache_dir, self._setup
                )
                self._fetched = folder, await self._in_thread(PublicModel.load, folder)
                self._setup.stop()
            return self._fetched

    async def _prepared(self) -> ClientSide:
        folder = await self.make_keys()
        model = await self.connect()
        async with self._preparing:
            side = await self._accept(folder)
            if not self._evaluation_keys:
                await self._upload_keys(await self._load_keys(side, model), model)
            return side

    async def _accept(self, folder: Path) -> ClientSide:
        """Check the files of a model before it is pinned and keys for it are made or loaded."""
        if self._side is None:
            self._setup.begin("check circuits")
            self._side = await self._in_thread(ClientSide, folder)
            self._setup.stop()
        return self._side

    async def _load_keys(self, side: ClientSide, model: ModelInfo) -> bytes:
        """Load the model's keys; return those for evaluation."""
        self._setup.begin("load keys")
        digest, passphrase = model.circuits_hash, self.options.passphrase
        keys = await self._in_thread(self.keyring.load, side.client, digest, model.name, passphrase)
        self._setup.stop()
        return keys

    async def _upload_keys(self, keys: bytes, model: ModelInfo) -> None:
        """Send evaluation keys, unless the server has these: it knows them by their SHA-256."""
        self._setup.begin("send evaluation keys")
        digest = hashlib.sha256(keys).hexdigest()
        if await self._connection.find_keys(digest) is None:
            tell_crossing(self._observer, "evaluation keys", keys)
            await self._connection.upload_keys(keys, model, self._observer)
        self.evaluation_keys_bytes, self._evaluation_keys = len(keys), digest
        self._setup.stop()

    async def _exchange_all(
        self,
        public: PublicModel,
        side: ClientSide,
        exchanges: Sequence[Exchange],
        on_end: OnEnd | None = None,
    ) -> None:
        """Send all requests, at most `in_flight` of them unanswered, and receive all responses.

        on_end: is told the place of each exchange that is over, with the error if the server gave
        up on it; without one, that error is raised.
        """
        tasks = [task for exchange in exchanges for task in exchange.tasks]
        self._observer.plan(sum(task.n_lookups for task in tasks), "lookups")
        slots = anyio.Semaphore(self.options.in_flight)

        async def exchange_one(i: int) -> None:
            failed: JobFailed | None = None
            try:
                await self._exchange(side, exchanges[i])
            except JobFailed as error:
                if on_end is None:
                    raise
                failed = error
            slots.release()
            if on_end is not None:
                await on_end(i, failed)

        try:
            async with anyio.create_task_group() as group:
                for i, exchange in enumerate(exchanges):
                    await slots.acquire()
                    self._observer.begin("encrypt")
                    await self._in_thread(side.encrypt, public, exchange)
                    group.start_soon(exchange_one, i)
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _exchange(self, side: ClientSide, exchange: Exchange) -> None:
        def on_tasks_done(done: int, event: TaskEvent | None) -> None:
            self._observer.finish(exchange.note_task(done, event))
            left = exchange.tasks[exchange.tasks_done :]
            self._observer.begin(left[0].stage if left else "decrypt")

        key, model = uuid.uuid4().hex, await self.connect()
        job: Job | None = None

        async def submit() -> Job:
            return await self._connection.submit(
                exchange.request, model.circuits_hash, self._evaluation_keys, key
            )

        try:
            try:
                job = await submit()
            except NotFound:  # keys that weren't used for long are dropped
                await self._upload_keys(await self._in_thread(side.client.evaluation_keys), model)
                job = await submit()
            tell_crossing(self._observer, "request", exchange.request)
            self._observer.begin(exchange.tasks[0].stage)
            job = await self._connection.follow(job, on_tasks_done)
        except asyncio.CancelledError:
            with anyio.move_on_after(CANCEL_S, shield=True), suppress(RemoteError):
                # The server may have a job that it didn't name yet; the same key names it.
                await self._connection.delete_job((job or await submit()).id)
            raise
        if job.status is not Status.DONE:
            reason = job.message or job.error or "without a reason"
            raise JobFailed(f"the server gave up on a text, {job.status}: {reason}", job.error)
        exchange.response = await self._connection.result(job.id)
        tell_crossing(self._observer, "response", exchange.response)
        exchange.ended = time.perf_counter()

    async def _in_thread(self, call: Callable[..., Result], *arguments: Any) -> Result:
        async with self._in_use:
            return await anyio.to_thread.run_sync(call, *arguments)
