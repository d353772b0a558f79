"""Interval arithmetic: run a stage on all its possible inputs at once.

An `Interval` holds a lower and an upper bound for each element. A stage that gets intervals
returns bounds that no input can leave, whatever the rounding noise does: an approximately
rounded lookup reads the entry at or below its accumulator or the next one. That proves ranges
(an input as wide as its type) and bounds rounding errors (an input that is one point).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from circuits.lookups import Table, read


@dataclass(frozen=True, eq=False)
class Interval:
    """Integer arrays `low <= x <= high`, element by element, with the operations of stages.

    >>> x = Interval(np.array([0, 0]), np.array([3, 3]))
    >>> (x @ np.array([[1], [-1]])).high
    array([3])
    """

    low: np.ndarray
    high: np.ndarray

    __array_ufunc__ = None  # NumPy operators defer to the methods below

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of both bounds."""
        return self.low.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.low.ndim

    def __add__(self, other: Any) -> Interval:
        other = interval(other)
        return Interval(self.low + other.low, self.high + other.high)

    __radd__ = __add__

    def __neg__(self) -> Interval:
        return Interval(-self.high, -self.low)

    def __sub__(self, other: Any) -> Interval:
        return self + (-interval(other))

    def __rsub__(self, other: Any) -> Interval:
        return -self + other

    def __mul__(self, factor: np.ndarray | int) -> Interval:
        a, b = self.low * factor, self.high * factor
        return Interval(np.minimum(a, b), np.maximum(a, b))

    __rmul__ = __mul__

    def __matmul__(self, weight: np.ndarray) -> Interval:
        plus, minus = np.maximum(weight, 0), np.minimum(weight, 0)
        return Interval(self.low @ plus + self.high @ minus, self.high @ plus + self.low @ minus)

    def __rmatmul__(self, weight: np.ndarray) -> Interval:
        plus, minus = np.maximum(weight, 0), np.minimum(weight, 0)
        return Interval(plus @ self.low + minus @ self.high, plus @ self.high + minus @ self.low)

    def __getitem__(self, index: Any) -> Interval:
        return Interval(self.low[index], self.high[index])

    def __array_function__(
        self, function: Callable, types: Any, args: Sequence, kwargs: dict
    ) -> Interval:
        if function not in (np.sum, np.concatenate, np.expand_dims):
            return NotImplemented
        bounds = [
            function(*(_bound(argument, side) for argument in args), **kwargs)
            for side in ("low", "high")
        ]
        return Interval(*bounds)


def interval(x: Any) -> Interval:
    """Return `x` as an interval; an array is the interval of one point."""
    return x if isinstance(x, Interval) else Interval(np.asarray(x), np.asarray(x))


def narrow(x: Any, bounds: tuple[int, int]) -> Any:
    """Intersect an interval with bounds that the caller knows; anything else passes through.

    Interval arithmetic forgets that two lookups read the same value.
    """
    if not isinstance(x, Interval):
        return x
    return Interval(np.maximum(x.low, bounds[0]), np.minimum(x.high, bounds[1]))


def full(shape: tuple[int, ...], low: int, high: int) -> Interval:
    """Return the interval of every array of this shape with values in `low ... high`."""
    return Interval(np.full(shape, low, np.int64), np.full(shape, high, np.int64))


def interval_lookup(x: Interval, table: Table) -> Interval:
    """Return all that an approximately rounded lookup of `x` can give.

    Raises OverflowError if some index lies outside the table.
    """
    first, last = x.low >> table.lsbs, (x.high >> table.lsbs) + (table.lsbs > 0)
    lowest, highest = table.reach
    if first.size and (first.min() < lowest or last.max() > highest):
        raise OverflowError(
            f"rounded indices reach {first.min()}..{last.max()}, "
            f"the table covers {lowest}..{highest}"
        )
    low = read(first, table)
    high = low.copy()
    for step in range(1, int((last - first).max(initial=0)) + 1):
        entry = read(np.minimum(first + step, last), table)
        low, high = np.minimum(low, entry), np.maximum(high, entry)
    return Interval(low, high)


def _bound(argument: Any, side: str) -> Any:
    """Replace intervals by one of their bounds, inside tuples and lists too."""
    if isinstance(argument, (tuple, list)):
        return tuple(_bound(item, side) for item in argument)
    return getattr(argument, side) if isinstance(argument, Interval) else argument
