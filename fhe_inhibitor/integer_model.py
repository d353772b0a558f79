"""The integer model: what the client encrypts, what the circuits compute, what comes back.

    text -> tokens -> the n most important by a public list -> integers  (client, clear)
         -> project, attend, feed_forward, classify                      (server, encrypted)
         -> integer logits -> probabilities                              (client, clear)

It needs no torch: a client that classifies starts quickly.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from circuits.lookups import Lookup, exact_lookup
from circuits.network import Network, run
from circuits.stages import project
from fhe_inhibitor import integer_format
from fhe_inhibitor.errors import InputError

CHECKPOINTS = Path(__file__).parent / "checkpoints"
DEFAULT_MODEL = "inhibidistilbert-nano-sst2"
INTEGER_FILE, TOKENIZER_FILE, CONFIG_FILE = (
    "integer_model.safetensors",
    "tokenizer.json",
    "config.json",
)


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


@dataclass(frozen=True)
class IntegerModel:
    """A quantized checkpoint as integers.

    embedding: int8 `[vocab, dim]` and positions: int8 `[n_tokens or 0, dim]`, in steps of the
    network's input. importance: float32 `[vocab]`, public; all 0 keeps the first tokens.
    logit_scale: factor from integer to real logits. noise_std: rounding noise that the model
    was trained for, in rounding steps. hash: SHA-256 of all integer parameters.
    """

    name: str
    labels: tuple[str, ...]
    network: Network
    embedding: np.ndarray
    positions: np.ndarray
    importance: np.ndarray
    tokenizer: Tokenizer
    cls_token_id: int | None
    logit_scale: float
    buckets: tuple[int, ...]
    default_tokens: int
    noise_std: float
    p_error: float
    hash: str

    @classmethod
    def load(cls, name_or_path: str | Path = DEFAULT_MODEL) -> IntegerModel:
        """Load a shipped checkpoint by name, or a folder.

        Raises InputError for an unknown name, a missing file, or contents that don't fit.
        """
        folder = _find(name_or_path)
        config = _read_json(folder / CONFIG_FILE)
        parameters, digest = integer_format.read(folder / INTEGER_FILE)
        tokenizer = _read_tokenizer(folder / TOKENIZER_FILE)
        try:
            model = cls(name=folder.name, tokenizer=tokenizer, hash=digest, **parameters)
        except TypeError as error:
            raise InputError(f"{folder / INTEGER_FILE} lacks or adds a part: {error}") from error
        model._check(folder, config)
        return model

    @property
    def max_tokens(self) -> int:
        """Most tokens that the model reads."""
        return self.buckets[-1]

    def tokenize(self, text: str, max_tokens: int | None = None) -> Tokens:
        """Return the tokens of a text, the most important ones if there are too many.

        max_tokens: `default_tokens` if None. Raises InputError for a text without tokens, or
        for a max_tokens that the model doesn't reach.
        """
        limit = self.default_tokens if max_tokens is None else max_tokens
        first = 0 if self.cls_token_id is None else 1
        if not 1 + first <= limit <= self.max_tokens:
            raise InputError(
                f"{limit} tokens asked for, {self.name} reads {1 + first} to {self.max_tokens}"
            )
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        if not encoding.ids:
            raise InputError("the text is empty: pass a sentence with at least one word")
        ids = np.asarray(encoding.ids, dtype=np.int64)
        kept = most_important(self.importance[ids], limit - first)
        tokens = tuple(_readable(encoding.tokens[i]) for i in kept)
        ids = ids[kept]
        if self.cls_token_id is not None:
            ids = np.concatenate([[self.cls_token_id], ids])
        return Tokens(ids, tokens, len(encoding.ids))

    def bucket(self, n: int) -> int:
        """Return the smallest sequence length of a circuit that holds n tokens."""
        return min(bucket for bucket in self.buckets if bucket >= n)

    def encode(self, tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
        """Return what the client encrypts: x int64 `[bucket, dim]`, padding int64 `[bucket]`.

        Padded positions are 0 in x and 1 in padding.
        """
        n = len(tokens.ids)
        bucket = self.bucket(n)
        x = self.embedding[tokens.ids].astype(np.int64)
        if len(self.positions):
            x = x + self.positions[:n]
        low, high = self.network.input_range
        padded = np.zeros((bucket, x.shape[1]), dtype=np.int64)
        padded[:n] = x.clip(low, high)
        return padded, (np.arange(bucket) >= n).astype(np.int64)

    def projections(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Return what the client sends beside x `[n, dim]`: the first layer's q, k and v, by name.

        Empty unless the client's boundary is "projection".
        """
        if self.network.client_boundary == "embedding":
            return {}
        layer = self.network.layers[0]
        return {
            f"layer0.head{head}.{name}": value
            for head, projected in enumerate(project(x, layer, exact_lookup))
            for name, value in zip("qkv", projected, strict=True)
            if value is not None
        }

    def integer_logits(
        self, x: np.ndarray, padding: np.ndarray, lookup: Lookup = exact_lookup
    ) -> np.ndarray:
        """Evaluate the network in the clear: int64 `[n_labels]`."""
        return run(self.network, x, padding, lookup)

    def logits(self, integer_logits: np.ndarray) -> np.ndarray:
        """Return real logits, float64."""
        return np.asarray(integer_logits) * self.logit_scale

    def probabilities(self, integer_logits: np.ndarray) -> np.ndarray:
        """Return the softmax of the real logits, float64 `[..., n_labels]`."""
        logits = self.logits(integer_logits)
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return weights / weights.sum(axis=-1, keepdims=True)

    def _check(self, folder: Path, config: dict[str, Any]) -> None:
        """Refuse parts that don't belong together."""
        vocab, dim = self.embedding.shape
        expected = {
            "vocab_size": vocab,
            "dim": dim,
            "n_layers": len(self.network.layers),
            "n_tokens": self.max_tokens,
        }
        for key, value in expected.items():
            if config.get(key) != value:
                raise InputError(
                    f"{folder}: {CONFIG_FILE} says {key} = {config.get(key)}, {INTEGER_FILE} has "
                    f"{value}: files of different models"
                )
        if self.tokenizer.get_vocab_size() != vocab or dim != self.network.dim:
            raise InputError(
                f"{folder}: {TOKENIZER_FILE} has {self.tokenizer.get_vocab_size()} tokens, the "
                f"embedding {vocab} rows of {dim}, the network reads {self.network.dim} channels: "
                "files of different models"
            )


