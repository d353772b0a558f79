"""The classifier of the page: in a process of its own, one text after the other.

Concrete holds Python's interpreter lock for seconds and may end its process; the web server must go
on. The process is made by a thread that lives as long as the engine, because it ends with that
thread. A text that nobody wants any more ends the process; the next one starts another, which finds
circuits and keys.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fhe_inhibitor.app.run import Crossing, Run
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.remote.options import RemoteOptions
from fhe_inhibitor.runtime.classifier import Classification
from fhe_inhibitor.system.cache import remove_unfinished
from fhe_inhibitor.system.child import Child, ChildError, ends_on_request
from fhe_inhibitor.system.progress import Observer

if TYPE_CHECKING:
    from compile.local.session import Session
    from fhe_inhibitor.remote.client import RemoteClient

KEYS = "evaluation keys"


@dataclass(frozen=True)
class Here:
    """Both sides in one process. Arguments as those of `Session`."""

    model: str
    p_error: str | None = None
    passphrase: str | None = field(default=None, repr=False)

    def open(self, observer: Observer) -> Session:
        """Return a session. Raises InputError as it does."""
        from compile.local.session import Session

        return Session(
            self.model, observer=observer, passphrase=self.passphrase, p_error=self.p_error
        )


@dataclass(frozen=True)
class There:
    """The layers on a server. Arguments as those of `RemoteClient`."""

    server: str
    token: str | None = field(repr=False)
    options: RemoteOptions

    def open(self, observer: Observer) -> RemoteClient:
        """Return a client. Raises InputError as it does."""
        import stamina.instrumentation

        from fhe_inhibitor.remote.client import RemoteClient

        ends_on_request()
        stamina.instrumentation.set_on_retry_hooks(())  # what is tried again is no news
        return RemoteClient(self.server, self.token, self.options, observer)


class Passing(Observer):
    """Passes on what it is told to whoever asks at the moment."""

    def __init__(self) -> None:
        self.to = Observer()

    def note(self, message: str) -> None:
        self.to.note(message)

    def plan(self, amount: int, unit: str) -> None:
        self.to.plan(amount, unit)

    def begin(self, step: str) -> None:
        self.to.begin(step)

    def finish(self, amount: int) -> None:
        self.to.finish(amount)

    def cross(self, what: str, n_bytes: int, first: bytes) -> None:
        self.to.cross(what, n_bytes, first)


class Classifying:
    """What the process does: opens the classifier once, and calls it."""

    def __init__(self, source: Here | There) -> None:
        self._observer = Passing()
        self._classifier = source.open(self._observer)

    def prepare(self, observer: Observer) -> int:
        """Make or find circuits and keys; return the size of the evaluation keys."""
        self._observer.to = observer
        self._classifier.prepare()
        return self._classifier.cost().evaluation_keys_bytes

    def classify(self, observer: Observer, text: str, max_tokens: int) -> Classification:
        """Classify one text."""
        self._observer.to = observer
        return self._classifier.classify(text, max_tokens)


class Engine:
    """Classifies texts in the order in which they come. `close` it.

    keys: what the server got of evaluation keys, once `prepare` has returned; without the first
    bytes if it had them before.
    """

    def __init__(self, source: Here | There) -> None:
        self.source = source
        self.keys = Crossing(0, b"")
        self._child: Child | None = None
        self._running: Run | None = None
        self._waiting: dict[Run, Future[None]] = {}
        self._closed = False
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="classifier")

    def prepare(self, observer: Observer) -> None:
        """Make or find circuits and keys. Raises what `Session.prepare` or `RemoteClient` does."""
        self._thread.submit(self._prepare, observer).result()

    def start(self, text: str, max_tokens: int) -> Run:
        """Classify a text when its turn comes; follow the run that is returned."""
        run = Run()
        with self._lock:
            self._waiting[run] = self._thread.submit(self._classify, run, text, max_tokens)
        return run

    def stop(self, run: Run) -> None:
        """End a run, unless it has ended."""
        with self._lock:
            if (waiting := self._waiting.pop(run, None)) is not None:
                waiting.cancel()
            if self._running is run and self._child is not None:
                self._child.stop()

    def close(self) -> None:
        """End all of it."""
        with self._lock:
            self._closed = True
            child = self._child
        if child is not None:
            child.stop()
        self._thread.shutdown(cancel_futures=True)

    def _prepare(self, observer: Observer) -> None:
        with self._lock:
            if self._closed:  # a text that waited, and whose process was stopped
                raise ChildError("the page was closed")
            self._child = Child(Classifying, self.source)
        passing = _Keys(observer)
        n_bytes = self._call("prepare", observer=passing)
        self.keys = passing.keys or Crossing(n_bytes, self.keys.first)

    def _classify(self, run: Run, text: str, max_tokens: int) -> None:
        with self._lock:
            self._running = run
        run.start()
        try:
            if self._child is None:
                self._prepare(run)
            run.end(self._call("classify", text, max_tokens, observer=run), None)
        except InputError as error:
            run.end(None, str(error))
        except ChildError as error:
            run.end(None, f"This text could not be classified: {error}")
        finally:
            with self._lock:
                self._running = None
                self._waiting.pop(run, None)

    def _call(self, method: str, *arguments: Any, observer: Observer) -> Any:
        """Call the process; one that failed is ended, and the next text starts another."""
        assert self._child is not None
        try:
            may_wait = isinstance(self.source, There)
            return self._child.call(method, *arguments, observer=observer, may_wait=may_wait)
        except InputError:
            raise
        except BaseException as error:
            with self._lock:
                self._child.close()
                self._child = None
            remove_unfinished()
            if isinstance(error, OSError):  # the process was stopped while it was heard
                raise ChildError("it was stopped") from error
            raise


class _Keys(Passing):
    """Passes all on, and keeps what was told of the evaluation keys."""

    def __init__(self, to: Observer) -> None:
        super().__init__()
        self.to = to
        self.keys: Crossing | None = None

    def cross(self, what: str, n_bytes: int, first: bytes) -> None:
        if what == KEYS:
            self.keys = Crossing(n_bytes, first)
        super().cross(what, n_bytes, first)
