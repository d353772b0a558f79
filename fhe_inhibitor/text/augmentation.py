"""Varied unlabelled texts for the teacher to label: what a student is distilled on.

A small student is limited by how little text it has seen rather than by its size, and a teacher
labels any text. This makes texts that look like the train set's without being in it. SST-2's train
set holds the constituents of its own sentences, so its phrases are known to be phrases: they can
be exchanged, joined and cut out, and what results still mostly parses.

Each recipe below is a function of a `_Source` and a random generator that returns one text.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.text.data import Words

MAX_WORDS = 30
MIN_CLAUSE_WORDS = 3
SENTENCE_WORDS = 12

# As the Penn Treebank and SST-2 write text: `does n't`, `it 's`, punctuation apart.
CONTRACTION = re.compile(r"(?<=\w)(n't|'(?:s|re|ve|ll|d|m))(?!\w)")
PUNCTUATION = re.compile(r"(\.\.\.|--|[.,;:!?()\[\]`$%&\"])")
NUMBER = re.compile(r"(?<=\d) ([.,:]) (?=\d)")
CLAUSE_END = frozenset({",", ".", ";", ":", "!", "?", "--", "...", "(", ")", "-"})
JOINTS = (", but", "but", "and", ", and", ".", ",", "; ", "-- ", ", yet", "though", "because")


@dataclass(frozen=True)
class _Source:
    """The phrases of a train set, arranged for the recipes."""

    texts: list[Words]
    sentences: list[Words]
    phrases: set[Words]
    by_start: dict[tuple[str, int], list[Words]]
    by_end: dict[tuple[bool, int], list[Words]]
    neighbours: Mapping[str, Sequence[str]]


def augment(
    train: Sequence[str],
    sentences: Sequence[str],
    n_texts: int,
    seed: int,
    neighbours: Mapping[str, Sequence[str]] | None = None,
) -> list[str]:
    """Return up to `n_texts` different texts: the train texts first, then a shuffled mixture.

    Of what comes after the train texts, up to a quarter is from `sentences`, review sentences cut
    to 30 words and their clauses, written as SST-2 writes; the rest is made from the train texts:
    phrases exchanged (38%), words replaced by one of their `neighbours` (22%), both (14%), two
    phrases joined (14%), words left out (12%). Same seed, same texts.

    Fewer than `n_texts` come back where the texts given do not yield as many different ones.

    Raises InputError if `n_texts` is not positive or `train` is empty.
    """
    if n_texts < 1 or not train:
        raise InputError(f"asked for {n_texts} texts from {len(train)}; both must be positive")
    random_ = random.Random(seed)
    texts = list(dict.fromkeys(train))[:n_texts]
    made = dict.fromkeys(texts)
    n_left = n_texts - len(texts)
    reviews = [text for text in dict.fromkeys(_review_texts(sentences)) if text not in made]
    mixture = random_.sample(reviews, min(len(reviews), n_left // 4))
    made.update(dict.fromkeys(mixture))
    source = _arrange(texts, neighbours or {})
    names = list(RECIPES)
    weights = [RECIPES[name] for name in names]
    for _ in range(4 * n_left):
        if len(made) == n_texts:
            break
        recipe = random_.choices(names, weights)[0]
        text = " ".join(recipe(source, random_)[: MAX_WORDS + 10])
        if text and text not in made:
            made[text] = None
            mixture.append(text)
    random_.shuffle(mixture)
    return texts + mixture


def word_neighbours(
    tokenizer: Tokenizer, features: np.ndarray, words: Sequence[str], n_neighbours: int = 8
) -> dict[str, list[str]]:
    """Return, per word, the words among the others whose features are nearest, by cosine.

    Words that the tokenizer splits are left out: they have no features.
    """
    vocabulary = tokenizer.get_vocab()
    whole_words = [word for word in words if word in vocabulary]
    rows = features[[vocabulary[word] for word in whole_words]]
    rows = rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-6)
    neighbours = {}
    for start in range(0, len(whole_words), 1024):
        similarity = rows[start : start + 1024] @ rows.T
        similarity[np.arange(len(similarity)), np.arange(start, start + len(similarity))] = -np.inf
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :n_neighbours]
        for word, row in zip(whole_words[start : start + 1024], nearest, strict=True):
            neighbours[word] = [whole_words[i] for i in row if whole_words[i] != word]
    return neighbours


def as_treebank(text: str) -> str:
    """Write a text as SST-2 does: lower case, contractions and punctuation apart, no quotes.

    >>> as_treebank('It doesn\\'t "work", sadly: 3.5 stars.')
    "it does n't work , sadly : 3.5 stars ."
    """
    return set_apart(text.lower().replace('"', " ").replace("''", " "))


def set_apart(text: str) -> str:
    """Put spaces around punctuation and before contractions, and one between any two words.

    >>> set_apart("Doesn't it  (still) work: 3.5 stars?")
    "Does n't it ( still ) work : 3.5 stars ?"
    """
    text = text.replace("\u2019", "'")
    text = PUNCTUATION.sub(r" \1 ", CONTRACTION.sub(r" \1", text))
    return NUMBER.sub(r"\1", " ".join(text.split()))


def _review_texts(sentences: Sequence[str]) -> list[str]:
    """Review sentences of 30 words or less, and the clauses of all."""
    texts = []
    for sentence in sentences:
        words = as_treebank(sentence).split()
        if len(words) >= MIN_CLAUSE_WORDS:
            texts.append(" ".join(words[:MAX_WORDS]))
        clause: list[str] = []
        for word in [*words, "."]:
            if word not in CLAUSE_END:
                clause.append(word)
                continue
            if MIN_CLAUSE_WORDS <= len(clause) <= MAX_WORDS and len(clause) < len(words) - 1:
                texts.append(" ".join(clause))
            clause = []
    return texts


def _arrange(texts: Sequence[str], neighbours: Mapping[str, Sequence[str]]) -> _Source:
    words = [tuple(text.split()) for text in texts]
    by_start: dict[tuple[str, int], list[Words]] = {}
    by_end: dict[tuple[bool, int], list[Words]] = {}
    for text in words:
        by_start.setdefault((text[0], len(text)), []).append(text)
        by_end.setdefault(_end(text, len(text)), []).append(text)
    sentences = [text for text in words if len(text) >= SENTENCE_WORDS]
    return _Source(words, sentences or words, set(words), by_start, by_end, neighbours)


def _draw(source: _Source, random_: random.Random) -> Words:
    """A text: three times of four one of twelve words or more, otherwise any."""
    return random_.choice(source.sentences if random_.random() < 0.75 else source.texts)


def _swap(source: _Source, random_: random.Random) -> Words:
    """A text in which one to three phrases of two words or more become others."""
    words = _draw(source, random_)
    for _ in range(random_.choice((1, 1, 2, 3))):
        spans = [
            (start, end)
            for start in range(len(words))
            for end in range(start + 2, min(len(words), start + 12) + 1)
            if end - start < len(words) and words[start:end] in source.phrases
        ]
        if not spans:
            break
        # The longer of two: most of the phrases are short.
        start, end = max(random_.choice(spans), random_.choice(spans), key=lambda s: s[1] - s[0])
        words = words[:start] + _alike(source, random_, words[start:end]) + words[end:]
    return words


def _alike(source: _Source, random_: random.Random, phrase: Words) -> Words:
    """A phrase whose length differs by one at most, usually with the same first word."""
    n_words = max(1, len(phrase) + random_.choice((-1, 0, 0, 1)))
    same_start = source.by_start.get((phrase[0], n_words), [])
    if len(same_start) > 3 and random_.random() < 0.7:
        return random_.choice(same_start)
    return random_.choice(source.by_end.get(_end(phrase, n_words), [phrase]))


def _end(phrase: Words, n_words: int) -> tuple[bool, int]:
    return phrase[-1] in CLAUSE_END, n_words


def _substitute(words: Words, source: _Source, random_: random.Random) -> Words:
    """The words, a sixth of which (one at least) are replaced by a neighbour."""
    rate = max(1 / 6, 1 / len(words))
    return tuple(
        random_.choice(source.neighbours[word])
        if word in source.neighbours and source.neighbours[word] and random_.random() < rate
        else word
        for word in words
    )


def _neighbour(source: _Source, random_: random.Random) -> Words:
    return _substitute(_draw(source, random_), source, random_)


def _swap_neighbour(source: _Source, random_: random.Random) -> Words:
    return _substitute(_swap(source, random_), source, random_)


def _join(source: _Source, random_: random.Random) -> Words:
    first, second = (random_.choice(source.texts) for _ in range(2))
    if first[-1] in CLAUSE_END and len(first) > 1:
        first = first[:-1]
    return first + tuple(random_.choice(JOINTS).split()) + second


def _drop(source: _Source, random_: random.Random) -> Words:
    """A text with each word left out by a chance of 5 to 60%: clients send few of their words."""
    words = _draw(source, random_)
    rate = random_.uniform(0.05, 0.6)
    return tuple(word for word in words if random_.random() >= rate)


RECIPES: dict[Callable[[_Source, random.Random], Words], float] = {
    _swap: 0.38,
    _neighbour: 0.22,
    _swap_neighbour: 0.14,
    _join: 0.14,
    _drop: 0.12,
}
