"""A linear layer and the table that follows it: the step that every stage repeats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from circuits.lookups import Lookup, Table


@dataclass(frozen=True)
class Linear:
    """Clear integer parameters of `table(x @ weight + residual * r + offset)`.

    weight: int64 `[in, out]`. offset: int64 `[out]`, centres the accumulator on its table.
    table: one table per output channel; scale, bias, activation, static normalisation and
    the next layer's quantization are in it. residual: int64 `[out]`, factor of the value
    that a residual connection adds, or None without one.
    """

    weight: np.ndarray
    offset: np.ndarray
    table: Table
    residual: np.ndarray | None = None


def linear(x: Any, parameters: Linear, lookup: Lookup, residual: Any = None) -> Any:
    """Return `table(x @ weight + residual * r + offset)`: int `[n, out]`.

    x: int `[n, in]`. residual: int `[n, out]`, where the parameters have a factor
    for it. Lookups: n * out, of `parameters.table.bit_width` bits.
    """
    accumulator = x @ parameters.weight + parameters.offset
    if parameters.residual is not None and residual is not None:
        accumulator = accumulator + residual * parameters.residual
    return lookup(accumulator, parameters.table)
