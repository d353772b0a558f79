"""A student of full depth: the teacher's weights, and gamma, eta, delta from its activations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.model.configuration import InhibiDistilBertConfig
from fhe_inhibitor.model.from_distilbert import from_distilbert
from fhe_inhibitor.model.modeling import InhibiDistilBertForSequenceClassification
from fhe_inhibitor.text.batches import pad
from fhe_inhibitor.training.derivation import _thresholds, derive
from fhe_inhibitor.training.losses import observe
from fhe_inhibitor.training.teacher import Teacher, as_distilbert
from tests.tiny_teacher import WORDS, tiny_teacher

torch.set_num_threads(1)  # tensors here are too small to share


def rows(n: int = 24, longest: int = 12) -> list[list[int]]:
    generator = torch.manual_seed(1)
    lengths = torch.randint(3, longest, (n,), generator=generator)
    ids = [torch.randint(5, len(WORDS), (int(k),), generator=generator) for k in lengths]
    return [[2, *row.tolist(), 3] for row in ids]


@pytest.fixture
def teacher() -> Teacher:
    """Large weights, so that its attention is far from uniform."""
    return tiny_teacher(initializer_range=0.3)


def test_a_dot_product_student_is_its_teacher(teacher: Teacher) -> None:
    tokens, mask = pad(rows(), 0)
    student = from_distilbert(teacher.model, "dot_product")
    expected = teacher.model(tokens, mask, output_hidden_states=True)
    output = student(tokens, mask, output_hidden_states=True)
    torch.testing.assert_close(output.logits, expected.logits, atol=1e-4, rtol=1e-4)
    for own, theirs in zip(output.hidden_states, expected.hidden_states, strict=True):
        read = mask.bool()
        torch.testing.assert_close(own[read], theirs[read], atol=1e-4, rtol=1e-4)
    plain = student(tokens, mask)
    assert plain.hidden_states is None
    torch.testing.assert_close(plain.logits, output.logits, atol=1e-5, rtol=1e-5)


def with_gamma(teacher: Teacher) -> InhibiDistilBertForSequenceClassification:
    """The teacher with dot products, each head's gamma another one, and a shift."""
    model = from_distilbert(teacher.model)
    with torch.no_grad():
        for block in model.distilbert.transformer.layer:
            block.attention.gamma.copy_(torch.tensor([[0.3], [2.5]]))
            block.attention.shift.fill_(1.5)
    return model


