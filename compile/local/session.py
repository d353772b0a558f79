"""A session: text in, label out, with circuits and keys made once and kept in a cache.

    session = Session("inhibidistilbert-nano-sst2")
    result = session.classify("a gripping , funny film")
    print(result.label, result.probability)

Client and server run in one process here, but speak in bytes alone, as they would over a network.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import DEFAULT_MODEL, IntegerModel
from fhe_inhibitor.integer.public import Tokens
from fhe_inhibitor.runtime.costs import SessionCost, StageCost
from fhe_inhibitor.system.machine import peak_memory_bytes
from fhe_inhibitor.system.progress import Observer

if TYPE_CHECKING:
    from compile.local.backends import Backend

MODES = ("disable", "simulate", "execute")


@dataclass(frozen=True)
class Classification:
    """What came of one text.

    tokens: those that the model read, of `n_tokens` that the text has. n_positions: length of
    the circuits it went through, which the server learns. logits: decrypted, in integer steps
    of `logit_scale`; None in mode `disable`. clear_logits: those of the integer model; None
    where only a server has it.
    probability: of `label`, from `logits` where there are any. stages: from encryption to
    decryption; `seconds` is their wall time.
    """

    text: str
    label: str
    probability: float
    tokens: tuple[str, ...]
    n_tokens: int
    n_positions: int
    logits: tuple[int, ...] | None
    clear_logits: tuple[int, ...] | None
    logit_scale: float
    stages: tuple[StageCost, ...]
    seconds: float
    request_bytes: int
    response_bytes: int


class Session:
    """Classifies texts; the first one prepares circuits and keys, or finds them in the cache.

    model: an `IntegerModel`, or the name or folder of one. mode: `disable` evaluates integers
    in the clear, `simulate` simulates encryption, `execute` encrypts. cache_dir: see
    `system.folders.cache_root`. observer: hears of progress. benchmark: in mode `execute`, time
    one lookup of each width before the first text. That also unpacks the evaluation keys, which
    the first text's stages take seconds for otherwise.

    Raises InputError for an unknown mode or model.
    """

    def __init__(
        self,
        model: IntegerModel | str | Path = DEFAULT_MODEL,
        mode: str = "execute",
        cache_dir: str | Path | None = None,
        observer: Observer | None = None,
        benchmark: bool = False,
    ) -> None:
        if mode not in MODES:
            raise InputError(f"unknown mode {mode!r}; wanted one of {', '.join(MODES)}")
        self.model = model if isinstance(model, IntegerModel) else IntegerModel.load(model)
        self.mode = mode
        self._cache_dir = cache_dir
        self._observer = observer or Observer()
        self._backend: Backend | None = None
        self._benchmark = benchmark
        self._lookup_s: dict[int, float] = {}

    def classify(
        self, text: str, max_tokens: int | None = None, strict: bool = False
    ) -> Classification:
        """Classify one text; arguments as `classify_many`."""
        return self.classify_many([text], max_tokens, strict)[0]

    def classify_many(
        self, texts: Sequence[str], max_tokens: int | None = None, strict: bool = False
    ) -> list[Classification]:
        """Classify texts, one after the other.

        max_tokens: tokens that the model reads of a text, its most important ones; the model's
        default if None. strict: refuse a text that has more instead of telling the observer.

        Raises InputError, before any work, for an empty text, one that is not Unicode, one that
        `strict` refuses, and a max_tokens that the model does not reach.
        """
        tokens = [self._tokenize(text, max_tokens, strict) for text in texts]
        inputs = [self.model.encode(read) for read in tokens]
        backend = self.prepare()
        if backend:
            tasks = [task for x, _ in inputs for task in backend.manifest.program(len(x)).tasks]
            self._observer.plan(sum(task.n_lookups for task in tasks), "lookups")
        return [
            self._classify(text, read, *encoded)
            for text, read, encoded in zip(texts, tokens, inputs, strict=True)
        ]

    def prepare(self) -> Backend | None:
        """Make circuits and keys or find them in the cache; None in mode `disable`.

        The first text does it otherwise. Raises InputError if the cache cannot be written.
        """
        if self._backend is None and self.mode != "disable":
            # Here, because importing Concrete takes seconds that mode `disable` can spare.
            from compile.local.backends import Execution, Simulation

            if self.mode == "execute":
                self._backend = Execution(self.model, self._cache_dir, self._observer)
                if self._benchmark:
                    self._observer.begin("time lookups")
                    self._lookup_s = self._backend.measure_lookups()
            else:
                self._backend = Simulation(self.model, self._observer)
        return self._backend

    def cost(self) -> SessionCost:
        """Return what the session cost so far beyond its texts."""
        backend = self._backend
        return SessionCost(
            backend.setup if backend else (),
            backend.evaluation_keys_bytes if backend else 0,
            peak_memory_bytes(),
            self._lookup_s,
        )

    def _tokenize(self, text: str, max_tokens: int | None, strict: bool) -> Tokens:
        tokens = self.model.tokenize(text, max_tokens, strict)
        if tokens.n_cut:
            self._observer.note(tokens.describe_cut())
        return tokens

    def _classify(
        self, text: str, tokens: Tokens, x: np.ndarray, padding: np.ndarray
    ) -> Classification:
        clear = self.model.integer_logits(x, padding)
        start = time.perf_counter()
        answer = self._backend.answer(x, padding, self._observer) if self._backend else None
        seconds = time.perf_counter() - start
        probabilities = self.model.probabilities(answer.logits if answer else clear)
        best = int(probabilities.argmax())
        return Classification(
            text=text,
            label=self.model.labels[best],
            probability=float(probabilities[best]),
            tokens=tokens.tokens,
            n_tokens=tokens.n_total,
            n_positions=len(x),
            logits=tuple(answer.logits.tolist()) if answer else None,
            clear_logits=tuple(clear.tolist()),
            logit_scale=self.model.logit_scale,
            stages=answer.stages if answer else (),
            seconds=seconds,
            request_bytes=answer.request_bytes if answer else 0,
            response_bytes=answer.response_bytes if answer else 0,
        )
