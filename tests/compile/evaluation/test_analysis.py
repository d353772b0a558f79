"""The figures of an evaluation, against counting by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from compile.evaluation.analysis import (
    DECRYPTED,
    DRAWN,
    FLOAT,
    INTEGERS,
    Logits,
    analyse,
    calibrate,
    changes_by_margin,
    count_changes,
    measure_times,
    timed_records,
)
from fhe_inhibitor.errors import InputError
from tests.compile.evaluation.records import evaluation, header, sitting, text

# Margins 0, 1, 2, 5; encryption changes the labels of the first (right to wrong) and the third
# (wrong to right). The first draw of noise changes the second label, the other one nothing.
TEXTS = [
    text(0, 0, [1, 2], clear_logits=[2, 2], drawn_logits=[[2, 2], [3, 2]], float_logits=[1, 0]),
    text(1, 1, [0, 1], drawn_logits=[[1, 0], [0, 1]], float_logits=[1, 0]),
    text(2, 1, [3, 4], clear_logits=[5, 3], drawn_logits=[[5, 3], [5, 4]], float_logits=[0, 1]),
    text(3, 0, [5, 0], float_logits=[2, 1]),
]


def test_accuracies_by_hand() -> None:
    found = analyse(header(), evaluation(TEXTS))
    assert {name: a.value for name, a in found.accuracy.items()} == {
        DECRYPTED: 0.75,
        INTEGERS: 0.75,
        DRAWN: (0.5 + 0.75) / 2,
        FLOAT: 0.75,
    }
    assert found.accuracy_of_draws == (0.5, 0.75)
    wilson = stats.binomtest(3, 4).proportion_ci(method="wilson")
    assert found.accuracy[DECRYPTED].low == pytest.approx(wilson.low)
    assert found.accuracy[DECRYPTED].high == pytest.approx(wilson.high)


def test_changed_labels_by_hand() -> None:
    changes = analyse(header(), evaluation(TEXTS)).changes
    assert (changes.right_to_wrong, changes.wrong_to_right, changes.total) == (1, 1, 2)
    assert changes.of_draws == (1, 0)
    assert changes.p_value == 1


def test_mcnemar_is_a_binomial_test_of_fair_coins() -> None:
    exact, other = np.tile([1, 0], (6, 1)), np.tile([0, 1], (6, 1))
    none = np.zeros((6, 0, 2), np.int64)
    changes = count_changes(Logits(np.zeros(6), other, exact, none, None))
    assert (changes.right_to_wrong, changes.of_draws) == (6, ())
    assert changes.p_value == pytest.approx(2 * 0.5**6)
    assert count_changes(Logits(np.zeros(6), exact, exact, none, None)).p_value is None


def test_a_wrong_label_that_becomes_another_wrong_one_is_counted_apart() -> None:
    logits = np.array([[9, 1, 0]]), np.array([[1, 9, 0]])
    changes = count_changes(Logits(np.array([2]), *logits, np.zeros((1, 0, 3)), None))
    assert (changes.other, changes.total, changes.p_value) == (1, 1, None)


def test_changes_by_margin_by_hand() -> None:
    margins = analyse(header(), evaluation(TEXTS)).margins
    assert [(m.low, m.high, m.changed.n) for m in margins] == [
        (0, 0, 1), (1, 1, 1), (2, 3, 1), (4, 7, 1),
    ]  # fmt: skip
    assert [m.changed.value for m in margins] == [1, 0, 1, 0]
    assert [m.expected for m in margins] == [0, 0.5, 0, 0]


def test_every_text_is_in_one_margin_bin() -> None:
    rng = np.random.default_rng(0)
    clear = rng.integers(-60, 60, (500, 3))
    decrypted = clear + rng.integers(-5, 6, clear.shape)
    drawn = np.zeros((500, 0, 3), np.int64)
    logits = Logits(np.zeros(500), decrypted, clear, drawn, None)
    bins = list(changes_by_margin(logits))
    changed = sum(round(m.changed.value * m.changed.n) for m in bins)
    assert sum(m.changed.n for m in bins) == 500
    assert changed == count_changes(logits).total > 0
    assert all(m.expected is None for m in bins)


def test_differences_by_hand() -> None:
    negative, positive = analyse(header(), evaluation(TEXTS)).differences
    assert (negative.label, positive.label) == ("negative", "positive")
    spread = negative.decrypted  # -1, 0, -2, 0
    assert (spread.n, spread.mean, spread.largest) == (4, -0.75, 2)
    assert spread.std == pytest.approx(math.sqrt(5 / 4 - 0.75**2))
    assert positive.decrypted.mean == 0.25  # 0, 0, 1, 0
    assert negative.drawn is not None and negative.drawn.n == 8
    assert negative.drawn.mean == pytest.approx((0 + 1 + 1 + 0) / 8)
    assert negative.stds_of_draws == pytest.approx([np.std([0, 1, 0, 0]), np.std([1, 0, 0, 0])])


def test_logits_inside_the_range_of_the_draws_by_hand() -> None:
    """Draws 0, 1, 4: without one of them the ranges are 1..4, 0..4, 0..1.

    The first text's 1 is in all three, the second's 3 in two. Of the draws only the 1 is inside.
    """
    drawn = [[0, 0], [1, 0], [4, 0]]
    texts = [
        text(index, 0, [value, 0], clear_logits=[0, 0], drawn_logits=drawn)
        for index, value in enumerate([1, 3])
    ]
    negative, positive = analyse(header(n_draws=3), evaluation(texts)).differences
    assert negative.inside is not None and negative.inside.value == pytest.approx((3 + 2) / 6)
    assert negative.inside_of_draws == pytest.approx(1 / 3)
    assert positive.inside is not None and positive.inside.value == positive.inside_of_draws == 1
    assert analyse(header(), evaluation(TEXTS)).differences[0].inside is None


def test_calibration_by_hand() -> None:
    """Three texts at 0.92, two of them right, and one at 0.6 that is: two bins of 0.05."""
    probabilities = np.array([[0.92, 0.08], [0.08, 0.92], [0.92, 0.08], [0.4, 0.6]])
    found = calibrate(probabilities, np.array([0, 1, 1, 1]))
    assert [(round(b.low, 2), round(b.high, 2)) for b in found.bins] == [(0.6, 0.65), (0.9, 0.95)]
    assert [b.right.value for b in found.bins] == [1, pytest.approx(2 / 3)]
    assert [b.confidence for b in found.bins] == pytest.approx([0.6, 0.92])
    expected = 3 / 4 * (0.92 - 2 / 3) + 1 / 4 * (1 - 0.6)
    assert found.error == pytest.approx(expected)


def test_what_chance_makes_of_true_probabilities() -> None:
    """One text of confidence p: |right - p| is 1 - p with probability p, else p: 2 p (1 - p)."""
    found = calibrate(np.array([[0.7, 0.3]]), np.array([0]))
    assert found.by_chance == pytest.approx(2 * 0.7 * 0.3, abs=0.02)
    certain = calibrate(np.tile([1.0, 0.0], (5, 1)), np.zeros(5))
    assert (certain.error, certain.by_chance, certain.bins[0].high) == (0, 0, 1)


def test_probabilities_are_those_of_the_model_s_scale() -> None:
    found = analyse(header(), evaluation([text(0, 1, [0, 3], float_logits=[0, 1])]))
    assert found.calibration[DECRYPTED].bins[0].confidence == pytest.approx(
        1 / (1 + math.exp(-0.5 * 3))
    )
    assert found.calibration[FLOAT].bins[0].confidence == pytest.approx(1 / (1 + math.exp(-1)))


def test_times_are_of_timed_sittings_alone() -> None:
    texts = [
        text(0, 0, [1, 0], seconds=100.0),
        text(1, 0, [1, 0], sitting=1, seconds=2.0),
        text(2, 0, [1, 0], sitting=1, seconds=4.0, stages={"encrypt": 1.5, "layer0.project": 1.5}),
        text(3, 0, [1, 0], sitting=1, seconds=1.0, n_positions=2, stages={"encrypt": 1.0}),
    ]
    found = evaluation(texts, sitting(), sitting(timed=True))
    assert [record.index for record in timed_records(found)] == [1, 2, 3]
    times = analyse(header(), found).times
    assert times is not None
    assert times.n_texts == 3
    assert times.per_hour == pytest.approx(3 * 3600 / 7)
    short, long = times.lengths
    assert (short.n_positions, short.seconds.median) == (2, 1.0)
    assert (long.n_positions, long.seconds.median, long.seconds.repetitions) == (4, 3.0, 2)
    assert long.means == pytest.approx({"encrypt": 1.0, "layer0.project": 1.25, "rest": 0.75})
    assert measure_times([]) is None
    assert analyse(header(), evaluation(texts[:1])).times is None


def test_without_draws_and_float_student_the_rest_is_told() -> None:
    plain = text(0, 1, [0, 3], drawn_logits=(), float_logits=None)
    found = analyse(header(n_draws=0, float_sha256=None), evaluation([plain]))
    assert set(found.accuracy) == {DECRYPTED, INTEGERS}
    assert found.changes.of_draws == ()
    assert found.differences[0].drawn is None


def test_an_evaluation_in_the_clear_has_no_figures() -> None:
    clear = text(0, 1, None, clear_logits=[0, 1])
    with pytest.raises(InputError, match="nothing was decrypted"):
        analyse(header(mode="disable"), evaluation([clear]))
    with pytest.raises(InputError, match="nothing was decrypted"):
        analyse(header(), evaluation([]))
