"""What the values of a configuration may be: choices, or numbers from a least to a largest one."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, TypeAlias

from fhe_inhibitor.errors import InputError

LARGEST = sys.float_info.max  # JSON has larger integers, which become no float


@dataclass(frozen=True)
class Integers:
    """Integers from low to high, without the one called `but`.

    per_layer: or a list of such integers, one for each layer. or_none: or None.

    >>> 7 in Integers(2, 8), [2, 9] in Integers(2, 8, per_layer=True), True in Integers(0, 8)
    (True, False, False)
    """

    low: int
    high: int
    but: int | None = None
    per_layer: bool = False
    or_none: bool = False

    def __contains__(self, value: Any) -> bool:
        if self.per_layer and isinstance(value, (list, tuple)):
            return all(map(self._holds, value))
        return self._holds(value)

    def _holds(self, value: Any) -> bool:
        if value is None:
            return self.or_none
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        return bool(whole and self.low <= value <= self.high and value != self.but)

    def __str__(self) -> str:
        but = "" if self.but is None else f" but {self.but}"
        each = ", or one for each layer" if self.per_layer else ""
        return f"an integer from {self.low} to {self.high}{but}{each}{self.or_none * ', or None'}"


@dataclass(frozen=True)
class Numbers:
    """Finite numbers from low on, below a limit.

    >>> 0.5 in Numbers(0, 1), 1.0 in Numbers(0, 1), math.nan in Numbers()
    (True, False, False)
    """

    low: float = -LARGEST
    below: float = math.inf

    def __contains__(self, value: Any) -> bool:
        number = isinstance(value, Real) and not isinstance(value, bool)
        return bool(number and self.low <= value < self.below and value <= LARGEST)

    def __str__(self) -> str:
        low = "" if self.low == -LARGEST else f" from {self.low}"
        below = "" if self.below == math.inf else f" to below {self.below}"
        return f"a finite number{low}{below}"


@dataclass(frozen=True)
class Choices:
    """One of a few values."""

    values: tuple[str | bool, ...]

    def __contains__(self, value: Any) -> bool:
        return isinstance(value, (str, bool)) and value in self.values

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.values))}"


Allowed: TypeAlias = Integers | Numbers | Choices


def check(values: Mapping[str, Any], allowed: Mapping[str, Allowed]) -> None:
    """Refuse the first of the values that isn't among those that its name allows.

    Names without a value are passed over. Raises InputError that says what came and what is wanted.
    """
    for name, wanted in allowed.items():
        if name in values and values[name] not in wanted:
            raise InputError(f"{name} is {values[name]!r}, wanted {wanted}")


def check_lengths(values: Mapping[str, Any], names: Collection[str], n_layers: int) -> None:
    """Refuse lists of another length than the layers have. Raises InputError."""
    for name in names:
        value = values[name]
        if isinstance(value, (list, tuple)) and len(value) != n_layers:
            raise InputError(f"{name} has {len(value)} entries for {n_layers} layers")
