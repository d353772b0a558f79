"""The student's tokenizer, and what is public about its entries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.training.teacher import Teacher, predict_logits
from fhe_inhibitor.training.vocabulary import (
    _expected_importance,
    extend_wordpiece,
    leave_one_out,
    token_features,
    token_importance,
)
from tests.fhe_inhibitor.training.test_teacher import TRAIN
from tests.tiny_teacher import WORDS, tiny_teacher

TEXTS = ["a dullish film .", "Dullish!", "dullish, not fine", "it isn't dull", "poorish"]


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return tiny_teacher()


@pytest.fixture(scope="module")
def student(teacher: Teacher) -> Tokenizer:
    return extend_wordpiece(teacher.tokenizer, TEXTS, min_count=3)


def test_frequent_words_become_one_token_and_the_others_keep_their_ids(student: Tokenizer) -> None:
    assert [student.id_to_token(i) for i in range(len(WORDS))] == WORDS
    assert student.get_vocab_size() == len(WORDS) + 1
    assert student.encode("A dullish, poorish film.").tokens == [
        "a", "dullish", ",", "poor", "##ish", "film", "."
    ]  # fmt: skip


def test_appended_words_are_in_order_of_frequency(teacher: Teacher) -> None:
    student = extend_wordpiece(teacher.tokenizer, TEXTS, min_count=1)
    added = [student.id_to_token(i) for i in range(len(WORDS), student.get_vocab_size())]
    assert added == ["dullish", "!", "is", "it", "n't", "poorish"]


def test_a_contraction_is_a_word_of_its_own(teacher: Teacher) -> None:
    words = ["n't", "'s", "did", "it", "rock", "n", "'", "'re"]
    student = extend_wordpiece(teacher.tokenizer, words, min_count=1)
    for text in ("It's it didn't", "it 's it did n't", "it\u2019s it didn\u2019t"):
        assert student.encode(text).tokens == ["it", "'s", "it", "did", "n't"]
    assert student.encode("rock'n'rock").tokens == ["rock", "'", "n", "'", "rock"]


def test_a_saved_tokenizer_is_the_same_one(student: Tokenizer, tmp_path: Path) -> None:
    student.save(str(tmp_path / "tokenizer.json"))
    reloaded = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in [*TEXTS, "", " \u65e5\u672c caf\u00e9 "]:
        assert reloaded.encode(text).ids == student.encode(text).ids


def test_a_tokenizer_without_word_pieces_is_refused() -> None:
    backend = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]"))
    with pytest.raises(InputError, match="is a WordLevel"):
        extend_wordpiece(PreTrainedTokenizerFast(tokenizer_object=backend), TEXTS)


def test_features_are_standardised_and_those_of_special_entries_zero(
    teacher: Teacher, student: Tokenizer
) -> None:
    features = token_features(teacher, student)
    assert features.dtype == np.float32 and features.shape[0] == student.get_vocab_size()
    assert not features[:5].any()
    np.testing.assert_allclose(features[5:].mean(0), 0, atol=1e-4)
    # The last column is the logit difference of the word as a text, up to scale and shift.
    words = [WORDS[5:].index(word) for word in ("fine", "poor", "film")]
    logits = predict_logits(teacher, ["fine", "poor", "film"])
    expected, found = logits[:, 1] - logits[:, 0], features[5:, -1][words]
    np.testing.assert_allclose(
        (expected[0] - expected[1]) / (expected[0] - expected[2]),
        (found[0] - found[1]) / (found[0] - found[2]),
        rtol=0.05,
    )


def test_leaving_a_word_out_reads_the_text_without_it(teacher: Teacher, student: Tokenizer) -> None:
    changes, ids = leave_one_out(teacher, student, ["fine", "a dullish film"])
    assert [student.id_to_token(i) for i in ids] == ["a", "dullish", "film"]
    logits = predict_logits(teacher, ["a dullish film", "dullish film", "a film", "a dullish"])
    differences = logits[:, 1] - logits[:, 0]
    np.testing.assert_allclose(changes, np.abs(differences[1:] - differences[0]), atol=1e-2)


def test_importance_is_the_mean_change_shrunk_towards_what_is_expected(
    teacher: Teacher, student: Tokenizer
) -> None:
    texts = [row.text for row in TRAIN]
    features = token_features(teacher, student)
    changes, ids = leave_one_out(teacher, student, texts)
    exact = token_importance(teacher, student, texts, features, prior_count=0.001)
    fine = student.token_to_id("fine")
    assert exact[fine] == pytest.approx(changes[ids == fine].mean(), rel=1e-2)
    importance = token_importance(teacher, student, texts, features)
    assert importance.dtype == np.float32 and (importance >= 0).all()
    assert not importance[:5].any()
    with pytest.raises(InputError, match="none of the 1 texts has two words"):
        token_importance(teacher, student, ["fine"], features)


def test_a_cased_tokenizer_keeps_case_and_splits_what_the_teacher_splits() -> None:
    teacher = tiny_teacher(more_words=["Film", "\u00e9t\u00e9", "ete", "\u65e5", "\u672c"])
    backend = teacher.tokenizer.backend_tokenizer
    text = "Film film \u00e9t\u00e9 \u65e5\u672c"
    assert extend_wordpiece(teacher.tokenizer, []).encode(text).tokens == [
        "film", "film", "ete", "\u65e5", "\u672c"
    ]  # fmt: skip
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    cased = extend_wordpiece(teacher.tokenizer, ["Dullish"] * 3)
    assert cased.encode(text).tokens == ["Film", "film", "\u00e9t\u00e9", "\u65e5", "\u672c"]
    assert cased.encode("Dullish").tokens == ["Dullish"]


def test_a_wordpiece_of_another_form_is_refused() -> None:
    for backend in (
        Tokenizer(models.WordPiece({"[UNK]": 0, "[PAD]": 1}, unk_token="[UNK]")),
        Tokenizer(models.WordPiece({"[PAD]": 0, "<unk>": 1}, unk_token="<unk>")),
        Tokenizer(
            models.WordPiece(
                {"[PAD]": 0, "[UNK]": 1}, unk_token="[UNK]", continuing_subword_prefix="@@"
            )
        ),
    ):
        with pytest.raises(InputError, match="wanted a WordPiece with"):
            extend_wordpiece(PreTrainedTokenizerFast(tokenizer_object=backend), TEXTS)


def test_all_logits_count_in_what_importance_is_expected() -> None:
    """Of three classes, a word for the second one matters as much as one for the third."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 4)).astype(np.float32)  # the last two are logits
    changes = np.abs(features[:, 2:]).sum(axis=1)
    counts = np.full(400, 20.0)
    error, if_only_the_last = (
        np.abs(_expected_importance(features, changes * counts, counts, n) - changes).mean()
        for n in (2, 1)
    )
    assert error < 0.5 * if_only_the_last
