"""From labelled texts as they come to two sets without a text in common, and names to classes.

A text may stand in a file several times, alone or inside a longer one. If one of the two were
trained on and the other measured on, the measured accuracy would be too good. So a repeated text
counts once, texts that differ in punctuation and case alone stay together, and what is measured on
has no text inside it that was trained on (of three words or more; fewer are vocabulary).
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.text.data import MIN_LEAK_WORDS, Words, is_visible, phrases_inside
from fhe_inhibitor.text.labelled import TRAIN, VALIDATION, NamedText, Rows
from fhe_inhibitor.text.markup import without_markup

MAX_CLASSES = 10
NUMBER = re.compile(r"-?[0-9]{1,18}")  # int() refuses thousands of digits
MIN_CLASS_TEXTS = 5  # of each class to train on
MAX_VALIDATION = 2000  # texts that a validation set of our own choosing has at most


@dataclass(frozen=True)
class LeftOut:
    """How many texts were left out, and why.

    empty: no visible character. unknown: no word that the tokenizer knows. repeated: there before
    with the same class. contradicting: there with two classes, all of them. shared: to train on,
    but also, whole, in the texts to measure on.
    """

    empty: int = 0
    unknown: int = 0
    repeated: int = 0
    contradicting: int = 0
    shared: int = 0

    @property
    def total(self) -> int:
        """All texts that were left out."""
        return self.empty + self.unknown + self.repeated + self.contradicting + self.shared

    def describe(self) -> str:
        """Return the counts in words.

        >>> LeftOut(empty=1, repeated=2).describe()
        '1 empty, 2 repeated'
        """
        named = {
            "empty": self.empty,
            "without a word that the tokenizer knows": self.unknown,
            "repeated": self.repeated,
            "with two different labels": self.contradicting,
            "in the validation texts too": self.shared,
        }
        return ", ".join(f"{count:,} {what}" for what, count in named.items() if count)


@dataclass(frozen=True)
class OwnSplits:
    """Two sets of texts, in an order drawn at random, and the names of classes 0, 1, ..."""

    labels: tuple[str, ...]
    train: Rows
    validation: Rows
    left_out: LeftOut


def split_texts(
    read: dict[str, Rows], knows: Callable[[str], bool], share: float = 0.2, seed: int = 0
) -> OwnSplits:
    """Return texts to train on and texts to measure on, of at least 5 and 1 of each class.

    read: as `labelled.read_labelled` gives them; without a validation set, `share` of each class
    is drawn for one, 2,000 texts at most. knows: whether the tokenizer knows a word of a text.
    HTML's tags and entities are replaced by what they stand for, as in texts to be classified.

    Raises InputError for a share that is not between 0 and 1, for fewer than 2 or more than 10
    classes, classes with too few texts, and a class that is to be measured alone.
    """
    if not 0 < share < 1:
        raise InputError(f"a share of {share} to measure on; wanted more than 0, less than 1")
    rows, counts = _clean(read[TRAIN], knows)
    names = class_names(row.label for row in rows)
    if VALIDATION in read:
        validation, more = _clean(read[VALIDATION], knows)
        if foreign := sorted({row.label for row in validation} - set(names)):
            raise InputError(
                f"{', '.join(foreign)}: only in the validation texts; wanted their classes "
                f"({', '.join(names)})"
            )
        counts = replace(
            counts,
            **{name: getattr(counts, name) + getattr(more, name) for name in vars(counts)},
        )
        train = rows
    else:
        train, validation = _draw(rows, share, seed)
    kept = _without_shared(train, validation)
    _check_counts(names, kept, validation)
    rng = random.Random(seed)
    rng.shuffle(kept)
    rng.shuffle(validation)
    return OwnSplits(names, kept, validation, replace(counts, shared=len(train) - len(kept)))


def without_measured(texts: Iterable[str], measured: Iterable[str]) -> list[str]:
    """Return the texts that neither are nor hold one to measure on, whatever case and punctuation.

    One of one or two words may stand inside a text: it is vocabulary.

    >>> without_measured(["Dull.", "Well: a fine film!", "dull art"], ["a fine film", "dull"])
    ['dull art']
    """
    whole = set(map(_words, measured))
    lengths: dict[Words, set[int]] = defaultdict(set)  # of the long ones, by how they begin
    for words in whole:
        if len(words) >= MIN_LEAK_WORDS:
            lengths[words[:MIN_LEAK_WORDS]].add(len(words))

    def is_apart(words: Words) -> bool:
        inside = (
            words[start : start + n]
            for start in range(len(words))
            for n in lengths.get(words[start : start + MIN_LEAK_WORDS], ())
        )
        return words not in whole and whole.isdisjoint(inside)

    return [text for text in texts if is_apart(_words(text))]


def class_names(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the classes in order: by value if all are whole numbers, else by name.

    Raises InputError for fewer than 2 of them, or more than 10, and for two that are one, written
    in two ways: in upper and lower case, or with zeros before a number.

    >>> class_names(["10", "9", "9"]), class_names(["sad", "glad"])
    (('9', '10'), ('glad', 'sad'))
    """
    counts = Counter(labels)
    first: dict[str, str] = {}
    for name in counts:
        other = first.setdefault(_plain(name), name)
        if other != name:
            raise InputError(
                f"the classes {other!r} ({counts[other]}) and {name!r} ({counts[name]}) differ "
                "only in how they are written: write them alike, or give one another name"
            )
    if not 2 <= len(counts) <= MAX_CLASSES:
        told = ", ".join(f"{name} ({n})" for name, n in counts.most_common(MAX_CLASSES + 2))
        more = ", ..." if len(counts) > MAX_CLASSES + 2 else ""
        raise InputError(
            f"{len(counts)} class{'' if len(counts) == 1 else 'es'}: {told or 'no text is left'}"
            f"{more}; wanted 2 to {MAX_CLASSES}: is it the right column of labels?"
        )
    numbers = all(NUMBER.fullmatch(name) for name in counts)
    return tuple(sorted(counts, key=int if numbers else str))


