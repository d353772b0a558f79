"""The public part of a model: text to integers, logits to a label, nothing of what is encrypted.

    text -> tokens -> the n most important by a public list -> integers      before encryption
    integer logits -> probabilities -> label                                 after decryption

A client needs this and the circuits' specifications; the weights stay with the server. It is
written as two plain files, which run no code when they are read, and needs no torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from circuits.linear import Linear, linear
from circuits.lookups import exact_lookup
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer import format as integer_format
from fhe_inhibitor.runtime.manifest import EMBEDDING_FILE, TOKENIZER_FILE
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.text.data import is_visible
from fhe_inhibitor.text.markup import without_markup

UNKNOWN = "[UNK]"  # the entry of a vocabulary that stands for whatever it lacks


@dataclass(frozen=True)
class Tokens:
    """The tokens of a text that the model reads, in the text's order.

    ids: int64 `[n]`. tokens: their strings. n_total: tokens that the text has. n_cut: how many
    of those were left out.
    """

    ids: np.ndarray
    tokens: tuple[str, ...]
    n_total: int

    @property
    def n_cut(self) -> int:
        """Tokens of the text that the model doesn't read."""
        return self.n_total - len(self.tokens)

    def describe_cut(self) -> str:
        """Return a line for the user about what was left out."""
        return (
            f"{self.n_cut} of {self.n_total} tokens are cut, the {len(self.tokens)} most "
            f"important are read: {' '.join(self.tokens)}"
        )


