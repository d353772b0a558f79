"""Which parts of a text are read: the same that the classifier reads, in their places."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhe_inhibitor.app.reading import read
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.integer.public import PublicModel
from fhe_inhibitor.text.markup import without_markup
from tests.tiny_model import WORDS, write_tiny_model

NANO = IntegerModel.load()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> IntegerModel:
    return IntegerModel.load(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny"))


def test_the_most_important_tokens_are_marked_where_they_stand(tiny: IntegerModel) -> None:
    words = ["the", "film", "is", "bad", "but", "the", "film", "is", "good"]
    ids = [tiny.tokenizer.token_to_id(word) for word in words]
    by_importance = sorted(range(len(ids)), key=lambda i: (-tiny.importance[ids[i]], i))
    wanted = {i for i in by_importance[:3]}
    reading = read(tiny, " ".join(words), 3)
    marked = [part for part in reading.parts if part.kind != "between"]
    assert [part.text for part in marked] == words
    assert {i for i, part in enumerate(marked) if part.kind == "read"} == wanted
    assert (reading.bucket, reading.tokens.n_cut) == (4, 6)


@pytest.mark.parametrize("causal", [False, True])
@given(
    words=st.lists(st.sampled_from(WORDS.split()), min_size=1, max_size=12),
    max_tokens=st.integers(1, 4),
)
@settings(max_examples=40, deadline=None)
def test_what_is_marked_is_what_is_read(
    tiny: IntegerModel, causal: bool, words: list[str], max_tokens: int
) -> None:
    """The tokens that are marked, in their order, are those that the model gets in its own."""
    given = {part.name: getattr(tiny, part.name) for part in fields(PublicModel)}
    public = PublicModel(**{**given, "causal": causal})
    reading = read(public, " ".join(words), max_tokens)
    read_here = [part.text for part in reading.parts if part.kind == "read"]
    assert tuple(read_here) == reading.tokens.tokens
    assert "".join(part.text for part in reading.parts) == " ".join(words)


@given(st.text(min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_no_text_is_changed_or_lost(text: str) -> None:
    try:
        reading = read(NANO, text)
    except InputError:
        return
    assert "".join(part.text for part in reading.parts) == without_markup(text)
    n_marked = sum(part.kind == "read" for part in reading.parts)
    assert n_marked <= len(reading.tokens.tokens)
    marked = [part.text for part in reading.parts if part.kind != "between"]
    assert all(part and part == part.strip() for part in marked)