def _plain(name: str) -> str:
    """Return what two ways to write one class have in common."""
    return str(int(name)) if NUMBER.fullmatch(name) else name.casefold()


def _clean(rows: Iterable[NamedText], knows: Callable[[str], bool]) -> tuple[Rows, LeftOut]:
    """Return texts on one line, in NFC and each once, and how many were left out."""
    n_empty = n_unknown = n_repeated = 0
    first: dict[str, NamedText] = {}
    labels: dict[str, set[str]] = {}
    times = Counter[str]()
    for row in rows:
        # One character may be written as one or as a letter and its accent.
        text = unicodedata.normalize("NFC", " ".join(without_markup(row.text).split()))
        if not is_visible(text):
            n_empty += 1
        elif not _is_unicode(text) or not knows(text):
            n_unknown += 1
        else:
            key = text.casefold()
            n_repeated += key in first
            times[key] += 1
            first.setdefault(key, NamedText(text, row.label))
            labels.setdefault(key, set()).add(row.label)
    contradicted = [key for key, found in labels.items() if len(found) > 1]
    n_contradicting = sum(times[key] for key in contradicted)
    n_repeated -= n_contradicting - len(contradicted)
    kept = [row for key, row in first.items() if len(labels[key]) == 1]
    return kept, LeftOut(n_empty, n_unknown, n_repeated, n_contradicting)


def _is_unicode(text: str) -> bool:
    """Whether a text has no half of a character, which JSON can hold and nothing can encode."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _words(text: str) -> Words:
    """Return what two texts that are the same but for punctuation and case have in common."""
    return tuple(re.findall(r"\w+", text.casefold())) or (text,)


def _draw(rows: Rows, share: float, seed: int) -> tuple[Rows, Rows]:
    """Draw a share of each class to measure on: first of the texts that are inside no other."""
    groups: dict[Words, Rows] = {}
    for row in rows:
        groups.setdefault(_words(row.text), []).append(row)
    inside = phrases_inside(groups, groups)
    share = min(share, MAX_VALIDATION / len(rows))
    order = random.Random(seed).sample(sorted(groups), len(groups))
    order.sort(key=lambda words: words in inside)
    wanted = {
        label: max(1, round(share * count))
        for label, count in Counter(row.label for row in rows).items()
    }
    train: Rows = []
    validation: Rows = []
    for words in order:
        group = groups[words]
        if all(wanted[row.label] > 0 for row in group):
            validation += group
            for row in group:
                wanted[row.label] -= 1
        else:
            train += group
    return train, validation


def _without_shared(train: Rows, validation: Rows) -> Rows:
    """Return the train texts that are no validation text, and in none if of three words or more."""
    measured = {_words(row.text) for row in validation}
    long = {words for row in train if len(words := _words(row.text)) >= MIN_LEAK_WORDS}
    shared = measured | phrases_inside(long, measured)
    return [row for row in train if _words(row.text) not in shared]


def _check_counts(names: Sequence[str], train: Rows, validation: Rows) -> None:
    to_train, to_measure = (Counter(row.label for row in rows) for rows in (train, validation))
    for name in names:
        if to_train[name] < MIN_CLASS_TEXTS:
            raise InputError(
                f"the class {name} has {to_train[name]} texts to train on and {to_measure[name]} "
                f"to measure on; wanted {MIN_CLASS_TEXTS} or more to train on: add some, or leave "
                "the class out"
            )
    if len(to_measure) < 2:
        raise InputError(
            f"the validation texts are of {', '.join(to_measure) or 'no class'} alone; wanted two "
            "classes or more"
        )
