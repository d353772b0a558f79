"""Shares with Wilson's interval, against scipy's."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fhe_inhibitor.system.statistics import equal_means, mean, share


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_scipy_s(counted: tuple[int, int]) -> None:
    count, n = counted
    found = share(count, n)
    wilson = stats.binomtest(count, n).proportion_ci(method="wilson")
    assert (found.value, found.n) == (count / n, n)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert (found.low, found.high) == pytest.approx((wilson.low, wilson.high), abs=1e-12)


def test_a_mean_of_counts_lies_between_its_neighbours() -> None:
    assert share(7, 10).low < share(7.5, 10).low < share(8, 10).low


def test_of_nothing_nothing_is_known() -> None:
    nothing = share(0, 0)
    assert math.isnan(nothing.value)
    assert (nothing.low, nothing.high) == (0, 1)


def test_a_mean_has_student_s_interval() -> None:
    values = [0.9, 0.95, 0.93, 0.97]
    found = mean(values)
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert mean([0.5]).low is None


def test_welch_s_test_is_that_of_its_formula() -> None:
    """Worked by hand: t = -2 / sqrt(1/2 + 1/2), with 2 degrees of freedom."""
    assert equal_means([0.0, math.sqrt(2)], [2.0, 2 + math.sqrt(2)]) == pytest.approx(
        2 * stats.t.sf(2, 2)
    )
    assert math.isnan(equal_means([1.0], [1.0, 2.0]))
