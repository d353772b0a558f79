"""Augmented texts, and the corpus that is made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.text.augmentation import as_treebank, augment, word_neighbours
from fhe_inhibitor.text.data import LabelledText
from fhe_inhibitor.training import corpus as corpus_module
from fhe_inhibitor.training.corpus import Corpus, build_corpus, load_corpus
from fhe_inhibitor.training.teacher import predict_logits
from tests.fhe_inhibitor.training.test_teacher import TRAIN
from tests.tiny_teacher import tiny_teacher

SENTENCE = "the old gardener and his patient dog walk through a garden of quiet wonders ."
PHRASES = ["a garden of quiet wonders", "the old gardener", "a field of loud birds", "the dog", "."]
PHRASES += ["his patient dog", "quiet wonders", "walk", "the young baker", "of quiet wonders"]
REVIEWS = ['We didn\'t like the "garden", though the birds sang well. Never again!', "Too short."]
HELD_OUT = [LabelledText("not a film for a very poor , very dull , very fine friend .", 0)]


def test_the_train_texts_come_first_and_all_differ() -> None:
    train = [SENTENCE, *PHRASES]
    texts = augment([*train, SENTENCE], REVIEWS, 80, seed=1)
    assert len(texts) == len(set(texts)) == 80
    assert texts[: len(train)] == train
    assert {"we did n't like the garden", "though the birds sang well", "too short ."} < {*texts}
    assert "never again" not in texts
    assert augment(train, REVIEWS, 5, seed=1) == train[:5]


def test_the_seed_decides() -> None:
    train = [SENTENCE, *PHRASES]
    assert augment(train, REVIEWS, 60, seed=1) == augment(train, REVIEWS, 60, seed=1)
    assert augment(train, REVIEWS, 60, seed=1) != augment(train, REVIEWS, 60, seed=2)


def test_phrases_are_exchanged_and_words_replaced() -> None:
    train = [SENTENCE, *PHRASES]
    texts = augment(train, [], 400, seed=0, neighbours={"patient": ["weary"]})
    assert any("through a field of loud birds" in text for text in texts)
    assert any("weary dog" in text for text in texts)
    known = {word for text in train for word in text.split()}
    joints = {"but", "and", "yet", "though", "because", ",", ".", ";", "--", "weary"}
    assert {word for text in texts for word in text.split()} <= known | joints


def test_what_cannot_be_made_does_not_go_on_for_ever() -> None:
    assert augment(["fine"], [], 3, seed=0)[0] == "fine"
    for n_texts, train in ((0, ["fine"]), (3, [])):
        with pytest.raises(InputError, match="must be positive"):
            augment(train, [], n_texts, seed=0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It doesn't work, I've seen.", "it does n't work , i 've seen ."),
        ("Can\u2019t stop (really)...", "ca n't stop ( really ) ..."),
        ("it 's a well-made film", "it 's a well-made film"),
        ('the ""best"" of 1,000 at 3.5%', "the best of 1,000 at 3.5 %"),
    ],
)
def test_texts_are_written_as_the_treebank_does(text: str, expected: str) -> None:
    assert as_treebank(text) == expected
    assert as_treebank(expected) == expected


def test_neighbours_point_the_same_way(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(
        '{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],'
        '"normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,'
        '"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "c": 2}, "unk_token": "a"}}'
    )
    features = np.array([[1.0, 0.0], [9.0, 1.0], [0.0, 1.0]])
    neighbours = word_neighbours(tokenizer, features, ["a", "b", "c", "unknown"], n_neighbours=1)
    assert neighbours == {"a": ["b"], "b": ["a"], "c": ["b"]}


def build(folder: Path, **changes: int) -> Corpus:
    arguments = {"n_texts": 60, "n_phrases": 5, "seed": 0, **changes}
    return build_corpus(
        tiny_teacher(), TRAIN, HELD_OUT, [SENTENCE, *REVIEWS], cache_dir=folder, **arguments
    )


def test_a_corpus_has_the_teachers_view_of_each_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_module, "SHARD_TEXTS", 25)
    monkeypatch.setattr(corpus_module, "full_sentences", lambda texts: range(len(texts)))
    corpus = build(tmp_path)
    texts = (tmp_path / "texts.txt").read_text().splitlines()
    assert corpus.complete and len(corpus.texts) == len(texts) > 50
    tokenizer = Tokenizer.from_file(str(corpus.tokenizer_path))
    for index, text in enumerate(texts):
        assert corpus.texts[index].tolist() == tokenizer.encode(text).ids
    np.testing.assert_allclose(
        corpus.texts.logits, predict_logits(tiny_teacher(), texts), atol=2e-2
    )
    gold = dict(TRAIN)
    assert corpus.texts.labels.tolist() == [gold.get(text, -1) for text in texts]
    assert len(corpus.features) == len(corpus.importance) == tokenizer.get_vocab_size()
    assert corpus.held_out.labels.tolist() == [0]


def test_a_corpus_is_read_as_far_as_it_goes_and_taken_up_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_module, "SHARD_TEXTS", 25)
    monkeypatch.setattr(corpus_module, "full_sentences", lambda texts: range(len(texts)))
    with pytest.raises(InputError, match="no corpus yet"):
        load_corpus(tmp_path)
    whole = build(tmp_path)
    (tmp_path / "logits" / "00001.npz").unlink()
    part = load_corpus(tmp_path)
    assert not part.complete and len(part.texts) == 25
    np.testing.assert_array_equal(part.texts.ids, whole.texts.ids[: len(part.texts.ids)])
    np.testing.assert_array_equal(build(tmp_path).texts.logits, whole.texts.logits)
    with pytest.raises(InputError, match="other seed"):
        build(tmp_path, seed=1)


def test_a_corpus_without_labels_has_the_same_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_module, "full_sentences", lambda texts: range(len(texts)))
    bare = build(tmp_path, labelled=False)
    assert bare.complete and not list((tmp_path / "logits").iterdir())
    assert np.isnan(bare.texts.logits).all()
    labelled = build(tmp_path)
    np.testing.assert_array_equal(bare.texts.ids, labelled.texts.ids)
    assert bare.texts.logits.shape == labelled.texts.logits.shape
