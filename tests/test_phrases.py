"""Phrases: which are found, how text is cut into them, what they matter."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer

from fhe_inhibitor.phrases import add_phrases, find_phrases, phrase_importance
from fhe_inhibitor.vocabulary import extend_wordpiece
from tests.test_teacher import tiny_teacher

TEXTS = ["it is not a fine film .", "not a fine , fine day", "it does n't work", "does n't it"]


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return extend_wordpiece(tiny_teacher().tokenizer, TEXTS, min_count=1)


def ids(words: Tokenizer, phrase: str) -> tuple[int, ...]:
    return tuple(words.encode(phrase).ids)


def test_phrases_are_frequent_runs_of_words_that_matter(words: Tokenizer) -> None:
    importance = np.zeros(words.get_vocab_size(), np.float32)
    importance[list(ids(words, "not n't"))] = 3, 2
    found = find_phrases(words, TEXTS, importance, 9, min_count=2)
    # A run is of one text, and neither starts with nor crosses punctuation.
    assert found == [
        ids(words, phrase)
        for phrase in sorted(("not a", "not a fine"), key=lambda phrase: ids(words, phrase))
    ] + [ids(words, "does n't"), ids(words, "a fine")]
    assert find_phrases(words, TEXTS, importance, 1, min_count=2) == found[:1]
    assert find_phrases(words, ["fine"], importance, 9, min_count=1) == []


def test_the_longest_phrase_is_one_token_however_it_is_written(words: Tokenizer) -> None:
    phrases = [ids(words, phrase) for phrase in ("not a", "not a fine", "does n't")]
    tokenizer = add_phrases(words, phrases)
    assert tokenizer.get_vocab_size() == words.get_vocab_size() + 3
    assert tokenizer.token_to_id("not a fine") == words.get_vocab_size() + 1
    assert tokenizer.encode("Not  a fine film, not a day").tokens == [
        "not a fine", "film", ",", "not a", "day",
    ]  # fmt: skip
    for text in ("it does n't work", "it doesn't work", "it doesn\u2019t\twork"):
        assert tokenizer.encode(text).tokens == ["it", "does n't", "work"]
    reloaded = Tokenizer.from_str(tokenizer.to_str())
    assert reloaded.encode("knot a fine film").tokens == words.encode("knot a fine film").tokens


def test_a_phrase_matters_as_much_as_its_weightiest_word() -> None:
    importance = np.array([0.5, 2.0, 1.0], np.float32)
    expected = np.array([0.5, 2.0, 1.0, 2.0, 1.0], np.float32)
    result = phrase_importance(importance, [(0, 1, 2), (0, 2)])
    np.testing.assert_array_equal(result, expected)
    assert result.dtype == np.float32
