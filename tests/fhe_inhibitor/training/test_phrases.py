"""Phrases: which are found, how text is cut into them, what they matter."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer

from fhe_inhibitor.training.phrases import add_phrases, find_phrases, phrase_importance
from fhe_inhibitor.training.vocabulary import SPACE, extend_wordpiece
from tests.tiny_teacher import tiny_teacher

TEXTS = ["it is not a fine film .", "not a fine , fine day", "it does n't work", "does n't it"]


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return extend_wordpiece(tiny_teacher().tokenizer, TEXTS, min_count=1)


def ids(words: Tokenizer, phrase: str) -> tuple[int, ...]:
    return tuple(words.encode(phrase).ids)


def test_phrases_are_frequent_pairs_of_words_that_matter(words: Tokenizer) -> None:
    importance = np.zeros(words.get_vocab_size(), np.float32)
    importance[list(ids(words, "not n't"))] = 3, 2
    found = find_phrases(words, TEXTS, importance, 9, min_count=2)
    # A pair is of one text and without punctuation.
    assert found == [ids(words, phrase) for phrase in ("not a", "does n't", "a fine")]
    assert find_phrases(words, TEXTS, importance, 1, min_count=2) == found[:1]
    assert find_phrases(words, ["fine"], importance, 9, min_count=1) == []


def test_a_text_is_cut_the_same_way_however_it_is_written(words: Tokenizer) -> None:
    phrases = [ids(words, phrase) for phrase in ("not a", "not a fine", "does n't")]
    tokenizer = with_phrases(words, phrases)
    assert tokenizer.get_vocab_size() == words.get_vocab_size() + 3
    assert cut(tokenizer, "Not  a fine film, not a day .") == [
        "not a fine", "film", ",", "not a", "day", ".",
    ]  # fmt: skip
    for text in ("it does n't work", "it doesn't work", "it doesn\u2019t\twork"):
        assert cut(tokenizer, text) == ["it", "does n't", "work"]
    assert cut(tokenizer, 'not"a fine') == ["not", '"', "a", "fine"]


def test_words_without_phrases_are_cut_as_before(words: Tokenizer) -> None:
    """Entries keep their ids, pieces and all."""
    tokenizer = with_phrases(words, [])
    for text in [*TEXTS, "Dullish,  (fine.", 'it"work', "", "a dull,film ."]:
        assert tuple(tokenizer.encode(text).ids) == ids(words, text)
    assert ids(Tokenizer.from_str(tokenizer.to_str()), TEXTS[0]) == ids(words, TEXTS[0])


def test_the_cut_of_least_importance_is_taken(words: Tokenizer) -> None:
    phrases = [ids(words, phrase) for phrase in ("is not", "not fine")]
    importance = np.full(words.get_vocab_size(), 0.2, np.float32)
    importance[list(ids(words, "not fine"))] = 2, 1
    assert cut(with_phrases(words, phrases, importance), "it is not fine") == [
        "it", "is", "not fine",
    ]  # fmt: skip
    importance[list(ids(words, "is fine"))] = 1, 0.1
    assert cut(with_phrases(words, phrases, importance), "it is not fine") == [
        "it", "is not", "fine",
    ]  # fmt: skip


def with_phrases(
    words: Tokenizer, phrases: list[tuple[int, ...]], importance: np.ndarray | None = None
) -> Tokenizer:
    if importance is None:
        importance = np.ones(words.get_vocab_size(), np.float32)
    return add_phrases(words, phrases, phrase_importance(importance, phrases))


def cut(tokenizer: Tokenizer, text: str) -> list[str]:
    return [token.replace(SPACE, " ").strip() for token in tokenizer.encode(text).tokens]


def test_a_phrase_matters_as_much_as_its_weightiest_word() -> None:
    importance = np.array([0.5, 2.0, 1.0], np.float32)
    expected = np.array([0.5, 2.0, 1.0, 2.0, 1.0], np.float32)
    result = phrase_importance(importance, [(0, 1, 2), (0, 2)])
    np.testing.assert_array_equal(result, expected)
    assert result.dtype == np.float32
