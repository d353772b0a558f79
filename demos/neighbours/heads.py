"""Neighbours of which the head alone is encrypted: words of a list, and a public encoder.

What the heads learn from is kept in a work folder, so a repeated call goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from circuits.lookups import Lookup, exact_lookup, noisy_lookup
from circuits.sentence_head import SentenceHead
from compile.sentence_head import SentenceHeadCircuit
from demos.neighbours.results import PACKAGES, Accuracy, Neighbour, Times
from fhe_inhibitor.system.machine import describe_machine
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.system.statistics import share
from fhe_inhibitor.text.data import LabelledText
from fhe_inhibitor.training.sentence_encoder import choose_texts, embed, embed_kept, encoder_files
from fhe_inhibitor.training.sentence_heads import (
    Codes,
    Examples,
    FloatHead,
    count_words,
    fit_hidden,
    fit_linear,
    predict,
    quantize_hidden,
    quantize_linear,
)
from fhe_inhibitor.training.teacher import Teacher, minilm_distilbert

NOISE_DRAWS, NOISE_STD = 5, 0.1
# An embedding's coordinates have standard deviation 1 / sqrt(384): five of those are kept.
EMBEDDING = Codes(step=0.25 / 127, largest=127)
EMBEDDING_FOR_LOOKUPS = Codes(step=0.25 / 31, largest=31)
PRESENCE = Codes(step=1.0, largest=1, signed=False)
SPLITS = ("validation", "held_out")
Rows = dict[str, list[LabelledText]]


@dataclass(frozen=True)
class Fitted:
    """A head in float and in integers, and how a client makes what it reads.

    features: of texts, `[n, inputs]`. examples: the two splits that are measured.
    """

    head: FloatHead
    integers: SentenceHead
    codes: Codes
    features: Callable[[Sequence[str]], Any]
    examples: dict[str, Examples]
    client_bytes: int

    def neighbour(self, made_from: str) -> Neighbour:
        """Return the row of the head: its accuracies in float, and as integers with noise."""
        seeds = range(NOISE_DRAWS) if self.integers.hidden else (None,)
        shares = {}
        for name, split in self.examples.items():
            n = len(split.labels)
            float_share = split.accuracy(self.head.predict(split.features))
            drawn = [split.accuracy(self._predict(split.features, seed)) for seed in seeds]
            shares[name] = share(float(np.mean(drawn)) * n, n)
            shares[f"float_{name}"] = share(float_share * n, n)
        return Neighbour(
            machine=describe_machine(PACKAGES),
            made_from=made_from,
            accuracy=Accuracy(**shares),
            n_encrypted=self.integers.n_inputs,
            client_bytes=self.client_bytes,
            settings={"regularization": self.head.chosen},
        )

    def time(self, texts: Sequence[str], made_from: str) -> Times:
        """Encrypt and run texts; the first one runs twice, its first time isn't counted."""
        circuit = SentenceHeadCircuit(self.integers)
        keygen_s = circuit.generate_keys()
        clear_s, calls, equal = [], [], 0
        for text in (texts[0], *texts):
            start = time.perf_counter()
            x = self.codes(self.features([text]))
            clear_s.append(time.perf_counter() - start)
            calls.append(circuit.call_encrypted(x))
            score = self.integers.evaluate(x, exact_lookup)
            equal += int((calls[-1].output[0, 0] > 0) == (score[0, 0] > 0)) if calls[1:] else 0
        return Times(
            machine=describe_machine(PACKAGES),
            made_from=made_from,
            clear_s=clear_s[1:],
            encrypted_s=[call.seconds for call in calls[1:]],
            equal=equal,
            lookups=dict(circuit.lookups),
            complexity=circuit.module.complexity if circuit.lookups else 0.0,
            keygen_s=keygen_s,
            evaluation_keys_bytes=circuit.evaluation_keys_bytes() if circuit.lookups else 0,
            request_bytes=calls[-1].request_bytes,
            response_bytes=calls[-1].response_bytes,
        )

    def _predict(self, features: Any, seed: int | None) -> np.ndarray:
        lookup: Lookup = exact_lookup
        if seed is not None:
            lookup = noisy_lookup(np.random.default_rng(seed), NOISE_STD)
        return predict(self.integers, self.codes, features, lookup)


def fit_words(kept: list[LabelledText], rows: Rows) -> Fitted:
    """Return logistic regression on the words of a text, learned from all texts of train."""
    words = count_words([row.text for row in kept])
    train = _examples(words.transform, kept)
    examples = {name: _examples(words.transform, rows[name]) for name in SPLITS}
    head = fit_linear(train, examples["held_out"])
    integers = quantize_linear(head, PRESENCE)
    n_bytes = len("\n".join(words.vocabulary_).encode())
    return Fitted(head, integers, PRESENCE, words.transform, examples, n_bytes)


class EncoderHeads:
    """Heads on a public sentence encoder, whose embeddings lie in a work folder."""

    def __init__(
        self, kept: list[LabelledText], rows: Rows, train_texts: int, work: Path, observer: Observer
    ) -> None:
        self._encoder: Teacher = minilm_distilbert()
        work.mkdir(parents=True, exist_ok=True)
        listed = {"train": choose_texts(kept, train_texts), **{n: rows[n] for n in SPLITS}}
        self._examples = {
            name: Examples(
                embed_kept(
                    self._encoder, [row.text for row in split], work / f"{name}.npz", observer
                ),
                np.array([row.label for row in split]),
            )
            for name, split in listed.items()
        }

    def linear(self) -> Fitted:
        """Return logistic regression on the embedding."""
        train, held_out = self._examples["train"], self._examples["held_out"]
        head = fit_linear(train, held_out)
        return self._fitted(head, quantize_linear(head, EMBEDDING), EMBEDDING)

    def hidden(self) -> Fitted:
        """Return a head with hidden units on the embedding."""
        train, held_out = self._examples["train"], self._examples["held_out"]
        head = fit_hidden(train, held_out)
        integers = quantize_hidden(head, EMBEDDING_FOR_LOOKUPS, train)
        return self._fitted(head, integers, EMBEDDING_FOR_LOOKUPS)

    def _fitted(self, head: FloatHead, integers: SentenceHead, codes: Codes) -> Fitted:
        n_bytes = sum(path.stat().st_size for path in encoder_files())
        examples = {name: self._examples[name] for name in SPLITS}
        return Fitted(head, integers, codes, partial(embed, self._encoder), examples, n_bytes)


def _examples(features: Callable[[Sequence[str]], Any], rows: Sequence[LabelledText]) -> Examples:
    return Examples(features([row.text for row in rows]), np.array([row.label for row in rows]))
