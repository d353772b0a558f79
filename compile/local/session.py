"""A session: text in, label out, with circuits made once per user and kept in a cache.

    with Session("inhibidistilbert-nano-sst2") as session:
        result = session.classify("a gripping , funny film")
    print(result.label, result.probability)

Client and server run in one process here, but speak in bytes alone, as they would over a network.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

import numpy as np

from compile.local.p_error import with_p_error
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.documents import (
    Document,
    cut_documents,
    describe_cost,
    document_logits,
    document_step,
    encode_pieces,
    mean_logits,
    neutral_of,
    tell_neutral,
)
from fhe_inhibitor.integer.model import DEFAULT_MODEL, IntegerModel
from fhe_inhibitor.integer.public import Tokens, as_texts
from fhe_inhibitor.runtime.classifier import (
    Classification,
    DocumentClassification,
    Outcome,
    of_document,
)
from fhe_inhibitor.runtime.costs import SessionCost
from fhe_inhibitor.runtime.keyring import Keyring
from fhe_inhibitor.system.child import silence_dependencies
from fhe_inhibitor.system.extras import needs
from fhe_inhibitor.system.machine import check_threads, peak_memory_bytes
from fhe_inhibitor.system.progress import Observer

if TYPE_CHECKING:
    from compile.local.backends import Answer, Backend, Encoded, Execution
    from fhe_inhibitor.cluster.executor import ClusterExecutor
    from fhe_inhibitor.cluster.options import Cluster
    from fhe_inhibitor.cluster.placement import Placement

MODES = ("disable", "simulate", "execute")


class Session:
    """Classifies texts; the first one prepares circuits and keys, or finds them. A `Classifier`.

    model: an `IntegerModel`, or the name or folder of one. mode: `disable` evaluates integers
    in the clear, `simulate` simulates encryption, `execute` encrypts. observer: is told of
    progress. passphrase: of the keys, if they are to be locked with one. cache_dir, keys_dir: see
    `system.folders`. benchmark: in mode `execute`, time one lookup of each width before the first
    text. That also unpacks the evaluation keys, which the first text's stages take seconds for
    otherwise. p_error: that of one lookup, "2^-20", "2^-40", "2^-64" or "2^-128"; the model's if
    None. cluster: whose workers run the tasks, this process if None. split: for how many workers
    the stages of each layer are cut into tasks; circuits of each split have keys of their own.

    Raises InputError for an unknown mode, model or p_error, and for a cluster where nothing is
    encrypted.
    """

    def __init__(
        self,
        model: IntegerModel | str | Path = DEFAULT_MODEL,
        mode: str = "execute",
        *,
        observer: Observer | None = None,
        passphrase: str | None = None,
        cache_dir: str | Path | None = None,
        keys_dir: str | Path | None = None,
        benchmark: bool = False,
        p_error: str | None = None,
        cluster: Cluster | None = None,
        split: int = 1,
    ) -> None:
        if mode not in MODES:
            raise InputError(f"unknown mode {mode!r}; wanted one of {', '.join(MODES)}")
        if cluster is not None and mode != "execute":
            raise InputError(f"a cluster runs ciphertexts, and mode {mode!r} has none: drop one")
        loaded = model if isinstance(model, IntegerModel) else IntegerModel.load(model)
        self.model = with_p_error(loaded, p_error)
        self.mode = mode
        self.keyring = Keyring(keys_dir)
        self._passphrase = passphrase
        self._cache_dir = cache_dir
        self._split = split
        self._observer = observer or Observer()
        self._backend: Backend | None = None
        self._benchmark = benchmark
        self._lookup_s: dict[int, float] = {}
        self._closed = False
        self._cluster = cluster
        self._executor: ClusterExecutor | None = None

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
        """Let go of circuits and keys, which take a gigabyte. A closed session can't be used."""
        self._backend, self._closed = None, True
        self._leave_cluster()

    def _leave_cluster(self) -> None:
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.close()

    def classify(
        self,
        text: str,
        max_tokens: int | None = None,
        strict: bool = False,
        resume: str | Path | None = None,
    ) -> Classification:
        """Classify one text; arguments as `classify_many`.

        resume: a folder that keeps the ciphertexts of each finished task, readable by the owner
        only, so that the same call goes on after the last one when this process was stopped. It is
        made if missing, and emptied when the label is there. Raises InputError in another mode than
        `execute`, for a folder that holds the run of another model, of other keys or of another
        text, or other files, and for one that others can look into.
        """
        self._check_resumable(resume)
        tokens = self.model.tokenize_many([text], max_tokens, strict, self._observer)
        return next(self._classify_each([text], tokens, resume))

    def _check_resumable(self, resume: str | Path | None) -> None:
        if resume is not None and self.mode != "execute":
            raise InputError(
                f"mode {self.mode!r} leaves nothing to resume: take mode 'execute', or no folder"
            )

    def classify_many(
        self, texts: Sequence[str], max_tokens: int | None = None, strict: bool = False
    ) -> list[Classification]:
        """Classify texts, one after the other, as `Classifier.classify_many` says."""
        texts = as_texts(texts, "classify_many")
        tokens = self.model.tokenize_many(texts, max_tokens, strict, self._observer)
        return list(self.classify_each(texts, tokens))

    def classify_apart(
        self,
        texts: Sequence[str],
        deliver: Callable[[Outcome], None],
        max_tokens: int | None = None,
        strict: bool = False,
    ) -> None:
        """Classify texts in their order, as `Classifier.classify_apart` says."""
        texts = as_texts(texts, "classify_apart")
        tokens = self.model.tokenize_each(texts, max_tokens, strict, self._observer)
        self._plan([self.model.encode(read)[0] for read in tokens if isinstance(read, Tokens)])
        for index, (text, read) in enumerate(zip(texts, tokens, strict=True)):
            if isinstance(read, InputError):
                deliver(Outcome(index, text, error=read))
                continue
            try:
                result = self._classify(text, read, encode_pieces(self.model, read))
                outcome = Outcome(index, text, result)
            except Exception as error:  # native code raises what it likes
                outcome = Outcome(index, text, error=error)
            deliver(outcome)

    def classify_each(
        self, texts: Sequence[str], tokens: Sequence[Tokens]
    ) -> Iterator[Classification]:
        """Classify texts as `IntegerModel.tokenize` read them, one whenever one is asked for."""
        return self._classify_each(texts, tokens)

    def classify_document(
        self,
        text: str,
        max_tokens: int | None = None,
        max_pieces: int | None = None,
        resume: str | Path | None = None,
    ) -> DocumentClassification:
        """Classify one long text; arguments as `classify_documents`, resume as `classify`."""
        self._check_resumable(resume)
        (document,) = cut_documents(self.model, [text], max_tokens, max_pieces)
        return next(self.classify_each_document([text], [document], resume))

    def classify_documents(
        self,
        texts: Sequence[str],
        max_tokens: int | None = None,
        max_pieces: int | None = None,
    ) -> list[DocumentClassification]:
        """Classify long texts, as `Classifier.classify_documents` says; tells what they will cost.

        Long documents have circuits and keys of their own, which are made, or found, at the first
        one. In mode `execute` one lookup of each width is timed first, to tell the seconds.
        """
        texts = as_texts(texts, "classify_documents")
        documents = cut_documents(self.model, texts, max_tokens, max_pieces)
        return list(self.classify_each_document(texts, documents))

    def classify_each_document(
        self,
        texts: Sequence[str],
        documents: Sequence[Document],
        resume: str | Path | None = None,
    ) -> Iterator[DocumentClassification]:
        """Classify texts as `cut_documents` cut them, one whenever one is asked for."""
        encoded = [encode_pieces(self.model, document) for document in documents]
        tell_neutral(self.model, documents, self._observer)
        if backend := self.prepare(any(len(pieces) > 1 for pieces in encoded)):
            self._tell_cost(backend, encoded)
        for text, document, pieces in zip(texts, documents, encoded, strict=True):
            if len(document.pieces) < document.n_pieces:
                self._observer.note(document.describe())
            yield of_document(
                self._classify(text, document, pieces, resume),
                tuple(piece.tokens for piece in document.pieces),
                document.n_pieces,
                neutral_of(self.model, document),
            )

    def _tell_cost(self, backend: Backend, encoded: Sequence[Sequence[Encoded]]) -> None:
        programs = [backend.manifest.program(len(p[0][0]), len(p)) for p in encoded]
        counts = sum((Counter(program.lookups) for program in programs), Counter[int]())
        if self.mode == "execute" and not self._lookup_s:
            self._measure(backend)
        seconds = sum(count * self._lookup_s.get(bits, 0.0) for bits, count in counts.items())
        n_pieces = sum(map(len, encoded))
        self._observer.note(
            describe_cost(n_pieces, counts.total(), seconds if self._lookup_s else None)
        )
        self._observer.plan(counts.total(), "lookups")

    def _measure(self, backend: Backend) -> None:
        self._observer.begin("time lookups")
        self._lookup_s = backend.measure_lookups()

    def _classify_each(
        self, texts: Sequence[str], tokens: Sequence[Tokens], resume: str | Path | None = None
    ) -> Iterator[Classification]:
        inputs = [encode_pieces(self.model, read) for read in tokens]
        self._plan([x for ((x, _),) in inputs])
        for text, read, pieces in zip(texts, tokens, inputs, strict=True):
            yield self._classify(text, read, pieces, resume)

    def _plan(self, inputs: Sequence[np.ndarray]) -> None:
        """Prepare, and tell the observer of the lookups of these inputs."""
        if backend := self.prepare():
            tasks = [task for x in inputs for task in backend.manifest.program(len(x)).tasks]
            self._observer.plan(sum(task.n_lookups for task in tasks), "lookups")

    def prepare(self, documents: bool = False) -> Backend | None:
        """Make circuits and keys, or find them; None in mode `disable`.

        documents: those that classify long documents too. The first text does it otherwise. Raises
        InputError if the cache or the keyring cannot be written, keys can't be read, or the
        environment lets Concrete not run.
        """
        if self._closed:
            raise InputError("this session is closed: make another one")
        fit = self._backend and (self._backend.manifest.documents or not documents)
        if not fit and self.mode != "disable":
            check_threads()
            # Here, because importing Concrete takes seconds that mode `disable` can spare.
            with warnings.catch_warnings():
                silence_dependencies()
                from compile.local.backends import Execution, Simulation
                from compile.local.prepared import prepare

            if self.mode == "simulate":
                self._backend = Simulation(
                    self.model, self._cache_dir, self._observer, documents, self._split
                )
                return self._backend
            prepared = prepare(
                self.model,
                self.keyring,
                self._passphrase,
                self._cache_dir,
                self._observer,
                documents,
                self._split,
            )
            self._backend = None  # it runs on the cluster that is left; joining may fail
            self._leave_cluster()
            if self._cluster is not None:
                with needs("cluster"):
                    from fhe_inhibitor.cluster.executor import ClusterExecutor

                keys = prepared.client.evaluation_keys()
                self._executor = ClusterExecutor(
                    self._cluster, prepared.folder, keys, self._observer
                )
            self._backend, self._lookup_s = Execution(self.model, prepared, self._executor), {}
            if self._benchmark:
                self._measure(self._backend)
        return self._backend

    @property
    def circuits_hash(self) -> str | None:
        """The hash of the circuits; None before `prepare`, and where nothing is encrypted."""
        return self._backend.circuits_hash if self._backend else None

    @property
    def placement(self) -> Placement | None:
        """What of the last text ran on which worker; None where it ran here."""
        return self._executor.placement if self._executor else None

    def cost(self) -> SessionCost:
        """Return what preparing cost, and the most memory that this process held.

        Of the circuits and keys that are in use now: those for long documents replace the others.
        """
        backend = self._backend
        return SessionCost(
            backend.setup if backend else (),
            backend.evaluation_keys_bytes if backend else 0,
            peak_memory_bytes(),
            self._lookup_s,
        )

    def _classify(
        self,
        text: str,
        read: Tokens | Document,
        pieces: Sequence[Encoded],
        resume: str | Path | None = None,
    ) -> Classification:
        clear = document_logits(self.model, pieces)
        start = time.perf_counter()
        answer = self._answer(pieces, resume)
        seconds = time.perf_counter() - start
        logits = answer.logits * document_step(self.model, len(pieces)) if answer else None
        found = clear if logits is None else logits
        if isinstance(read, Document):
            found = mean_logits(self.model, found, read)
        label, probability = self.model.label(found)
        return Classification(
            text=text,
            label=label,
            probability=probability,
            tokens=read.tokens,
            n_tokens=read.n_total,
            n_positions=len(pieces[0][0]),
            logits=None if logits is None else tuple(logits.tolist()),
            clear_logits=tuple(clear.tolist()),
            logit_scale=self.model.logit_scale,
            stages=answer.stages if answer else (),
            seconds=seconds,
            request_bytes=answer.request_bytes if answer else 0,
            response_bytes=answer.response_bytes if answer else 0,
        )

    def _answer(self, pieces: Sequence[Encoded], resume: str | Path | None) -> Answer | None:
        if self._backend is None:
            return None
        if resume is None:
            return self._backend.answer(pieces, self._observer)
        execution = cast("Execution", self._backend)  # `_check_resumable` refuses other modes
        return execution.resume(pieces, self._observer, resume)
