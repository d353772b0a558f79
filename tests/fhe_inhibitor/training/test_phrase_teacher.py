"""The teacher by phrases: the same states as its own, pooled; embeddings and a student to start."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.model.configuration import InhibiDistilBertConfig
from fhe_inhibitor.model.from_distilbert import from_distilbert
from fhe_inhibitor.model.modeling import InhibiDistilBertForSequenceClassification
from fhe_inhibitor.model.quantized.network import centre_keys
from fhe_inhibitor.training.full_size import compilable_student
from fhe_inhibitor.training.phrase_teacher import GROUP, PhraseTeacher, phrase_embeddings
from fhe_inhibitor.training.phrases import add_phrases
from fhe_inhibitor.training.teacher import Teacher
from fhe_inhibitor.training.vocabulary import extend_wordpiece
from tests.tiny_teacher import WORDS, tiny_teacher

torch.set_num_threads(1)  # tensors here are too small to share

CLS, SEP = WORDS.index("[CLS]"), WORDS.index("[SEP]")
SHAPE: dict[str, Any] = {
    "threshold": "head",
    "classifier_query": "cls",
    "normalization": "static",
    "dropout": 0.0,
    "n_tokens": 8,
    "quantization": {},
}


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    """Its positions move words little, as a trained one's do."""
    teacher = tiny_teacher(initializer_range=0.3)
    with torch.no_grad():
        teacher.model.distilbert.embeddings.position_embeddings.weight *= 0.2
    return teacher


@pytest.fixture(scope="module")
def tokenizer(teacher: Teacher) -> Tokenizer:
    """WORDS, "dullish" and the phrase "not fine"."""
    words = extend_wordpiece(teacher.tokenizer, ["dullish"], min_count=1)
    phrases = [(WORDS.index("not"), WORDS.index("fine"))]
    return add_phrases(words, phrases, np.ones(words.get_vocab_size() + 1, np.float32))


@pytest.fixture(scope="module")
def reader(teacher: Teacher, tokenizer: Tokenizer) -> PhraseTeacher:
    return PhraseTeacher(teacher, tokenizer)


def pieces(words: str) -> list[int]:
    return [WORDS.index(word) for word in words.split()]


def ids_of(tokenizer: Tokenizer, *texts: str) -> tuple[Tensor, Tensor]:
    """The student's ids, [CLS] first, and mask."""
    rows = [[CLS, *tokenizer.encode(text).ids] for text in texts]
    longest = max(map(len, rows))
    padded = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    return padded, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])


def test_entries_are_read_as_they_stand_in_a_text(
    tokenizer: Tokenizer, reader: PhraseTeacher
) -> None:
    (film, dullish, phrase) = tokenizer.encode("film dullish not fine").ids
    assert reader.pieces[film] == pieces("film")
    assert reader.pieces[dullish] == pieces("dull ##ish")
    assert reader.pieces[phrase] == pieces("not fine")
    assert reader.pieces[WORDS.index("##ish")] == pieces("##ish")
    assert reader.pieces[CLS] == [CLS]


def test_states_are_the_teacher_s_own_pooled_over_pieces(
    teacher: Teacher, tokenizer: Tokenizer, reader: PhraseTeacher
) -> None:
    ids, mask = ids_of(tokenizer, "a dullish film not fine", "film")
    observed = reader(ids, mask)
    row = torch.tensor([[CLS, *pieces("a dull ##ish film not fine"), SEP]])
    with torch.no_grad():
        output = teacher.model(row, output_hidden_states=True)
    torch.testing.assert_close(observed.logits[:1], output.logits, atol=0.05, rtol=0.05)
    assert len(observed.states) == len(output.hidden_states)
    for pooled, state in zip(observed.states, output.hidden_states, strict=True):
        wanted = torch.stack([state[0, own].mean(dim=0) for own in ([0], [1], [2, 3], [4], [5, 6])])
        torch.testing.assert_close(pooled[0], wanted, atol=0.06, rtol=0.05)  # bfloat16
        assert not pooled[1, 2:].any()  # padding


def test_a_text_is_read_the_same_in_any_batch(tokenizer: Tokenizer, reader: PhraseTeacher) -> None:
    """Though a batch is read in groups of texts that are alike in length."""
    words = ["a", "dullish", "film", "not", "fine"]
    texts = [" ".join(words[: 1 + i % len(words)]) for i in range(2 * GROUP + 3)]
    together = reader(*ids_of(tokenizer, *texts))
    for row, text in enumerate(texts[: len(words)]):
        alone = reader(*ids_of(tokenizer, text))
        torch.testing.assert_close(together.logits[row], alone.logits[0], atol=0.05, rtol=0.05)
        for state, own in zip(together.states, alone.states, strict=True):
            n = own.shape[1]
            torch.testing.assert_close(state[row, :n], own[0], atol=0.06, rtol=0.05)  # bfloat16
            assert not state[row, n:].any()


