"""A client of a server elsewhere: text in, label out, only ciphertexts in between.

    with RemoteClient("https://host:8765", token) as client:
        print(client.classify("a gripping , funny film").label)

The first text fetches the model's public files, makes keys, and uploads those for evaluation; all
three are kept, so later ones send a request and fetch a result. The secret key never leaves the
client. Nor does the server learn whether a decryption came out right: nothing is sent, or not
sent, because of what came out. `classify_many` decrypts when all has been received.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import anyio
from anyio.from_thread import BlockingPortal

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.public import PublicModel
from fhe_inhibitor.remote.async_client import CANCEL_S, AsyncRemoteClient
from fhe_inhibitor.remote.options import RemoteOptions
from fhe_inhibitor.runtime.classifier import Classification, DocumentClassification, Outcome
from fhe_inhibitor.runtime.costs import SessionCost
from fhe_inhibitor.runtime.protocol import KeysState, ModelInfo
from fhe_inhibitor.system.progress import Observer

__all__ = ["AsyncRemoteClient", "RemoteClient", "RemoteOptions"]

Result = TypeVar("Result")


class RemoteClient:
    """`AsyncRemoteClient` for programs without an event loop. A `Classifier`.

    It runs one in a thread of its own, started by the first call, where the observer is called; the
    thread ends with `close`, or with the program.
    Ctrl-C, or any other exception in a call, cancels what that call has on the server.
    """

    def __init__(
        self,
        server: str,
        token: str | None = None,
        options: RemoteOptions | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._client = AsyncRemoteClient(server, token, options, observer)
        self.keyring = self._client.keyring
        self._opened = ExitStack()
        self._portal: BlockingPortal | None = None
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread. A closed client can't be used again."""
        self._closed = True
        self._opened.close()

    @property
    def is_private(self) -> bool:
        """Whether nobody between client and server can read the token."""
        return self._client.is_private

    @property
    def evaluation_keys_bytes(self) -> int:
        """Size of the evaluation keys that the server has."""
        return self._client.evaluation_keys_bytes

    def cost(self) -> SessionCost:
        """Do `AsyncRemoteClient.cost`."""
        return self._client.cost()

    def connect(self) -> ModelInfo:
        """Do `AsyncRemoteClient.connect`."""
        return self._call(self._client.connect)

    def public_model(self) -> PublicModel:
        """Do `AsyncRemoteClient.public_model`."""
        return self._call(self._client.public_model)

    def make_keys(self) -> Path:
        """Do `AsyncRemoteClient.make_keys`."""
        return self._call(self._client.make_keys)

    def prepare(self) -> None:
        """Do `AsyncRemoteClient.prepare`."""
        self._call(self._client.prepare)

    def classify(
        self, text: str, max_tokens: int | None = None, strict: bool = False
    ) -> Classification:
        """Do `AsyncRemoteClient.classify`."""
        return self._call(lambda: self._client.classify(text, max_tokens, strict))

    def classify_many(
        self, texts: Sequence[str], max_tokens: int | None = None, strict: bool = False
    ) -> list[Classification]:
        """Do `AsyncRemoteClient.classify_many`."""
        return self._call(lambda: self._client.classify_many(texts, max_tokens, strict))

    def classify_apart(
        self,
        texts: Sequence[str],
        deliver: Callable[[Outcome], None],
        max_tokens: int | None = None,
        strict: bool = False,
    ) -> None:
        """Do `AsyncRemoteClient.classify_apart`; `deliver` is called where the observer is."""
        self._call(lambda: self._client.classify_apart(texts, deliver, max_tokens, strict))

    def classify_document(
        self, text: str, max_tokens: int | None = None, max_pieces: int | None = None
    ) -> DocumentClassification:
        """Do `AsyncRemoteClient.classify_document`."""
        return self._call(lambda: self._client.classify_document(text, max_tokens, max_pieces))

    def classify_documents(
        self,
        texts: Sequence[str],
        max_tokens: int | None = None,
        max_pieces: int | None = None,
    ) -> list[DocumentClassification]:
        """Do `AsyncRemoteClient.classify_documents`."""
        return self._call(lambda: self._client.classify_documents(texts, max_tokens, max_pieces))

    def list_keys(self) -> list[KeysState]:
        """Do `AsyncRemoteClient.list_keys`."""
        return self._call(self._client.list_keys)

    def delete_keys(self, evaluation_keys: str) -> None:
        """Do `AsyncRemoteClient.delete_keys`."""
        self._call(lambda: self._client.delete_keys(evaluation_keys))

    def _open(self) -> BlockingPortal:
        if self._closed:
            raise InputError("this client is closed: make another one")
        if self._portal is None:
            portal, thread = _run_portal()
            self._portal = portal
            self._opened.callback(thread.join)
            self._opened.callback(lambda: portal.call(portal.stop))
            self._opened.enter_context(self._portal.wrap_async_context_manager(self._client))
        return self._portal

    def _call(self, call: Callable[[], Awaitable[Result]]) -> Result:
        ended = threading.Event()

        async def run() -> Result:
            try:
                return await call()
            finally:
                ended.set()

        future = self._open().start_task_soon(run)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            ended.wait(2 * CANCEL_S)
            raise


def _run_portal() -> tuple[BlockingPortal, threading.Thread]:
    """Return the way into an event loop, and the thread that it runs in until the portal stops.

    The thread is a daemon, unlike that of anyio's `start_blocking_portal`: a program that forgot to
    close its client ends all the same.
    """
    started: Future[BlockingPortal] = Future()

    async def run() -> None:
        async with BlockingPortal() as portal:
            started.set_result(portal)
            await portal.sleep_until_stopped()

    thread = threading.Thread(target=anyio.run, args=(run,), name="remote client", daemon=True)
    thread.start()
    return started.result(), thread
