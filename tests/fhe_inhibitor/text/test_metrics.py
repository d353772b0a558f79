"""GLUE's metrics against cases worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.text.metrics import compute_metrics


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_no_numbers_are_not_measured(value: float) -> None:
    """NaN's argmax is class 0, which would look like an accuracy."""
    logits = one_hot([0, 1])
    logits[1, 0] = value
    with pytest.raises(InputError, match="NaN or infinite"):
        compute_metrics(["accuracy"], logits, np.array([0, 1]))


def one_hot(chosen: list[int], n_labels: int = 2) -> np.ndarray:
    return np.eye(n_labels)[chosen]


# 4 true and 1 false positives, 2 false and 3 true negatives.
CHOSEN = [1, 1, 1, 1, 1, 0, 0, 0, 0, 0]
LABELS = np.array([1, 1, 1, 1, 0, 1, 1, 0, 0, 0])


def test_accuracy_and_f1_by_hand() -> None:
    result = compute_metrics(("accuracy", "f1"), one_hot(CHOSEN), LABELS)
    assert result["accuracy"] == pytest.approx(7 / 10)
    precision, recall = 4 / 5, 4 / 6
    assert result["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert result["score"] == pytest.approx((result["accuracy"] + result["f1"]) / 2)


def test_matthews_by_hand() -> None:
    expected = (4 * 3 - 1 * 2) / math.sqrt((4 + 1) * (4 + 2) * (3 + 1) * (3 + 2))
    assert compute_metrics(("matthews",), one_hot(CHOSEN), LABELS)["score"] == pytest.approx(
        expected
    )
    assert compute_metrics(("matthews",), one_hot([1] * 10), LABELS)["score"] == 0


def test_correlations_by_hand() -> None:
    values, labels = np.array([[1.0], [2.0], [3.0], [10.0]]), np.array([0.0, 2.0, 1.0, 5.0])
    result = compute_metrics(("pearson", "spearman"), values, labels)
    x, y = values[:, 0] - 4, labels - 2  # the means are 4 and 2
    assert result["pearson"] == pytest.approx((x @ y) / math.sqrt((x @ x) * (y @ y)))
    assert result["spearman"] == pytest.approx(1 - 6 * (0 + 1 + 1 + 0) / (4 * 15))
    assert compute_metrics(("pearson", "spearman"), np.ones((4, 1)), labels)["score"] == 0


def test_three_classes() -> None:
    chosen = one_hot([0, 1, 2, 2], 3)
    assert compute_metrics(("accuracy",), chosen, np.array([0, 1, 2, 0]))["score"] == 0.75
