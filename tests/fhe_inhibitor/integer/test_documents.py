"""Long documents in the clear: how they are cut, and that their logits are sums over pieces."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuits.counts import count_document_lookups, count_lookups
from circuits.documents import MAX_PIECES, scoring
from circuits.lookups import exact_lookup
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.documents import (
    PIECE,
    count_lookups_of,
    cut_documents,
    document_logits,
    encode_pieces,
    mean_logits,
    measure_neutral,
    tell_neutral,
    write_neutral,
)
from fhe_inhibitor.integer.evaluation import evaluate, predict, predict_documents
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.integer.public import PublicModel
from fhe_inhibitor.text.data import LabelledText
from tests.observers import Recorder
from tests.tiny_model import WORDS, write_tiny_model

SENTENCE = "the film is very good and bad ."  # 8 tokens: a piece, if 2 of them are read
LONG = f"{SENTENCE} " * 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def model(folder: Path) -> IntegerModel:
    return IntegerModel.load(folder)


def test_sentences_stay_whole_and_fill_pieces(model: IntegerModel) -> None:
    """8 tokens fit in a piece: the first two sentences do together, the third is cut in two."""
    assert PIECE == 4
    text = "a good film . it is bad . the the the the the the the the the the . dull dull dull dull"
    (document,) = cut_documents(model, [text], 2)
    assert (document.n_pieces, document.n_total) == (4, 23)
    everything = replace(model, importance=np.zeros_like(model.importance))
    (document,) = cut_documents(everything, [text], 2)
    assert [piece.n_total for piece in document.pieces] == [8, 6, 5, 4]
    assert [piece.tokens for piece in document.pieces] == [
        ("a", "good"), ("the", "the"), ("the", "the"), ("dull", "dull"),
    ]  # fmt: skip


@given(words=st.lists(st.sampled_from([*WORDS.split(), "\n\n", "<br /><br />", ". "]), min_size=1))
def test_every_token_is_in_one_piece(model: IntegerModel, words: list[str]) -> None:
    text = " ".join(words) + " film"
    read = replace(model, importance=np.zeros_like(model.importance))
    for n in (1, 3, 4):
        (document,) = cut_documents(read, [text], n)
        sizes = [piece.n_total for piece in document.pieces]
        assert max(sizes) <= PIECE * n
        if len(document.pieces) == document.n_pieces:
            assert sum(sizes) == document.n_total
        assert len(document.pieces) == min(document.n_pieces, MAX_PIECES)


def test_pieces_are_spread_over_the_text(model: IntegerModel) -> None:
    words = ["good", "bad", "great", "dull", "film"]
    text = " ".join(f"{word} the the the the the the ." for word in words)
    first = replace(model, importance=np.zeros_like(model.importance))
    for limit, expected in {1: [2], 2: [0, 4], 3: [0, 2, 4], 5: [0, 1, 2, 3, 4]}.items():
        (document,) = cut_documents(first, [text], 2, limit)
        assert [piece.tokens[0] for piece in document.pieces] == [words[i] for i in expected]
        assert document.n_pieces == 5
    assert document.describe() == "5 of 5 pieces are read, 10 of 40 tokens"


@pytest.mark.parametrize("limit", [0, MAX_PIECES + 1])
def test_another_number_of_pieces_is_refused(model: IntegerModel, limit: int) -> None:
    with pytest.raises(InputError, match=f"{limit} pieces asked for; wanted 1 to 16"):
        cut_documents(model, [LONG], None, limit)


def test_a_text_that_is_none_is_named(model: IntegerModel) -> None:
    with pytest.raises(InputError, match="text 2 of 2: the text is empty"):
        cut_documents(model, [LONG, "  "])
    with pytest.raises(InputError, match="5 tokens asked for"):
        cut_documents(model, [LONG], 5)


def test_logits_are_the_sum_of_scores_in_steps(model: IntegerModel) -> None:
    (document,) = cut_documents(model, [LONG], 2)
    pieces = encode_pieces(model, document)
    assert [x.shape for x, _ in pieces] == [(2, model.network.dim)] * 5
    how = scoring(model.network)
    scores = [exact_lookup(model.integer_logits(*piece), how.table) for piece in pieces]
    expected = how.step * np.sum(scores, axis=0)
    np.testing.assert_array_equal(document_logits(model, pieces), expected)
    calibrated = replace(model, neutral_logits=(1.5, -2.0))
    found = mean_logits(calibrated, expected, document)
    np.testing.assert_allclose(found, expected / 5 - [1.5, -2.0])


def test_pieces_have_the_length_of_the_longest(model: IntegerModel) -> None:
    (document,) = cut_documents(model, [f"{SENTENCE} {SENTENCE} bad"], 4)
    assert [len(piece.ids) for piece in document.pieces] == [4, 1]
    pieces = encode_pieces(model, document)
    assert [len(x) for x, _ in pieces] == [4, 4]
    assert pieces[1][1].tolist() == [0, 1, 1, 1]


def test_a_text_of_one_piece_is_read_as_ever(model: IntegerModel) -> None:
    calibrated = replace(model, neutral_logits=(30.0, -30.0))
    rows = [LabelledText("a good film", 1), LabelledText(SENTENCE, 0)]
    np.testing.assert_array_equal(predict_documents(calibrated, rows), predict(model, rows))
    noise = [predict_documents(calibrated, rows, seed=seed).tobytes() for seed in range(40)]
    assert len(set(noise)) > 1


def test_evaluation_reads_long_texts_piece_by_piece(model: IntegerModel) -> None:
    rows = [LabelledText(LONG, 0), LabelledText("good film . " * 9, 1)]
    logits = predict_documents(model, rows, 2, 3)
    expected = np.mean(
        [found.argmax() == row.label for found, row in zip(logits, rows, strict=True)]
    )
    recorder = Recorder()
    found = evaluate(model, rows, 2, observer=recorder, max_pieces=3)
    assert (found.value, found.n_texts) == (expected, 2)
    assert recorder.finished("texts") == recorder.planned("texts") == 2


def test_lookups_are_those_of_each_piece(model: IntegerModel) -> None:
    one, several = cut_documents(model, ["good", LONG], 2, 3)
    stages = count_lookups(model.network, 2)
    assert count_lookups_of(model, one) == sum(stages.values(), Counter())
    del stages["classify"]
    stages["score"] = count_document_lookups(model.network)["score"]
    each = sum(stages.values(), Counter())
    assert count_lookups_of(model, several) == each + each + each
    network = replace(model.network, client_boundary="projection")
    total = count_lookups_of(replace(model, network=network), several)
    assert total == Counter({w: 3 * n for w, n in (each - stages["layer0.project"]).items()})


def test_neutral_logits_are_those_of_a_piece_on_average(model: IntegerModel, folder: Path) -> None:
    texts = [LONG, "bad . " * 9, "good"]  # the last one is one piece, and doesn't count
    documents = cut_documents(model, texts, 2)
    sums = [document_logits(model, encode_pieces(model, document)) for document in documents[:2]]
    n_pieces = sum(len(document.pieces) for document in documents[:2])
    expected = np.sum(sums, axis=0) / n_pieces
    found = measure_neutral(model, texts, 2)
    assert found == pytest.approx(expected, abs=5e-4)
    with pytest.raises(InputError, match="none of 1 texts is longer than one piece"):
        measure_neutral(model, ["good"])
    assert model.neutral_logits == ()
    recorder = Recorder()
    tell_neutral(model, documents[2:], recorder)
    assert recorder.notes == []
    tell_neutral(model, documents, recorder)
    assert "calibrate" in recorder.notes[0]
    path = folder / "neutral_logits.json"
    write_neutral(folder, model, found, "texts")
    loaded = IntegerModel.load(folder)
    assert (loaded.neutral_logits, loaded.hash) == (found, model.hash)
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_hash": "0" * 64}))
    assert IntegerModel.load(folder).neutral_logits == ()
    path.unlink()


def test_the_public_part_has_neutral_logits_for_long_documents_alone(
    model: IntegerModel, tmp_path: Path
) -> None:
    """Else they would change the hash of circuits that don't need them."""
    calibrated = replace(model, neutral_logits=(1.5, -2.0))
    written = []
    for index, (public, documents) in enumerate(
        [(model, False), (calibrated, False), (calibrated, True)]
    ):
        folder = tmp_path / str(index)
        folder.mkdir()
        public.write_public(folder, documents)
        written.append((folder / "embedding.safetensors").read_bytes())
    assert written[0] == written[1] != written[2]
    assert PublicModel.load(tmp_path / "1").neutral_logits == ()
    assert PublicModel.load(tmp_path / "2").neutral_logits == (1.5, -2.0)
