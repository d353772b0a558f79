"""Characters as tokens: tokenizer and streams agree, and generated text is the same every time."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fhe_inhibitor.text.characters import (
    CHARACTERS,
    FIRST_ID,
    LABELS,
    VOCAB_SIZE,
    character_stream,
    character_tokenizer,
    generate_sentences,
)

TOKENIZER = character_tokenizer()


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=20) | st.text(CHARACTERS + "XÉ\n-", max_size=20))
def test_tokenizer_and_stream_read_the_same_characters(text: str) -> None:
    ids = character_stream([text])
    assert ids[-1] == FIRST_ID  # the space that ends each sentence
    assert TOKENIZER.encode(text).ids == ids[:-1].tolist()
    kept = "".join(character for character in text.lower() if character in CHARACTERS)
    assert "".join(CHARACTERS[i - FIRST_ID] for i in ids[:-1]) == kept


def test_each_character_has_a_token_and_a_label() -> None:
    assert TOKENIZER.get_vocab_size() == VOCAB_SIZE == FIRST_ID + len(LABELS) == 32
    assert TOKENIZER.encode(CHARACTERS).ids == list(range(FIRST_ID, VOCAB_SIZE))
    assert len(set(LABELS)) == len(LABELS) and LABELS[1:] == tuple(CHARACTERS[1:])


def test_generated_sentences_are_the_same_for_the_same_seed_and_all_readable() -> None:
    sentences = generate_sentences(200, seed=1)
    assert sentences == generate_sentences(200, seed=1) != generate_sentences(200, seed=2)
    assert len(set(sentences)) > 100
    text = " ".join(sentences)
    assert set(text) <= set(CHARACTERS) and " ." not in text and " ," not in text
    assert np.array_equal(np.unique(character_stream([text]) >= FIRST_ID), [True])