@pytest.mark.parametrize("kind", ["inhibitor_signed", "inhibitor", "dot_product"])
def test_heads_of_other_widths_are_the_student_s_too(kind: str) -> None:
    shape = {"vocab_size": len(WORDS), "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64}
    config = InhibiDistilBertConfig(
        **shape, key_head_dim=[4, 8], value_head_dim=12, attention_kind="dot_product"
    )
    model = InhibiDistilBertForSequenceClassification(config).eval()
    tokens, mask = pad(rows(), 0)
    torch.testing.assert_close(
        from_distilbert(model)(tokens, mask).logits, model(tokens, mask).logits
    )
    for fit in derive(from_distilbert(model, kind), rows()):
        assert fit.after <= fit.before


@pytest.mark.parametrize("kind", ["inhibitor_signed", "inhibitor"])
def test_every_teacher_s_student_starts_from_the_same_thresholds(kind: str) -> None:
    """A BERT becomes a model that has a gamma of 1 and a shift of 0, which aren't a student's."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(WORDS), intermediate_size=64, **shape)
    bert = Teacher(BertForSequenceClassification(config).eval(), tiny_teacher().tokenizer)
    for given in (bert.model, as_distilbert(bert).model, with_gamma(tiny_teacher())):
        student = from_distilbert(given, kind)
        for block in student.distilbert.transformer.layer:
            assert block.attention.gamma.tolist() == [[1.0], [1.0]]
            assert block.attention.shift.tolist() == [[0.5], [0.5]]


@pytest.mark.parametrize("kind", ["inhibitor_signed", "inhibitor", "dot_product"])
def test_a_student_is_derived_from_its_teacher_s_own_gamma(teacher: Teacher, kind: str) -> None:
    """The errors are those against what the teacher's layers give when they are observed."""
    model = with_gamma(teacher)
    tokens, mask = pad(rows(), 0)
    fits = derive(from_distilbert(model, kind), rows())
    with torch.no_grad():
        wanted = observe(model, tokens, mask).attended
    for fit, attended in zip(fits, wanted, strict=True):
        square = float(attended[mask.bool()].square().mean())
        assert fit.teacher == pytest.approx(square, rel=1e-4)
        assert fit.after < (1e-8 if kind == "dot_product" else 0.8 * fit.before)


def test_a_quantile_is_of_all_values_however_many() -> None:
    """Of 300,000 values the first third is 0, and the others 1: so is their 99% quantile."""
    q, k = torch.zeros(1, 1, 4, 2), torch.arange(8.0).view(1, 1, 4, 2)
    values = (torch.arange(300_000) >= 100_000).float().view(1, -1, 1)
    pairs = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    gammas = [float(gamma) for gamma, _ in _thresholds(q, k, values, pairs)]
    # Keys are 1, 5, 9 and 13 from a query, over sqrt(2): the widest range is the least gamma.
    assert min(gammas) == pytest.approx(1 / ((13 - 1) / 2**0.5))


@pytest.mark.parametrize("kind", ["inhibitor_signed", "inhibitor"])
def test_derived_thresholds_start_closer_than_default_ones(teacher: Teacher, kind: str) -> None:
    """Also on texts that nothing was derived from, and after both layers together."""
    tokens, mask = pad(rows(60)[30:], 0)
    target = observe(from_distilbert(teacher.model, "dot_product"), tokens, mask)
    default, derived = (from_distilbert(teacher.model, kind) for _ in range(2))
    fits = derive(derived, rows(60)[:30])
    assert len(fits) == 2
    for fit in fits:
        assert fit.after < 0.8 * fit.before
        assert fit.after < fit.teacher
    last = [
        (observe(model, tokens, mask).states[-1] - target.states[-1])[mask.bool()].square().mean()
        for model in (default, derived)
    ]
    assert last[1] < last[0]


def test_what_derivation_moves_the_teacher_does_not_notice(teacher: Teacher) -> None:
    """Keys and values that were moved, read with dot products again, are the teacher's."""
    tokens, mask = pad(rows(), 0)
    student = from_distilbert(teacher.model, "inhibitor_signed")
    derive(student, rows())
    same = from_distilbert(teacher.model, "dot_product")
    expected = same(tokens, mask).logits
    for own, derived in zip(
        same.distilbert.transformer.layer, student.distilbert.transformer.layer, strict=True
    ):
        before = own.attention.v_lin.bias.clone()
        own.attention.k_lin.load_state_dict(derived.attention.k_lin.state_dict())
        own.attention.v_lin.load_state_dict(derived.attention.v_lin.state_dict())
        with torch.no_grad():
            moved = before - own.attention.v_lin.bias
            own.attention.out_lin.bias += own.attention.out_lin.weight @ moved
        assert moved.abs().max() > 0.01
    torch.testing.assert_close(same(tokens, mask).logits, expected, atol=1e-4, rtol=1e-4)


def test_a_dot_product_student_has_nothing_to_derive(teacher: Teacher) -> None:
    student = from_distilbert(teacher.model, "dot_product")
    before = {name: weight.clone() for name, weight in student.state_dict().items()}
    fits = derive(student, rows())
    assert all(fit.after < 1e-8 for fit in fits)
    for name, weight in student.state_dict().items():
        torch.testing.assert_close(weight, before[name], atol=1e-5, rtol=1e-5)


def test_a_regression_keeps_its_single_output() -> None:
    student = from_distilbert(tiny_teacher(num_labels=1).model, "inhibitor_signed")
    tokens, mask = pad(rows(3), 0)
    output = student(tokens, mask, labels=torch.tensor([0.0, 2.5, 5.0]))
    assert output.logits.shape == (3, 1)
    expected = (output.logits[:, 0] - torch.tensor([0.0, 2.5, 5.0])).square().mean()
    torch.testing.assert_close(output.loss, expected)


def test_a_teacher_of_another_kind_is_refused() -> None:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    config = GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=8)
    with pytest.raises(InputError, match="is a 'gpt2'; a student's weights come from"):
        from_distilbert(GPT2ForSequenceClassification(config), "inhibitor_signed")
    inhibitor = from_distilbert(tiny_teacher().model, "inhibitor")
    with pytest.raises(InputError, match="is a 'inhibidistilbert'.*with dot products"):
        from_distilbert(inhibitor, "inhibitor_signed")
    biased = from_distilbert(tiny_teacher().model)
    biased.config.threshold = "head_offset"
    with pytest.raises(InputError, match="threshold 'head_offset'; .*no shift by offset"):
        from_distilbert(biased, "inhibitor_signed")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"normalization": "static"}, "with normalization 'static'; "),
        ({"causal": True}, "with causal True; "),
        ({"pooling": [2, 1]}, r"with pooling \[2, 1\]; "),
        ({"attention_window": [0, 1]}, r"with attention_window \[0, 1\]; "),
        ({"causal": True, "attention_window": 1}, "with causal True, attention_window 1; "),
    ],
)
def test_a_teacher_whose_architecture_would_be_lost_is_refused(
    changes: dict[str, Any], said: str
) -> None:
    """All of its weights fit the student, which would compute something else."""
    shape: dict[str, Any] = {"vocab_size": 20, "dim": 8, "n_layers": 2, "n_heads": 2}
    teacher = InhibiDistilBertForSequenceClassification(
        InhibiDistilBertConfig(**shape, hidden_dim=8, attention_kind="dot_product", **changes)
    )
    with pytest.raises(InputError, match=f"is a 'inhibidistilbert' {said}.*LayerNorm"):
        from_distilbert(teacher, "inhibitor_signed")
