"""Long documents: a text in pieces that the model reads one by one, and one label for all.

    text -> sentences -> pieces of at most 4 n tokens     sentences stay whole if they fit
         -> at most max_pieces of them, evenly spread     a rule that looks at no word
         -> of each the n most important tokens, padded to one length
    sum of scores -> mean logits of a piece, less neutral ones -> label

The circuits' side is `circuits.documents`. Neutral logits are what a piece of such documents has on
average: most of a long text is told without an opinion, and the model leans to one side there. They
are measured on documents without labels (`measure_neutral`). A text of one piece is classified as
any other text.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from circuits.counts import count_document_lookups, count_lookups
from circuits.documents import MAX_PIECES, run_document, scoring
from circuits.lookups import Lookup, exact_lookup
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.integer.public import PublicModel, Tokens, as_texts
from fhe_inhibitor.runtime.manifest import NEUTRAL_FILE
from fhe_inhibitor.system.files import write_atomically
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.text.markup import without_markup

PIECE = 4  # how many times as many tokens a piece has as are read of it, at most
# A blank line, or two tags in a row, end one too; a line doesn't.
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[.!?][\"')\]])\s+|\s{2,}")


@dataclass(frozen=True)
class Document:
    """A text in pieces. pieces: what the model reads of each. n_pieces: how many the text has.

    n_total: tokens of all of the text.
    """

    pieces: tuple[Tokens, ...]
    n_pieces: int
    n_total: int

    @property
    def tokens(self) -> tuple[str, ...]:
        """All tokens that are read."""
        return tuple(token for piece in self.pieces for token in piece.tokens)

    def describe(self) -> str:
        """Return a line for the user about what is read."""
        return (
            f"{len(self.pieces)} of {self.n_pieces} pieces are read, {len(self.tokens)} of "
            f"{self.n_total} tokens"
        )


def cut_documents(
    model: PublicModel,
    texts: Sequence[str],
    max_tokens: int | None = None,
    max_pieces: int | None = None,
) -> list[Document]:
    """Cut texts into pieces.

    max_tokens: that are read of a piece; the model's default if None. max_pieces: most pieces that
    are read of a text, 1 to `MAX_PIECES`, which is the default. Raises InputError as
    `PublicModel.tokenize` does, and for another max_pieces; TypeError for a single string.
    """
    texts = as_texts(texts, "classify_documents")
    limit = MAX_PIECES if max_pieces is None else max_pieces
    if not (isinstance(limit, int | np.integer) and 1 <= limit <= MAX_PIECES):
        raise InputError(f"{limit!r} pieces asked for; wanted 1 to {MAX_PIECES}")
    documents = []
    for number, text in enumerate(texts, start=1):
        try:
            documents.append(_cut(model, text, max_tokens, limit))
        except InputError as error:
            if len(texts) == 1:
                raise
            raise InputError(f"text {number} of {len(texts)}: {error}") from error
    return documents


def encode_pieces(
    model: PublicModel, read: Document | Tokens
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return what the client encrypts: x int64 `[n, dim]` and padding int64 `[n]` of each piece.

    n is the same for all: the sequence length that holds the longest. What is read as one text is
    one piece.
    """
    pieces = read.pieces if isinstance(read, Document) else (read,)
    n = max(model.bucket(len(piece.ids)) for piece in pieces)
    return [model.encode(piece, n) for piece in pieces]


def document_logits(
    model: IntegerModel,
    pieces: Sequence[tuple[np.ndarray, np.ndarray]],
    lookup: Lookup = exact_lookup,
) -> np.ndarray:
    """Evaluate a document in the clear, as it is evaluated encrypted: int64 `[n_labels]`, steps.

    pieces: of `encode_pieces`. Of one piece the logits, of several the sum over all.
    """
    if len(pieces) == 1:
        return model.integer_logits(*pieces[0], lookup)
    return run_document(model.network, pieces, lookup) * document_step(model, len(pieces))


def document_step(model: IntegerModel, pieces: int) -> int:
    """Return how many logit steps 1 is worth in a sum of so many pieces; 1 where there is one."""
    return scoring(model.network).step if pieces > 1 else 1


def count_lookups_of(model: IntegerModel, document: Document) -> Counter[int]:
    """Return the lookups that a document takes encrypted, by bit width."""
    n = len(encode_pieces(model, document)[0][0])
    stages = count_lookups(model.network, n)
    if len(document.pieces) > 1:
        del stages["classify"]
        stages |= count_document_lookups(model.network)
    once = sum(stages.values(), Counter[int]())
    return Counter({bits: number * len(document.pieces) for bits, number in once.items()})


def neutral_of(model: PublicModel, document: Document) -> tuple[float, ...]:
    """Return what is to be taken off the mean logits of a document: nothing if it has one piece."""
    return model.neutral_logits if document.n_pieces > 1 else ()


