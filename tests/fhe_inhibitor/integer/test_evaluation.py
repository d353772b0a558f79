"""Accuracy and agreement, against counting by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.evaluation import accuracy, agreement, evaluate, predict
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.text.data import LabelledText
from tests.observers import Recorder
from tests.tiny_model import write_tiny_model

ROWS = [LabelledText("a good film", 1), LabelledText("dull", 0), LabelledText("it 's bad .", 1)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> IntegerModel:
    return IntegerModel.load(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny"))


def test_accuracy_is_the_mean_over_draws() -> None:
    right = np.array([[0, 1], [1, 0], [0, 1]])
    wrong_once = np.array([[1, 0], [1, 0], [0, 1]])
    result = accuracy([right, wrong_once], ROWS)
    assert result.value == pytest.approx(5 / 6)
    assert result.standard_error == pytest.approx(math.sqrt(5 / 6 / 6 / 3))
    assert result.draws_std == pytest.approx(np.std([1, 2 / 3], ddof=1))
    assert accuracy([right], ROWS).draws_std == 0


def test_evaluate_counts_the_labels_of_the_integer_model(model: IntegerModel) -> None:
    logits = [model.integer_logits(*model.encode(model.tokenize(row.text))) for row in ROWS]
    expected = np.mean([np.argmax(x) == row.label for x, row in zip(logits, ROWS, strict=True)])
    result = evaluate(model, ROWS)
    assert (result.n_texts, result.n_draws, result.value) == (3, 1, expected)
    np.testing.assert_array_equal(predict(model, ROWS), logits)


def test_noise_is_seeded_and_changes_logits(model: IntegerModel) -> None:
    draws = [predict(model, ROWS, seed=seed) for seed in range(40)]
    np.testing.assert_array_equal(draws[3], predict(model, ROWS, seed=3))
    assert len({draw.tobytes() for draw in draws}) > 1
    recorder = Recorder()
    assert evaluate(model, ROWS, n_draws=2, observer=recorder).n_draws == 2
    assert recorder.finished("texts") == recorder.planned("texts") == 6


def test_fewer_tokens_are_another_text(model: IntegerModel) -> None:
    best = model.tokenize(ROWS[2].text, 1).tokens
    expected = predict(model, [LabelledText(best[0], 1)], max_tokens=1)
    np.testing.assert_array_equal(predict(model, ROWS[2:], max_tokens=1), expected)


def test_refuses_no_texts(model: IntegerModel) -> None:
    with pytest.raises(InputError, match="0 texts"):
        evaluate(model, [])


@pytest.mark.parametrize("label", ["1", 1.0, None, -1, 2])
def test_refuses_labels_that_the_model_lacks(model: IntegerModel, label: Any) -> None:
    """A label "1" would never be equal to 1, and the accuracy 0."""
    with pytest.raises(InputError, match="text 2 of 2: label .*; wanted an integer from 0 to 1"):
        evaluate(model, [ROWS[0], LabelledText("good", label)])


def test_rows_may_come_one_by_one(model: IntegerModel) -> None:
    assert evaluate(model, (row for row in ROWS), n_draws=2) == evaluate(model, ROWS, n_draws=2)
    labels = np.array([row.label for row in ROWS])
    rows = [LabelledText(row.text, n) for row, n in zip(ROWS, labels, strict=True)]
    assert evaluate(model, rows) == evaluate(model, ROWS)


def test_agreement_by_hand() -> None:
    reference = np.array([[0, 10], [4, 0], [3, 1]])
    result = agreement(reference, np.array([[0, 9], [0, 1], [3, 1]]))
    assert (result.n_texts, result.n_equal_labels, result.max_difference) == (3, 2, 4)
    assert result.relative_difference == pytest.approx(4 / (16 / 3))
