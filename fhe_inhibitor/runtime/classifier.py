"""What classifies texts, and what comes of one: the same in this process and on a server.

with Session() as classifier:                     # or RemoteClient(url, token)
    print(classifier.classify("a gripping , funny film").label)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Protocol, Self

from fhe_inhibitor.runtime.costs import StageCost


@dataclass(frozen=True)
class Classification:
    """What came of one text.

    tokens: those that the model read, of `n_tokens` that the text has. n_positions: length of
    the circuits it went through, which the server learns. logits: decrypted, in integer steps
    of `logit_scale`; None where nothing was encrypted. clear_logits: those of the integer model;
    None where only a server has it. probability: of `label`, from `logits` where there are any.
    stages: from encryption to decryption, with the wall time that the server says each took, 0 for
    one that it did not tell of. seconds: all of it, waiting included.
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


@dataclass(frozen=True)
class DocumentClassification(Classification):
    """What came of one long text.

    pieces: the tokens that the model read of each piece, of `n_pieces` that the text has. The
    server learns how many were read, and `n_positions`, the length of the circuits that each went
    through. logits, clear_logits: the sum over the pieces, in steps of `logit_scale`.
    neutral_logits: what a piece has on average, in the same steps. probability: of the mean over
    the pieces, less the neutral logits.
    """

    pieces: tuple[tuple[str, ...], ...]
    n_pieces: int
    neutral_logits: tuple[float, ...]

    @property
    def offset(self) -> tuple[float, ...]:
        """What is to be taken off the logits before the largest one says the label."""
        return tuple(len(self.pieces) * neutral for neutral in self.neutral_logits)


def of_document(
    result: Classification,
    pieces: tuple[tuple[str, ...], ...],
    n_pieces: int,
    neutral_logits: tuple[float, ...],
) -> DocumentClassification:
    """Return a result with what a long text has beside; arguments as in the class."""
    known = {part.name: getattr(result, part.name) for part in fields(result)}
    return DocumentClassification(
        **known, pieces=pieces, n_pieces=n_pieces, neutral_logits=neutral_logits
    )


@dataclass(frozen=True)
class Outcome:
    """What came of one of several texts: a result, or the error that it ended with.

    index: its place among the texts, from 0.
    """

    index: int
    text: str
    result: Classification | None = None
    error: Exception | None = None


class Classifier(Protocol):
    """Classifies texts; prepares what it needs at the first one, and is to be closed.

    `compile.local.session.Session` and `fhe_inhibitor.remote.client.RemoteClient` are such;
    `AsyncRemoteClient` has the same calls to await.
    """

    def classify(
        self, text: str, max_tokens: int | None = None, strict: bool = False
    ) -> Classification:
        """Classify one text; arguments as `classify_many`."""
        ...

    def classify_many(
        self, texts: Sequence[str], max_tokens: int | None = None, strict: bool = False
    ) -> list[Classification]:
        """Classify texts, in their order.

        max_tokens: tokens that the model reads of a text, its most important ones; the model's
        default if None. strict: refuse a text that has more instead of telling the observer.

        Raises InputError, before any work, for an empty text, one that is not Unicode, one that
        `strict` refuses, and a max_tokens that the model does not reach.
        """
        ...

    def classify_apart(
        self,
        texts: Sequence[str],
        deliver: Callable[[Outcome], None],
        max_tokens: int | None = None,
        strict: bool = False,
    ) -> None:
        """Classify texts, and tell `deliver` of each as soon as it is done, in whatever order.

        The error of one text, such as an empty one, is its outcome and stops no other. Arguments
        else as `classify_many`. Raises InputError for a max_tokens that the model does not reach,
        and what makes all texts fail, such as a server that is gone.
        """
        ...

    def classify_document(
        self, text: str, max_tokens: int | None = None, max_pieces: int | None = None
    ) -> DocumentClassification:
        """Classify one long text; arguments as `classify_documents`."""
        ...

    def classify_documents(
        self,
        texts: Sequence[str],
        max_tokens: int | None = None,
        max_pieces: int | None = None,
    ) -> list[DocumentClassification]:
        """Classify long texts, piece by piece; the pieces' logits are added under encryption.

        max_tokens: that the model reads of a piece. max_pieces: most pieces that are read of a
        text, evenly spread; 16 if None, which is the most that there can be.

        Raises InputError, before any work, as `classify_many` does, and for another max_pieces.
        """
        ...

    def close(self) -> None:
        """Let go of circuits, keys and connections. A closed classifier can't be used again."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
