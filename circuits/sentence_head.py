"""A classifier's head alone, on a vector that the client made in the clear.

    s = x @ weight + offset                                   no lookup at all
    s = relu(x @ hidden.weight + hidden.offset) @ weight + offset      one lookup a hidden unit

x is a sentence as integers: the codes of a public encoder's embedding, or which words of a list a
text has. A sum over hundreds of inputs reaches far less than the inputs' ranges allow, because a
sentence's codes have a norm that the client knows. By Cauchy and Schwarz

    |x . w| <= ||x|| ||w||,

which is what a hidden unit's table covers here: in 384 dimensions a sixth to a tenth of the range
that interval arithmetic proves. A client that sends a longer vector gets a wrong score, and nobody
else does.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from circuits.intervals import Interval, full, interval_lookup, narrow
from circuits.linear import Linear
from circuits.lookups import Lookup


@dataclass(frozen=True)
class SentenceHead:
    """Clear integer parameters of a head with one score, positive for the second class.

    weight: int64 `[inputs, 1]`, of the hidden units where there are some. offset: int64 `[1]`.
    input_range: smallest and largest integer of x. hidden: weight int64 `[inputs, units]`, offset
    int64 `[units]`, one table or one a unit. max_norm: the largest 2-norm of x that hidden units
    are proved for; None takes `input_range` alone.
    """

    weight: np.ndarray
    offset: np.ndarray
    input_range: tuple[int, int]
    hidden: Linear | None = None
    max_norm: float | None = None

    @property
    def n_inputs(self) -> int:
        """How many integers the client encrypts."""
        return (self.weight if self.hidden is None else self.hidden.weight).shape[0]

    def evaluate(self, x: Any, lookup: Lookup) -> Any:
        """Return the score, int `[n, 1]`, of x int `[n, inputs]`.

        Lookups: n units, of `hidden.table.bit_width` bits; none without hidden units.
        """
        if self.hidden is not None:
            sums = x @ self.hidden.weight
            if self.max_norm is not None:
                reach = self.reach(self.max_norm)
                sums = narrow(sums, (-reach, reach))
            x = lookup(sums + self.hidden.offset, self.hidden.table)
        return x @ self.weight + self.offset

    def reach(self, norm: float) -> int:
        """Return how far the sum of a hidden unit can be from 0, for x of this 2-norm.

        >>> from circuits.lookups import Table
        >>> hidden = Linear(np.array([[3], [4]]), np.zeros(1, int), Table(np.arange(101), -50))
        >>> SentenceHead(np.ones((1, 1), int), np.zeros(1, int), (-7, 7), hidden).reach(10.0)
        50
        """
        assert self.hidden is not None
        largest = float(np.linalg.norm(self.hidden.weight, axis=0).max())
        return math.floor(norm * largest * (1 + 1e-12))

    def prove(self) -> Interval:
        """Return bounds of the score over all inputs. Raises OverflowError if a table is left."""
        return self.evaluate(full((1, self.n_inputs), *self.input_range), interval_lookup)

    def count_lookups(self) -> Counter[int]:
        """Return the lookups of one sentence by bit width."""
        if self.hidden is None:
            return Counter()
        return Counter({self.hidden.table.bit_width: self.hidden.weight.shape[1]})
