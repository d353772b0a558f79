"""Phrases as vocabulary entries: "not a", "the best", "would n't" are one token each.

Every token costs lookups, and the client looks embeddings up in the clear: an entry for a run of
words costs nothing under encryption and saves all its words but one. It also brings what the
teacher knows of the words together, a negation and its word above all. Phrases are chosen from
public text, once, and published with a student like the rest of its vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, normalizers

from fhe_inhibitor.vocabulary import CONTINUATION, entry_names, is_special, tokenize

LONGEST_PHRASE = 3
# A contraction is a word of its own ("doesn't" is "does n't"), so that phrases match either way.
CONTRACTIONS = ("n't", "'s", "'re", "'ve", "'ll", "'d", "'m")


def find_phrases(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    importance: np.ndarray,
    n_phrases: int,
    min_count: int = 8,
) -> list[tuple[int, ...]]:
    """Return the runs of two or three words, as ids, that matter most in the texts.

    Of the runs that occur `min_count` times or more, without punctuation and pieces of words,
    those of the largest count times sum of importance `[vocab]` come first.
    """
    ids, offsets = tokenize(tokenizer, texts)
    words = np.array([_is_word(entry) for entry in entry_names(tokenizer)])
    owner = np.repeat(np.arange(len(texts)), np.diff(offsets))
    found: list[tuple[float, tuple[int, ...]]] = []
    for length in range(2, LONGEST_PHRASE + 1):
        last = max(0, len(ids) - length + 1)
        runs = np.stack([ids[start : start + last] for start in range(length)], axis=1)
        kept = (owner[:last] == owner[length - 1 :]) & words[runs].all(axis=1)
        phrases, counts = np.unique(runs[kept], axis=0, return_counts=True)
        frequent = counts >= min_count
        phrases, counts = phrases[frequent], counts[frequent]
        gains = counts * importance[phrases].sum(axis=1)
        found += zip(gains.tolist(), map(tuple, phrases.tolist()), strict=True)
    found.sort(key=lambda item: (-item[0], item[1]))
    return [phrase for _, phrase in found[:n_phrases]]


def add_phrases(tokenizer: Tokenizer, phrases: Sequence[tuple[int, ...]]) -> Tokenizer:
    """Return a tokenizer that also finds phrases, the first and longest that matches.

    Entries keep their ids; phrases follow in their order. White space between the words of a
    phrase may be of any length.
    """
    names = entry_names(tokenizer)
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    breaks = [
        normalizers.Replace(Regex(rf"(?<=\w){word}(?!\w)"), f" {word}") for word in CONTRACTIONS
    ]
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([tokenizer.normalizer, *breaks, spaces])
    tokenizer.add_tokens(
        [
            AddedToken(" ".join(names[word] for word in phrase), single_word=True, normalized=True)
            for phrase in phrases
        ]
    )
    return tokenizer


def phrase_importance(importance: np.ndarray, phrases: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Return importance `[vocab + phrases]`: a phrase matters as much as its weightiest word."""
    largest = [importance[list(phrase)].max() for phrase in phrases]
    return np.concatenate([importance, np.array(largest, importance.dtype)])


def _is_word(entry: str) -> bool:
    continues = entry.startswith(CONTINUATION) or is_special(entry)
    return not continues and any(character.isalnum() for character in entry)
