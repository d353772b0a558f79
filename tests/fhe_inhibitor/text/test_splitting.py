"""Two sets of texts with nothing in common, and classes from names."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.text.data import phrases_inside
from fhe_inhibitor.text.labelled import NamedText
from fhe_inhibitor.text.splitting import LeftOut, OwnSplits, class_names, split_texts
from tests.own_texts import KINDS, topics

WORD = st.sampled_from(["a", "b", "c"])
TEXTS = st.lists(st.lists(WORD, min_size=1, max_size=6).map(tuple), max_size=8)


def knows(text: str) -> bool:
    return any(character.isalpha() for character in text)


def split(texts: list[tuple[str, str]], share: float = 0.2, seed: int = 0) -> OwnSplits:
    return split_texts({"train": [NamedText(*text) for text in texts]}, knows, share, seed)


@given(TEXTS, TEXTS)
def test_phrases_inside_are_those_that_a_search_finds(
    phrases: list[tuple[str, ...]], texts: list[tuple[str, ...]]
) -> None:
    found = {
        phrase
        for phrase in phrases
        for text in texts
        if len(phrase) < len(text) and f" {' '.join(phrase)} " in f" {' '.join(text)} "
    }
    assert phrases_inside(phrases, texts) == found


@pytest.mark.parametrize("kind", KINDS)
def test_a_share_of_each_class_is_drawn(kind: str) -> None:
    texts = KINDS[kind](200, 0)
    splits = split(texts, share=0.2)
    counts = Counter(label for _, label in texts)
    measured = Counter(row.label for row in splits.validation)
    assert splits.labels == tuple(sorted(counts))
    assert {label: round(0.2 * n) for label, n in counts.items()} == measured
    assert not {row.text for row in splits.train} & {row.text for row in splits.validation}


def test_the_seed_decides_what_is_drawn_and_in_which_order() -> None:
    first, again, other = (split(topics(120), seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert len({row.label for row in first.validation[:8]}) > 1  # not one class after the other


def test_a_text_is_the_same_however_its_accents_are_written() -> None:
    texts = topics(60)
    composed, apart = "un caf\u00e9 tr\u00e8s bon", "un cafe\u0301 tre\u0300s bon"
    label = texts[0][1]
    splits = split([*texts, (apart, label), (composed, label)])
    assert splits.left_out == LeftOut(empty=0, unknown=0, repeated=1, contradicting=0)
    found = [row.text for row in (*splits.train, *splits.validation) if "caf" in row.text]
    assert found == [composed]
    splits = split([*texts, (apart, label), (composed, "other")])
    assert splits.left_out.contradicting == 2


def test_a_repeated_text_counts_once_and_one_with_two_labels_not_at_all() -> None:
    texts = topics(60)
    more = [(texts[0][0].upper(), texts[0][1]), (f"  {texts[1][0]} ", texts[1][1])]
    more += [(texts[2][0], "other"), ("\u200b", "cooking"), ("<br/>", "cooking"), ("...", "x")]
    more += [("a\ud800", "cooking")]
    splits = split([*texts, *more])
    assert splits.left_out == LeftOut(empty=2, unknown=2, repeated=2, contradicting=2)
    assert len(splits.train) + len(splits.validation) == 59
    assert splits.left_out.total == 8
    assert "2 with two different labels" in splits.left_out.describe()


def words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def test_texts_that_differ_in_punctuation_stay_together() -> None:
    rng = random.Random(0)
    texts = [
        (form.format(text), label)
        for text, label in topics(80)
        for form in rng.sample(["{}!", "{} ...", '"{}"', "{}"], 3)
    ]
    splits = split(texts, share=0.3)
    assert splits.validation
    assert not {words(r.text) for r in splits.train} & {words(r.text) for r in splits.validation}


def test_no_phrase_of_what_is_measured_on_is_trained_on() -> None:
    """As in SST-2, whose train set has the constituents of its own sentences."""
    texts = [
        (" ".join(text.split()[:n]), label) for text, label in topics(150) for n in (2, 4, 6, 20)
    ]
    splits = split(texts, share=0.1)
    inside = [
        row.text
        for row in splits.train
        if len(words(row.text).split()) >= 3
        and any(f" {words(row.text)} " in f" {words(m.text)} " for m in splits.validation)
    ]
    assert splits.left_out.shared > 0
    assert inside == []


def test_texts_of_a_set_to_measure_on_leave_the_others() -> None:
    texts = [NamedText(*text) for text in topics(100)]
    splits = split_texts({"train": texts, "validation": texts[:20]}, knows)
    assert sorted(splits.validation) == sorted(texts[:20])
    assert splits.left_out.shared >= 20
    assert not set(splits.train) & set(texts[:20])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a"], r"1 class: a \(1\); wanted 2 to 10"),
        ([str(n) for n in range(11)], "11 classes.*is it the right column"),
        ([str(n) for n in range(900)], r"900 classes.*, \.\.\.; wanted"),
        ([], "0 classes: no text is left"),
    ],
)
def test_too_few_or_too_many_classes_are_refused(labels: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        class_names(labels)


@pytest.mark.parametrize(
    "labels", [["pos", "Pos", "neg"], ["1", "01", "2"], ["0", "-0"], [*"0123456789", "00", "01"]]
)
def test_one_class_that_is_written_in_two_ways_is_refused(labels: list[str]) -> None:
    """As two classes it would be learned to be told apart from itself."""
    with pytest.raises(InputError, match=r"'\S+' \(1\) and '\S+' \(1\) differ only in how"):
        class_names(labels)


def test_a_number_of_thousands_of_digits_is_a_name() -> None:
    assert class_names(["1" * 5000, "2"]) == ("1" * 5000, "2")


def test_classes_too_small_to_learn_and_shares_of_all_are_refused(tmp_path: Path) -> None:
    texts = topics(40)
    with pytest.raises(InputError, match="rare has 2 texts to train on and 1 to .* wanted 5"):
        split([*texts, *[(f"rare thing {n}", "rare") for n in "abc"]])
    for share in (0.0, 1.0, -1.0):
        with pytest.raises(InputError, match="share"):
            split(texts, share=share)
    rows = [NamedText(*text) for text in texts]
    with pytest.raises(InputError, match="news: only in the validation texts"):
        split_texts({"train": rows, "validation": [NamedText("so it is", "news")]}, knows)
    alone = [NamedText("so it is", "cooking")]
    with pytest.raises(InputError, match="are of cooking alone"):
        split_texts({"train": rows, "validation": alone}, knows)
