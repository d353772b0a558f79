"""Texts as rows of word numbers: a vocabulary of the most frequent words, for small models."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

PADDING, UNKNOWN_WORD = 0, 1
WORD = re.compile(r"[a-z']+")


def frequent_words(texts: Sequence[str], n: int) -> dict[str, int]:
    """Return the numbers of the n most frequent words, from 2; equal ones in the alphabet's order.

    >>> frequent_words(["a b", "b c"], 2)
    {'b': 2, 'a': 3}
    """
    counts = Counter(word for text in texts for word in WORD.findall(text.lower()))
    ordered = sorted(counts, key=lambda word: (-counts[word], word))[:n]
    return {word: index for index, word in enumerate(ordered, start=UNKNOWN_WORD + 1)}


def to_numbers(texts: Sequence[str], numbers: dict[str, int], width: int) -> np.ndarray:
    """Return the first `width` words of each text, int64 `[n_texts, width]`, padded with 0.

    >>> to_numbers(["b, x!"], {"b": 2}, 3).tolist()
    [[2, 1, 0]]
    """
    rows = np.full((len(texts), width), PADDING, dtype=np.int64)
    for row, text in zip(rows, texts, strict=True):
        found = [numbers.get(word, UNKNOWN_WORD) for word in WORD.findall(text.lower())[:width]]
        row[: len(found)] = found
    return rows