def mean_logits(model: PublicModel, logits: np.ndarray, document: Document) -> np.ndarray:
    """Return the logits of a piece on average, less the neutral ones: float64 `[n_labels]`, steps.

    logits: `[n_labels]`, the sum over the pieces that are read, in steps.
    """
    mean = np.asarray(logits, np.float64) / len(document.pieces)
    neutral = neutral_of(model, document)
    return mean - np.asarray(neutral) if neutral else mean


def measure_neutral(
    model: IntegerModel,
    texts: Sequence[str],
    max_tokens: int | None = None,
    observer: Observer | None = None,
) -> tuple[float, ...]:
    """Return the mean logits of a piece over documents, of all classes in like numbers.

    In steps, without the noise of encrypted rounding. Texts of one piece don't count. Raises
    InputError if no text is longer.
    """
    total, count = np.zeros(len(model.labels)), 0
    for document in cut_documents(model, texts, max_tokens):
        pieces = encode_pieces(model, document)
        if len(pieces) > 1:
            total += document_logits(model, pieces)
            count += len(pieces)
        if observer:
            observer.finish(1)
    if not count:
        raise InputError(
            f"none of {len(texts)} texts is longer than one piece: pass some that are, of all "
            "labels in like numbers"
        )
    return tuple(round(float(value), 3) for value in total / count)


def tell_neutral(model: PublicModel, documents: Sequence[Document], observer: Observer) -> None:
    """Tell of a model whose neutral logits weren't measured: it leans to one side."""
    if not model.neutral_logits and any(document.n_pieces > 1 for document in documents):
        observer.note(
            f"{model.name} has no neutral logits, so long texts may lean to one label: "
            "fhe-inhibitor calibrate measures them"
        )


def describe_cost(n_pieces: int, n_lookups: int, seconds: float | None) -> str:
    """Return a line for the user about what is ahead; seconds: None where nobody can tell.

    >>> describe_cost(9, 12345, 80.2)
    '9 pieces to classify, 12,345 lookups, about 1 min 20 s'
    """
    pieces = "1 piece" if n_pieces == 1 else f"{n_pieces} pieces"
    about = "" if seconds is None else f", about {_duration(seconds)}"
    return f"{pieces} to classify, {n_lookups:,} lookups{about}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{hours} h"] * (hours > 0) + [f"{minutes} min"] * (minutes > 0)
    return " ".join(parts + [f"{rest} s"] * (not hours))


def write_neutral(folder: Path, model: IntegerModel, neutral: Sequence[float], data: str) -> None:
    """Write neutral logits beside a checkpoint, whose hash they name; data: what they come from."""
    content = {"model_hash": model.hash, "neutral_logits": list(neutral), "data": data}
    write_atomically(folder / NEUTRAL_FILE, json.dumps(content, indent=1) + "\n")


def _cut(model: PublicModel, text: str, max_tokens: int | None, max_pieces: int) -> Document:
    whole = model.tokenize(text, max_tokens)  # refuses what is no text
    n_read = model.token_limit(max_tokens) - (model.cls_token_id is not None)
    pieces = _pieces(model, text, PIECE * n_read)
    chosen = [pieces[index] for index in _spread(len(pieces), max_pieces)]
    read = tuple(model.read(ids, tokens, max_tokens) for ids, tokens in chosen)
    return Document(read, len(pieces), whole.n_total)


def _pieces(
    model: PublicModel, text: str, longest: int
) -> list[tuple[np.ndarray, tuple[str, ...]]]:
    """Return ids and strings of successive pieces: as many whole sentences as fit in each."""
    parts: list[tuple[list[int], list[str]]] = []
    for sentence in SENTENCE_END.split(without_markup(text)):
        encoding = model.tokenizer.encode(sentence, add_special_tokens=False)
        n = len(encoding.ids)
        if not n:
            continue
        count = -(-n // longest)
        ends = [round(n * index / count) for index in range(count + 1)]
        for low, high in zip(ends, ends[1:], strict=False):
            if not parts or len(parts[-1][0]) + high - low > longest:
                parts.append(([], []))
            parts[-1][0].extend(encoding.ids[low:high])
            parts[-1][1].extend(encoding.tokens[low:high])
    return [(np.asarray(ids, dtype=np.int64), tuple(tokens)) for ids, tokens in parts]


def _spread(n: int, limit: int) -> list[int]:
    """Return at most `limit` of n places, evenly spread, both ends among them.

    >>> _spread(3, 5), _spread(9, 3), _spread(9, 1)
    ([0, 1, 2], [0, 4, 8], [4])
    """
    if n <= limit:
        return list(range(n))
    if limit == 1:
        return [n // 2]
    return [round(index * (n - 1) / (limit - 1)) for index in range(limit)]