def most_important(importance: Sequence[float] | np.ndarray, n: int) -> np.ndarray:
    """Return the positions of the n largest values in their order; of equal ones, the first.

    >>> most_important([0.1, 0.9, 0.5, 0.9], 2)
    array([1, 3])
    """
    order = np.argsort(-np.asarray(importance), kind="stable")
    return np.sort(order[:n])


def _find(name_or_path: str | Path) -> Path:
    """Return the folder of a checkpoint, its files all there."""
    shipped = sorted(path.name for path in CHECKPOINTS.glob("*") if path.is_dir())
    path = CHECKPOINTS / name_or_path if str(name_or_path) in shipped else Path(name_or_path)
    if not path.is_dir():
        raise InputError(
            f"no model {str(name_or_path)!r}: pass a folder, or one of {', '.join(shipped)}"
        )
    for name in (CONFIG_FILE, INTEGER_FILE, TOKENIZER_FILE):
        if not (path / name).is_file():
            raise InputError(f"the model folder {path} has no file {name}")
    return path


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read as JSON: {error}") from error


def _readable(token: str) -> str:
    """Return a token without the marks that a Unigram puts where words begin."""
    return token.replace("\u2581", " ").strip()


def _read_tokenizer(path: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise InputError(f"{path} can't be read as a tokenizer: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
