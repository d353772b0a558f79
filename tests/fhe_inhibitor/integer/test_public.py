"""The public part of a model goes through two plain files, and holds nothing of the network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from circuits.lookups import exact_lookup
from circuits.stages import project
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.documents import cut_documents
from fhe_inhibitor.integer.evaluation import predict
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.integer.public import PublicModel
from fhe_inhibitor.runtime.manifest import EMBEDDING_FILE, TOKENIZER_FILE
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.text.data import LabelledText
from tests.observers import Recording
from tests.tiny_model import SHAPE, write_tiny_model


@pytest.fixture
def model(tmp_path: Path) -> IntegerModel:
    return IntegerModel.load(write_tiny_model(tmp_path / "tiny"))


@pytest.mark.parametrize("boundary", ["embedding", "projection"])
def test_the_client_computes_what_the_whole_model_does(
    model: IntegerModel, tmp_path: Path, boundary: str
) -> None:
    model = replace(model, network=replace(model.network, client_boundary=boundary))
    model.write_public(tmp_path)
    public = PublicModel.load(tmp_path)
    text = "the film is n't very good"
    read, expected = public.tokenize(text), model.tokenize(text)
    assert (read.tokens, read.n_total) == (expected.tokens, expected.n_total)
    for value, other in zip(public.encode(read), model.encode(expected), strict=True):
        assert np.array_equal(value, other)
    x, _ = public.encode(read)
    projections, others = public.projections(x), model.projections(x)
    assert set(projections) == set(others)
    assert all(np.array_equal(projections[name], others[name]) for name in others)
    assert bool(projections) == (boundary == "projection")
    logits = np.array([3, -4])
    assert np.array_equal(public.probabilities(logits), model.probabilities(logits))


def test_only_a_causal_model_s_file_says_so(model: IntegerModel, tmp_path: Path) -> None:
    """Files and hashes of models that aren't stay what they were before there were causal ones."""
    causal_shape = replace(SHAPE, n_layers=1, causal=True, last_query="first")
    causal = IntegerModel.load(write_tiny_model(tmp_path / "causal", shape=causal_shape))
    boundary = replace(causal.network, client_boundary="projection")
    causal = replace(causal, network=boundary)
    for name, given in (("plain", model), ("causal", causal)):
        (tmp_path / f"{name} public").mkdir()
        given.write_public(tmp_path / f"{name} public")
    files = [tmp_path / f"{name} public" / EMBEDDING_FILE for name in ("plain", "causal")]
    assert [b'\\"causal\\"' in file.read_bytes() for file in files] == [False, True]
    assert not PublicModel.load(files[0].parent).causal
    public = PublicModel.load(files[1].parent)
    assert public.causal
    x, _ = public.encode(public.tokenize("a good film"))
    sent = public.projections(x)["layer0.head0.q"]
    assert np.array_equal(sent, project(x, causal.network.layers[0], exact_lookup)[0][0])
    assert sent.shape == (1, 2)


def test_equal_models_give_equal_bytes(model: IntegerModel, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        model.write_public(tmp_path / folder)
    for name in (EMBEDDING_FILE, TOKENIZER_FILE):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_network_is_not_in_the_file(model: IntegerModel, tmp_path: Path) -> None:
    model.write_public(tmp_path)
    assert set(load_file(tmp_path / EMBEDDING_FILE)) == {"embedding", "importance", "positions"}


def test_of_several_texts_the_bad_one_is_named(model: IntegerModel) -> None:
    for texts, words in (
        (["a film", "\u200b"], "^text 2 of 2: the text is empty"),
        (["<br />", "a film"], "^text 1 of 2: the text is empty"),
        ([" "], "^the text is empty"),
    ):
        with pytest.raises(InputError, match=words):
            model.tokenize_many(texts, None, False, Observer())
    rows = [LabelledText("a film", 0), LabelledText("\u200b", 0)]
    with pytest.raises(InputError, match="^text 2 of 2"):
        predict(model, rows)


@pytest.mark.parametrize("text", [None, 5, b"a film", ["a film"]])
def test_what_is_no_string_is_no_text(model: IntegerModel, text) -> None:
    for call in (model.tokenize, lambda x: model.tokenize_many([x], None, False, Observer())):
        with pytest.raises(TypeError, match="a text is a string"):
            call(text)
    for texts in ("a", "a film", b"a film"):
        with pytest.raises(TypeError, match="a list of texts|a text is a string"):
            model.tokenize_many(texts, None, False, Observer())


@pytest.mark.parametrize("number", ["2", 2.5, [2]])
def test_numbers_of_tokens_and_pieces_are_whole(model: IntegerModel, number) -> None:
    with pytest.raises(InputError, match="tokens asked for, .* reads 1 to 4"):
        model.tokenize("good", number)
    with pytest.raises(InputError, match="pieces asked for; wanted 1 to 16"):
        cut_documents(model, ["good"], 2, number)
    assert model.tokenize("good film", np.int64(1)).n_cut == 1


def test_markup_is_read_as_what_it_stands_for(model: IntegerModel) -> None:
    assert model.tokenize("good<br />film").tokens == ("good", "film")
    assert model.tokenize("it&#39;s").n_total == model.tokenize("it's").n_total


def test_a_text_that_is_too_long_is_cut_or_refused(model: IntegerModel) -> None:
    tokens = model.tokenize("the film is n't very good")
    assert tokens.describe_cut().startswith("2 of 6 tokens are cut, the 4 most important are read")
    with pytest.raises(InputError, match="6 tokens, 4 would be read"):
        model.tokenize("the film is n't very good", strict=True)
    assert model.tokenize("good film", strict=True).n_cut == 0
    with pytest.raises(InputError, match="not UTF-8"):
        model.tokenize("good \udcff")


@pytest.mark.parametrize("cls_token_id", [None, 0])
def test_a_text_of_which_no_token_is_known_has_a_note(
    model: IntegerModel, cls_token_id: int | None
) -> None:
    model = replace(model, cls_token_id=cls_token_id)
    texts, observer = (
        ["good \N{SLIGHTLY SMILING FACE}", "\N{SLIGHTLY SMILING FACE} xyz"],
        Recording(),
    )
    model.tokenize_many(texts, None, False, observer)
    model.tokenize_each(texts, None, False, observer)
    said = "tiny knows no token of the text, so its label says nothing: [UNK] [UNK]"
    assert observer.notes == [said, f"text 2 of 2: {said}"]


@pytest.mark.parametrize("name", [EMBEDDING_FILE, TOKENIZER_FILE])
def test_a_damaged_or_missing_file_is_named(model: IntegerModel, tmp_path: Path, name: str) -> None:
    model.write_public(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=name):
        PublicModel.load(tmp_path)
    path.unlink()
    with pytest.raises(InputError, match=name):
        PublicModel.load(tmp_path)


def test_files_of_different_models_are_refused(model: IntegerModel, tmp_path: Path) -> None:
    model.write_public(tmp_path)
    shorter = replace(model, embedding=model.embedding[:-1])
    (tmp_path / "other").mkdir()
    shorter.write_public(tmp_path / "other")
    (tmp_path / "other" / EMBEDDING_FILE).rename(tmp_path / EMBEDDING_FILE)
    with pytest.raises(InputError, match="different models"):
        PublicModel.load(tmp_path)