def test_embeddings_start_at_what_the_teacher_makes_of_the_pieces(
    teacher: Teacher, tokenizer: Tokenizer, reader: PhraseTeacher
) -> None:
    rows = teacher.tokenizer(["a fine film", "dull film ."])["input_ids"]
    table, positions = phrase_embeddings(reader, rows, 6)
    ids, mask = ids_of(tokenizer, "a dullish film not fine", "film")
    wanted = reader(ids, mask).states[0]
    found = table[ids] + positions[: ids.shape[1]]
    torch.testing.assert_close(found[:, 0], wanted[:, 0], atol=0.02, rtol=0.02)
    error = (found - wanted)[mask.bool()].square().mean()
    assert error < 0.1 * wanted[mask.bool()].var()


def test_a_student_starts_from_its_teacher(
    teacher: Teacher, tokenizer: Tokenizer, reader: PhraseTeacher
) -> None:
    features = torch.randn(tokenizer.get_vocab_size(), 5)
    texts = ["a fine film", "dull film .", "not very fine , not dull"]
    kind, size = {"attention_kind": "dot_product"}, {"width": 8, "free_dim": 3}
    student = compilable_student(reader, features, texts, **size, **kind, **SHAPE)
    own = student.distilbert.transformer.layer[1].ffn.lin2.weight
    assert torch.equal(own, teacher.model.distilbert.transformer.layer[1].ffn.lin2.weight)
    ids, mask = ids_of(tokenizer, *texts)
    with torch.no_grad():
        states = student.eval()(ids, mask, output_hidden_states=True).hidden_states
    wanted = reader(ids, mask).states
    read = mask.bool()
    for state, target in zip(states, wanted, strict=True):
        assert (state - target)[read].square().mean() < 0.3 * target[read].var()


def test_heads_of_other_widths_are_the_student_s_too(tokenizer: Tokenizer) -> None:
    wide = from_distilbert(tiny_teacher().model).config.to_dict() | {"key_head_dim": [4, 8]}
    model = InhibiDistilBertForSequenceClassification(InhibiDistilBertConfig(**wide)).eval()
    reader = PhraseTeacher(Teacher(model, tiny_teacher().tokenizer), tokenizer)
    features, texts = torch.randn(tokenizer.get_vocab_size(), 5), ["a fine film", "dull film ."]
    size = {"width": 8, "free_dim": 3, "attention_kind": "inhibitor"}
    student = compilable_student(reader, features, texts, **size, **SHAPE)
    assert [student.config.layer(i).key_head_dim for i in range(2)] == [4, 8]


def test_centred_keys_change_no_distance(tokenizer: Tokenizer, reader: PhraseTeacher) -> None:
    features = torch.randn(tokenizer.get_vocab_size(), 5)
    texts = ["a fine film", "dull film .", "not very fine , not dull"]
    size = {"width": 8, "free_dim": 3, "attention_kind": "inhibitor"}
    student = compilable_student(reader, features, texts, **size, **SHAPE).eval()
    ids, mask = ids_of(tokenizer, *texts)
    attention = student.distilbert.transformer.layer[0].attention
    with torch.no_grad():
        for linear in (attention.q_lin, attention.k_lin):
            linear.bias += 5
        before = student(ids, mask).logits
        centre_keys(student, ids, mask)
        x = student.distilbert.embeddings(ids)[mask.bool()]
        middle = attention.q_lin(x).mean(dim=0) + attention.k_lin(x).mean(dim=0)
        torch.testing.assert_close(student(ids, mask).logits, before, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(middle, torch.zeros_like(middle), atol=1e-4, rtol=0)


def test_a_teacher_without_sep_is_refused(teacher: Teacher, tokenizer: Tokenizer) -> None:
    backend = Tokenizer(WordPiece({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2}, unk_token="[UNK]"))
    other = replace(teacher, tokenizer=PreTrainedTokenizerFast(tokenizer_object=backend))
    with pytest.raises(InputError, match=r"tokenizer lacks \[SEP\]; wanted"):
        PhraseTeacher(other, tokenizer)
