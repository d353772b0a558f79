"""Repeated measurements: medians and means with intervals, ratios, growth with length; shares.

summary = summarize(seconds)                  # median and its 95% interval
ratio = compare(of_dot_product, of_inhibitor) # ratio of medians, repetitions paired
growth = fit_growth(lengths, medians)         # exponent of n
accuracy = share(741, 872)                    # with Wilson's interval
score = mean(of_seeds)                        # with Student's interval
p = equal_means(of_seeds, of_other_seeds)     # by Welch's test
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from fhe_inhibitor.system.files import Record

LEVEL = 0.95
RESAMPLES = 2000


class Summary(Record):
    """A median, an interval around it, and how many repetitions it is of.

    confidence: that the interval holds the true median; below 0.95 for fewer than 6 repetitions,
    whose interval is their whole range.
    """

    median: float
    low: float
    high: float
    repetitions: int
    confidence: float = LEVEL


class Growth(Record):
    """Least-squares fit of log y over log n: y ~ n^exponent; no interval for two points."""

    exponent: float
    low: float | None
    high: float | None
    points: int


class Share(Record):
    """A share of n things, 0 to 1, and its interval of confidence 0.95."""

    value: float
    low: float
    high: float
    n: int


def share(count: float, n: int) -> Share:
    """Return count / n with Wilson's score interval (1927), which holds near 0 and 1 too.

    With z the normal quantile and p = count / n:
    (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n). count may be a mean of
    counts. For n = 0 nothing is known: 0 to 1.

    >>> half = share(5, 10)
    >>> round(half.low, 4), half.value, round(half.high, 4)
    (0.2366, 0.5, 0.7634)
    """
    if n == 0:
        return Share(value=math.nan, low=0.0, high=1.0, n=0)
    z = float(stats.norm.ppf((1 + LEVEL) / 2))
    p = count / n
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    margin = z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2) / (1 + z**2 / n)
    # Rounding of floats may put an end that is p itself, as for p = 0, to its other side.
    return Share(
        value=p, low=max(0.0, min(p, middle - margin)), high=min(1.0, max(p, middle + margin)), n=n
    )


class Mean(Record):
    """A mean of n values and its interval of confidence 0.95, which one value hasn't got."""

    value: float
    low: float | None
    high: float | None
    n: int


def mean(values: Sequence[float]) -> Mean:
    """Return the mean with Student's interval: mean +- t(n - 1) s / sqrt(n).

    >>> mean([1.0, 2.0, 3.0]).value
    2.0
    """
    n, middle = len(values), float(np.mean(values))
    if n < 2:
        return Mean(value=middle, low=None, high=None, n=n)
    error = float(np.std(values, ddof=1)) / math.sqrt(n)
    margin = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * error
    return Mean(value=middle, low=middle - margin, high=middle + margin, n=n)


def equal_means(values: Sequence[float], others: Sequence[float]) -> float:
    """Return the p-value of Welch's t-test (1947): that means of one population differ as much.

    It doesn't assume equal variances; NaN where a variance can't be told.

    >>> round(equal_means([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]), 3)
    1.0
    """
    if min(len(values), len(others)) < 2:
        return math.nan
    return float(stats.ttest_ind(values, others, equal_var=False).pvalue)


def summarize(values: Sequence[float]) -> Summary:
    """Return the median and its interval of order statistics, which assumes no distribution.

    The interval between the k-th smallest and k-th largest of m values holds the true median
    unless fewer than k of m fair coins fall on one side: with 1 - 2 P(Binomial(m, 1/2) < k).

    >>> summarize([3.0, 1.0, 2.0])
    Summary(median=2.0, low=1.0, high=3.0, repetitions=3, confidence=0.75)
    """
    ordered = sorted(values)
    m = len(ordered)
    k = max(1, int(stats.binom.ppf((1 - LEVEL) / 2, m, 0.5)))
    outside = sum(math.comb(m, i) for i in range(k)) / 2**m
    return Summary(
        median=float(np.median(ordered)),
        low=ordered[k - 1],
        high=ordered[m - k],
        repetitions=m,
        confidence=max(0.0, 1 - 2 * outside),
    )


def compare(values: Sequence[float], others: Sequence[float]) -> Summary:
    """Return the ratio of medians, values / others, of repetitions taken in turn.

    The interval is a paired bootstrap of fixed seed: a repetition keeps its neighbour, so that
    what slowed both cancels.

    >>> compare([4.0, 8.0, 6.0], [2.0, 4.0, 3.0]).low
    2.0
    """
    pairs = np.array([values, others], dtype=float)  # [2, m]
    drawn = np.random.default_rng(0).integers(pairs.shape[1], size=(RESAMPLES, pairs.shape[1]))
    medians = np.median(pairs[:, drawn], axis=-1)  # [2, RESAMPLES]
    low, high = np.quantile(medians[0] / medians[1], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    median, other = np.median(pairs, axis=-1)
    return Summary(median=median / other, low=low, high=high, repetitions=pairs.shape[1])


def fit_growth(lengths: Sequence[int], values: Sequence[float]) -> Growth | None:
    """Return the exponent of y ~ n^e, with the interval of Student's t; None for one point.

    >>> fit_growth([2, 4, 8], [4.0, 16.0, 64.0]).exponent
    2.0
    """
    if len(set(lengths)) < 2:
        return None
    x, y = np.log2(lengths), np.log2(values)
    if len(x) == 2:
        return Growth(exponent=(y[1] - y[0]) / (x[1] - x[0]), low=None, high=None, points=2)
    fit = stats.linregress(x, y)
    margin = stats.t.ppf((1 + LEVEL) / 2, len(x) - 2) * fit.stderr
    return Growth(
        exponent=fit.slope, low=fit.slope - margin, high=fit.slope + margin, points=len(x)
    )
