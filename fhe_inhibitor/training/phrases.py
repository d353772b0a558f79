"""Phrases as vocabulary entries: "not a", "the best", "would n't" are one token each.

Every token costs lookups, but the client looks embeddings up in the clear. So an entry for several
words costs nothing under encryption and saves all its tokens but one. It also joins words that the
teacher understands together, above all a negation and the word after it. Phrases are chosen once,
from public text, and published with a student like the rest of its vocabulary.

A text can be cut into words and phrases in many ways. The tokenizer takes the cut with the least
sum of importance, because it leaves the least to send: of "is not | good" and "is | not good" the
second.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import Unigram

from fhe_inhibitor.training.vocabulary import (
    CONTINUATION,
    SPACE,
    entry_names,
    is_special,
    tokenize,
)

TOKEN_COST = 0.1  # importance that a token more must save
PIECE_COST = 100.0  # a word that is an entry is never cut

# A contraction is a word of its own, as for the WordPiece before: "doesn't" is "does n't".
CONTRACTION = r"'(?:s|re|ve|ll|d|m)(?!\w)"
SUFFIXES = ("n't", "'s", "'re", "'ve", "'ll", "'d", "'m")
MARK = r"[\p{P}$+<=>^`|~]"
PUNCTUATION = rf"(?!{CONTRACTION})(?!(?<=\bn)'t(?!\w)){MARK}"


def find_phrases(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    importance: np.ndarray,
    n_phrases: int,
    min_count: int = 8,
) -> list[tuple[int, ...]]:
    """Return the pairs of successive words, as ids, that matter most in the texts.

    Of the pairs that occur `min_count` times or more, without punctuation and pieces of words,
    those of the largest count times sum of importance `[vocab]` come first. (Three words together
    are rarer, and gained nothing.)
    """
    ids, offsets = tokenize(tokenizer, texts)
    words = np.array([_is_word(entry) for entry in entry_names(tokenizer)])
    owner = np.repeat(np.arange(len(texts)), np.diff(offsets))
    pairs = np.stack([ids[:-1], ids[1:]], axis=1)
    kept = (owner[:-1] == owner[1:]) & words[pairs].all(axis=1)
    phrases, counts = np.unique(pairs[kept], axis=0, return_counts=True)
    phrases, counts = phrases[counts >= min_count], counts[counts >= min_count]
    gains = counts * importance[phrases].sum(axis=1)
    return [tuple(phrases[i].tolist()) for i in np.argsort(-gains, kind="stable")[:n_phrases]]


def phrase_importance(importance: np.ndarray, phrases: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Return importance `[vocab + phrases]`: a phrase matters as much as its weightiest word."""
    largest = [importance[list(phrase)].max() for phrase in phrases]
    return np.concatenate([importance, np.array(largest, importance.dtype)])


def add_phrases(
    words: Tokenizer, phrases: Sequence[tuple[int, ...]], importance: np.ndarray
) -> Tokenizer:
    """Return a tokenizer that knows the words of a WordPiece tokenizer, and phrases of them.

    Entries keep their ids; phrases follow in their order. importance: `[vocab + phrases]`. The
    cut of least total importance is what `tokenizers` calls the best Unigram segmentation, each
    entry's score being its negative cost.
    """
    names = [_piece(name) for name in entry_names(words)]
    names += ["".join(names[word] for word in phrase) for phrase in phrases]
    pieces = np.array([not name.startswith(SPACE) for name in names])
    costs = (importance + TOKEN_COST + PIECE_COST * pieces).astype(float).round(3)
    vocabulary = list(zip(names, (-costs).tolist(), strict=True))
    tokenizer = Tokenizer(Unigram(vocabulary, unk_id=words.token_to_id("[UNK]")))
    # Punctuation ends a phrase: the space beside it goes, and `split` sets it apart.
    tokenizer.normalizer = normalizers.Sequence(
        [
            words.normalizer,
            *(normalizers.Replace(Regex(rf"(?<=\w){end}(?!\w)"), f" {end}") for end in SUFFIXES),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Replace(Regex(rf" (?={PUNCTUATION})"), ""),
            normalizers.Replace(Regex(rf"(?<={MARK}) "), ""),
            normalizers.Strip(),
        ]
    )
    split = pre_tokenizers.Split(Regex(PUNCTUATION), "isolated")
    spaces = pre_tokenizers.Metaspace(SPACE, prepend_scheme="always", split=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, spaces])
    return tokenizer


def _is_word(entry: str) -> bool:
    whole = not entry.startswith(CONTINUATION) and not is_special(entry)
    return whole and any(character.isalnum() for character in entry)


def _piece(entry: str) -> str:
    """Return a WordPiece entry as a Unigram spells it: with a space before, unless it continues."""
    if entry.startswith(CONTINUATION):
        return entry.removeprefix(CONTINUATION)
    return entry if is_special(entry) else SPACE + entry