@dataclass(frozen=True)
class PublicModel:
    """What a client knows of a model.

    embedding: int8 `[vocab, dim]` and positions: int8 `[n_tokens or 0, dim]`, in steps of the
    network's input. importance: float32 `[vocab]`, public; all 0 keeps the first tokens.
    logit_scale: factor from integer to real logits. input_range: of what is encrypted, ends
    included. first_projections: by ciphertext name, the projections of the first layer that are
    public too; empty unless the client's boundary is "projection". first_query_only: whether
    the query among them is the first position's alone, or the last's of a causal model.
    neutral_logits: of a piece of a long document on average, in steps; empty where nobody measured
    them (`integer.documents`). causal: whether the last position is what is classified; padding
    then comes before the tokens, and of equally important tokens the last ones are kept.
    """

    name: str
    labels: tuple[str, ...]
    embedding: np.ndarray
    positions: np.ndarray
    importance: np.ndarray
    tokenizer: Tokenizer
    cls_token_id: int | None
    logit_scale: float
    buckets: tuple[int, ...]
    default_tokens: int
    input_range: tuple[int, int]
    first_projections: Mapping[str, Linear]
    first_query_only: bool
    neutral_logits: tuple[float, ...] = field(default=(), kw_only=True)
    causal: bool = field(default=False, kw_only=True)

    @classmethod
    def load(cls, folder: str | Path) -> PublicModel:
        """Load what `write_public` wrote.

        Raises InputError for a missing or damaged file, or files that don't fit each other.
        """
        path = Path(folder) / EMBEDDING_FILE
        parameters, _ = integer_format.read(path)
        tokenizer = read_tokenizer(Path(folder) / TOKENIZER_FILE)
        try:
            model = PublicModel(tokenizer=tokenizer, **parameters)
        except TypeError as error:
            raise InputError(f"{path} lacks or adds a part: {error}") from error
        if tokenizer.get_vocab_size() != len(model.embedding):
            raise InputError(
                f"{folder}: {TOKENIZER_FILE} has {tokenizer.get_vocab_size()} tokens, the "
                f"embedding {len(model.embedding)}: files of different models"
            )
        return model

    def write_public(self, folder: str | Path, documents: bool = False) -> None:
        """Write the public part to a folder, two files; equal models give equal bytes.

        documents: with what long documents alone need.
        """
        apart = {"tokenizer"} if documents else {"tokenizer", "neutral_logits"}
        if not self.causal:  # a later field: what is written without it stays what it was
            apart.add("causal")
        names = [part.name for part in fields(PublicModel) if part.name not in apart]
        integer_format.write(
            Path(folder) / EMBEDDING_FILE, {name: getattr(self, name) for name in names}
        )
        self.tokenizer.save(os.fspath(Path(folder) / TOKENIZER_FILE), pretty=False)

    @property
    def max_tokens(self) -> int:
        """Most tokens that the model reads."""
        return self.buckets[-1]

    def tokenize(self, text: str, max_tokens: int | None = None, strict: bool = False) -> Tokens:
        """Return the tokens of a text, the most important ones if there are too many.

        HTML's tags and entities are read as what they stand for (`text.markup`). max_tokens:
        `default_tokens` if None. strict: refuse a text that has more. Raises InputError for such a
        text, one without tokens, one that is no Unicode, and for a max_tokens that the model
        doesn't reach; TypeError for what is no string.
        """
        if not isinstance(text, str):
            raise TypeError(f"a text is a string, not {type(text).__name__}: {ascii(text)[:60]}")
        limit = self.token_limit(max_tokens)
        first = 0 if self.cls_token_id is None else 1
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError(f"the text {ascii(text)} is not UTF-8; pass UTF-8") from None
        plain = without_markup(text)
        encoding = self.tokenizer.encode(plain, add_special_tokens=False)
        if not (encoding.ids and is_visible(plain)):
            raise InputError("the text is empty: pass a sentence with at least one word")
        ids = np.asarray(encoding.ids, dtype=np.int64)
        if strict and limit - first < len(ids):
            raise InputError(
                f"the text has {len(ids)} tokens, {limit - first} would be read; shorten it, ask "
                f"for more tokens (at most {self.max_tokens}), or drop strict"
            )
        return self.read(ids, encoding.tokens, limit)

    def read(self, ids: np.ndarray, tokens: Sequence[str], max_tokens: int | None = None) -> Tokens:
        """Return the most important of some tokens, for a max_tokens that `tokenize` takes.

        ids: int64 `[n]`; tokens: their strings.
        """
        limit = self.default_tokens if max_tokens is None else max_tokens
        first = 0 if self.cls_token_id is None else 1
        kept = most_important(self.importance[ids], limit - first, last=self.causal)
        strings = tuple(_readable(tokens[i]) for i in kept)
        n_total, ids = len(ids), ids[kept]
        if self.cls_token_id is not None:
            ids = np.concatenate([[self.cls_token_id], ids])
        return Tokens(ids, strings, n_total)

    def token_limit(self, max_tokens: int | None) -> int:
        """Return how many tokens are read: max_tokens, `default_tokens` if that is None.

        Raises InputError for a max_tokens that the model doesn't reach.
        """
        limit = self.default_tokens if max_tokens is None else max_tokens
        first = 0 if self.cls_token_id is None else 1
        whole = isinstance(limit, int | np.integer)
        if not (whole and 1 + first <= limit <= self.max_tokens):
            raise InputError(
                f"{limit!r} tokens asked for, {self.name} reads {1 + first} to {self.max_tokens}"
            )
        return limit

    def tokenize_each(
        self, texts: Sequence[str], max_tokens: int | None, strict: bool, observer: Observer
    ) -> list[Tokens | InputError]:
        """Do `tokenize_many`, but with the error of a text in the place of its tokens.

        Raises InputError for a max_tokens that the model doesn't reach.
        """
        texts = as_texts(texts, "classify_apart")
        self.token_limit(max_tokens)
        tokens: list[Tokens | InputError] = []
        for text in texts:
            try:
                tokens.append(self.tokenize(text, max_tokens, strict))
            except InputError as error:
                tokens.append(error)
        for number, read in enumerate(tokens, start=1):
            for said in self.describe_unread(read) if isinstance(read, Tokens) else ():
                observer.note(f"text {number} of {len(tokens)}: {said}")
        return tokens

    def tokenize_many(
        self, texts: Sequence[str], max_tokens: int | None, strict: bool, observer: Observer
    ) -> list[Tokens]:
        """Return the tokens of each text as `tokenize` does; tells the observer what was cut.

        Raises TypeError for a single string, whose letters are no texts, and InputError that says
        which of several texts is bad.
        """
        texts = as_texts(texts, "classify_many")
        tokens = []
        for number, text in enumerate(texts, start=1):
            try:
                tokens.append(self.tokenize(text, max_tokens, strict))
            except InputError as error:
                if len(texts) == 1:
                    raise
                raise InputError(f"text {number} of {len(texts)}: {error}") from error
        for read in tokens:
            for said in self.describe_unread(read):
                observer.note(said)
        return tokens

    def describe_unread(self, read: Tokens) -> list[str]:
        """Return a line for the user if tokens were left out, and one if the others are unknown."""
        said = [read.describe_cut()] if read.n_cut else []
        own = read.ids[len(read.ids) - len(read.tokens) :]  # without [CLS]
        unknown = self.tokenizer.token_to_id(UNKNOWN)
        if unknown is not None and (own == unknown).all():
            said.append(
                f"{self.name} knows no token of the text, so its label says nothing: "
                f"{' '.join(read.tokens)}"
            )
        return said

    def bucket(self, n: int) -> int:
        """Return the smallest sequence length of a circuit that holds n tokens."""
        return min(bucket for bucket in self.buckets if bucket >= n)

    def encode(self, tokens: Tokens, bucket: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return what the client encrypts: x int64 `[bucket, dim]`, padding int64 `[bucket]`.

        Padded positions are 0 in x and 1 in padding; they come after the tokens, or before them if
        the model is causal. bucket: the smallest that holds them if None.
        """
        n = len(tokens.ids)
        bucket = self.bucket(n) if bucket is None else bucket
        x = self.embedding[tokens.ids].astype(np.int64)
        if len(self.positions):
            x = x + self.positions[:n]
        low, high = self.input_range
        padded = np.zeros((bucket, x.shape[1]), dtype=np.int64)
        padding = np.ones(bucket, dtype=np.int64)
        own = slice(bucket - n, None) if self.causal else slice(n)
        padded[own], padding[own] = x.clip(low, high), 0
        return padded, padding

    def projections(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the client sends beside x `[n, dim]`: the first layer's q, k and v, by name.

        Empty unless the client's boundary is "projection".
        """
        read = x[-1:] if self.causal else x[:1]
        return {
            name: linear(
                read if self.first_query_only and name.endswith(".q") else x,
                projection,
                exact_lookup,
            )
            for name, projection in self.first_projections.items()
        }

    def logits(self, integer_logits: np.ndarray) -> np.ndarray:
        """Return real logits, float64."""
        return np.asarray(integer_logits) * self.logit_scale

    def probabilities(self, integer_logits: np.ndarray) -> np.ndarray:
        """Return the softmax of the real logits, float64 `[..., n_labels]`."""
        logits = self.logits(integer_logits)
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return weights / weights.sum(axis=-1, keepdims=True)

    def label(self, integer_logits: np.ndarray) -> tuple[str, float]:
        """Return the label of the largest logit, and its probability."""
        probabilities = self.probabilities(integer_logits)
        best = int(probabilities.argmax())
        return self.labels[best], float(probabilities[best])


def as_texts(texts: Iterable[str], call: str) -> list[str]:
    """Return texts as a list, for calls that go through them more than once.

    call: to blame. Raises TypeError for a single string, whose letters are no texts, and for what
    holds none.

    >>> as_texts((word for word in ("good", "bad")), "classify_many")
    ['good', 'bad']
    """
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        kind = type(texts).__name__
        raise TypeError(f"{call} wants a list of texts, not one of type {kind}: pass [text]")
    return list(texts)


def most_important(
    importance: Sequence[float] | np.ndarray, n: int, last: bool = False
) -> np.ndarray:
    """Return the positions of the n largest values in their order; of equal ones, the first.

    last: of equal ones the last.

    >>> most_important([0.1, 0.9, 0.5, 0.9], 2)
    array([1, 3])
    >>> most_important([0.0, 0.0, 0.0], 2, last=True)
    array([1, 2])
    """
    values = np.asarray(importance)
    if last:
        return np.sort(np.argsort(values, kind="stable")[max(0, len(values) - n) :])
    return np.sort(np.argsort(-values, kind="stable")[:n])


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer that neither pads nor cuts. Raises InputError for any other file."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise InputError(f"{path} can't be read as a tokenizer: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _readable(token: str) -> str:
    """Return a token without the marks that a Unigram puts where words begin."""
    return token.replace("\u2581", " ").strip()
