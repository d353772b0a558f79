"""One head of quantized attention, as it is trained and as it is compiled.

Each class holds the head's learned numbers, computes on batches of integers with gradients,
and gives the parameters of its circuit. The integers are those of `circuits.inhibitor` and
`circuits.dot_product`; only the layout differs: there a list of pairs, here for each query
the keys in its window, masked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from circuits.dot_product import DotProductParameters, make_product
from circuits.inhibitor import InhibitorParameters
from circuits.lookups import Table, antiperiodic_abs, table_of
from circuits.sums import PartialSums
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.model.quantized.functions import distances, inhibit
from fhe_inhibitor.model.quantized.operations import inhibited, readable, round_ste
from fhe_inhibitor.model.quantized.steps import (
    Step,
    clamp_leaky,
    lookup_lsbs,
    round_to_step,
    tabulate,
    to_integers,
)

MAX_EXPONENT = 30.0


@dataclass
class ScoreTable:
    """The lookup of one (query, key) score, with room above it for padded keys.

    largest: largest score of a real key; scores start at 0. function: real scores
    `[..., n_offsets]` to integers, one column per offset. padded: the entry of a padded key.
    """

    largest: int
    table_bits: int
    function: Callable[[Tensor], Tensor]
    padded: int

    def __post_init__(self) -> None:
        self.lsbs = 0
        while 2 * self._last + 1 > (1 << self.table_bits) - 1:
            self.lsbs += 1

    @property
    def _last(self) -> int:
        """Rounded index that the largest score can reach, by noise too."""
        return (self.largest >> self.lsbs) + (self.lsbs > 0)

    @property
    def padding_score(self) -> int:
        """What a padded key adds to its score: beyond the reach of every real one."""
        return (self._last + 1) << self.lsbs

    def to_table(self, n_offsets: int, zero: int = 0) -> Table:
        """Return one table per offset, the upper half for padded keys.

        zero: the sum that stands for score 0. Raises InputError if it is no multiple of 2^lsbs.
        """
        if zero % (1 << self.lsbs):
            raise InputError(
                f"scores begin at {zero} and are rounded to multiples of {1 << self.lsbs}: take a "
                "wider lookup for sums, or more channels of a key"
            )
        table = tabulate(self.function, n_offsets, 1 << self.table_bits, self.lsbs)
        values = table.values[:, : 2 * self._last + 2].copy()
        values[:, self._last + 1 :] = self.padded
        return Table(values, zero >> self.lsbs, self.lsbs)


@dataclass(frozen=True)
class SaturatingSums:
    """The sum over all keys, a few at a time: `circuits.sums` with gradients.

    keys: how many are added before a lookup. low, high: what one key can contribute. A partial
    sum saturates there, and is counted in steps of 2^lsbs, the finest that its table has.
    """

    keys: int
    low: int
    high: int
    table_bits: int

    @property
    def lsbs(self) -> int:
        """Low bits of a partial sum that its lookup rounds away."""
        return lookup_lsbs(self.keys * (self.high - self.low), self.table_bits)

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest partial sum, in steps.

        Raises InputError where one key contributes less than a step: all sums would be 0.
        """
        low, high = -(-self.low >> self.lsbs), self.high >> self.lsbs
        if low == high:
            raise InputError(
                f"sums of {self.keys} keys of {self.low}..{self.high} in {self.table_bits} bits "
                f"have steps of {1 << self.lsbs}: more than one key contributes; add fewer keys at "
                "a time, or allow more bits"
            )
        return low, high

    def __call__(self, x: Tensor, noise_std: float) -> Tensor:
        """Return the sum of x `[B, n_q, m, channels]` over m, in steps: `[B, n_q, channels]`."""
        missing = -x.shape[2] % self.keys
        x = torch.nn.functional.pad(x, (0, 0, 0, missing))
        partial = x.unflatten(2, (-1, self.keys)).sum(dim=3)
        return self._saturate(round_to_step(partial, self.lsbs, noise_std)).sum(dim=2)

    def _saturate(self, partial: Tensor) -> Tensor:
        return clamp_leaky(partial / (1 << self.lsbs), *self.range)

    def to_circuit(self) -> PartialSums:
        """Return the clear integer parameters."""
        low, high = self.keys * self.low, self.keys * self.high
        cut = table_of(lambda x: (x >> self.lsbs).clip(*self.range), low, high, self.lsbs)
        return PartialSums(self.keys, cut)


def partial_sums(sums: SaturatingSums | None) -> PartialSums | None:
    """Return the circuit's parameters of partial sums, if there are any."""
    return None if sums is None else sums.to_circuit()


def add_keys(x: Tensor, partial: SaturatingSums | None, noise_std: float) -> Tensor:
    """Return the sum of x `[B, n_q, m, channels]` over m, in two steps if `partial` is given."""
    return x.sum(dim=2) if partial is None else partial(x, noise_std)


@dataclass
class QuantizedInhibitor:
    """An inhibitor head on integers; unsigned, or signed with `eta` given.

    gamma: `[1]`, shift: `[n_offsets]`, eta: `[1]` or None. key_step: codes of queries and keys,
    or of distances to a constant query. max_keys: most keys that one query reads. window: how far
    from itself it reads, 0 without bound. keys_per_sum: how many keys are added before a lookup
    that saturates, or 0 for all. antiperiodic: whether |q - k| and |v - Z| are read from tables of
    the operands' own bits; then twice what is kept comes out of the thresholds.
    """

    gamma: Tensor
    shift: Tensor
    eta: Tensor | None
    key_dim: int
    key_step: Step
    value_step: Step
    output_step: Step
    max_keys: int
    window: int
    keys_per_sum: int
    table_bits: int
    antiperiodic: bool
    constant_query: bool

    def __post_init__(self) -> None:
        self.furthest = self.key_step.high - self.key_step.low
        self.score = ScoreTable(
            self.key_dim * self.furthest, self.table_bits, self._inhibition, self.value_step.high
        )
        self.unit = 2 if self.antiperiodic else 1
        self.deepest = self.value_step.high - (0 if self.eta is not None else self.value_step.low)
        largest = self.unit * self.deepest
        lowest = 0 if self.eta is None else -largest
        n_sums, self.sum_unit, self.partial = self.max_keys, 1, None
        if self.keys_per_sum:
            self.partial = SaturatingSums(self.keys_per_sum, lowest, largest, self.table_bits)
            n_sums, self.sum_unit = -(-n_sums // self.keys_per_sum), 1 << self.partial.lsbs
            lowest, largest = self.partial.range
        self.sum_offset = -n_sums * lowest
        self.sum_lsbs = lookup_lsbs(n_sums * largest + self.sum_offset, self.table_bits)

    def __call__(
        self, q: Tensor | None, k: Tensor, v: Tensor, mask: Tensor, offset: Tensor, noise_std: float
    ) -> Tensor:
        """Attend: integers `[B, n_q, d_v]`.

        q `[B, n_q, d]` or None, k `[B, n, d]`, v `[B, n, d_v]`: integers. mask: bool
        `[B, n_q, m]`, of the m keys that each query may read (`readable`). offset: int64
        `[n_q, m]`, the row of each pair's threshold.
        """
        if q is None:
            distance = readable(k.sum(dim=-1), mask.shape[1], self.window)
        else:
            distance = distances(q, k, self.window)
        score = round_to_step(distance, self.score.lsbs, noise_std)
        z = self._inhibition(score, self.shift[offset]).masked_fill(~mask, torch.inf)
        total = self._add(v, z, noise_std)
        return self._output(round_to_step(total + self.sum_offset, self.sum_lsbs, noise_std))

    def _add(self, v: Tensor, z: Tensor, noise_std: float) -> Tensor:
        """Return the sum over keys of what z `[B, n_q, m]` leaves of v."""
        signed = self.eta is not None
        if self.partial is None:
            return self.unit * inhibit(v, z, self.window, signed)
        return self.partial(self.unit * inhibited(v, z, self.window, signed), noise_std)

    def _inhibition(self, score: Tensor, shift: Tensor | None = None) -> Tensor:
        """Return Z in steps of v; of an unsigned v, in its codes."""
        factor = self.gamma * self.key_step.size / math.sqrt(self.key_dim)
        z = score * factor - (self.shift if shift is None else shift)
        if self.eta is None:
            return self.value_step.integers(z)
        return round_ste(clamp_leaky(z / self.value_step.size, 0, self.value_step.high))

    def _output(self, total: Tensor) -> Tensor:
        """Requantize a sum over keys."""
        eta = 1.0 if self.eta is None else self.eta
        real = self.value_step.size * self.sum_unit / self.unit * (total - self.sum_offset)
        return self.output_step(eta * real)

    def to_circuit(self, value_dim: int) -> InhibitorParameters:
        """Return the clear integer parameters of the head."""
        value = self.deepest
        lowest = -value if self.eta is None else -2 * value
        if self.antiperiodic:
            distance: Table = antiperiodic_abs(self.furthest.bit_length())
            threshold: Table = antiperiodic_abs((-lowest).bit_length())
        else:
            distance = table_of(abs, -self.furthest, self.furthest)
            threshold = table_of(lambda x: x.clip(min=0), lowest, value)
        zero = 0 if self.constant_query else self.key_dim * distance.range[0]
        return InhibitorParameters(
            distance=distance,
            inhibition=self.score.to_table(len(self.shift), zero),
            threshold=threshold,
            padding_score=self.score.padding_score,
            output=tabulate(self._output, value_dim, 1 << self.table_bits, self.sum_lsbs),
            output_offset=to_integers(torch.full((value_dim,), float(self.sum_offset))),
            partial=partial_sums(self.partial),
        )


class Factor:
    """The integers that codes of a quantizer are multiplied as: symmetric around 0.

    multiple: how many of them a step of the codes is, 2 where 0 has no code of its own.
    """

    def __init__(self, step: Step) -> None:
        self.multiple = 1 if step.low == -step.high else 2
        self.terms = self.multiple, -(step.low + step.high)
        self.largest = self.multiple * step.high - (step.low + step.high)

    def __call__(self, codes: Tensor) -> Tensor:
        """Return the integers of codes."""
        return self.terms[0] * codes + self.terms[1]


@dataclass
class QuantizedDotProduct:
    """A softmax head on integers.

    Codes 0 ... high of q, k, v stand for (2 code - high) / 2 steps, and 2 code - high is
    multiplied; symmetric ones stand for themselves (`Factor`).

    weight_step: exp(score) to integers. sum_step: sums of weight times value code.
    reciprocal_step: 1 / sum of weights. The rest as `QuantizedInhibitor`.
    """

    gamma: Tensor
    shift: Tensor
    constant_query: bool
    key_dim: int
    key_step: Step
    value_step: Step
    weight_step: Step
    sum_step: Step
    reciprocal_step: Step
    output_step: Step
    max_keys: int
    window: int
    keys_per_sum: int
    table_bits: int

    def __post_init__(self) -> None:
        self.keys, self.values = Factor(self.key_step), Factor(self.value_step)
        self.score_offset = self.key_dim * self.keys.largest**2
        largest = 2 * self.score_offset
        if self.constant_query:
            self.score_offset = -self.key_step.low
            largest = self.key_step.high - self.key_step.low
        self.score = ScoreTable(largest, self.table_bits, self._weight, 0)
        n_sums, self.total_unit, self.mean_unit = self.max_keys, 1, 1
        self.partial_total = self.partial_mean = None
        largest = self.weight_step.high
        largest_mean = largest * self.values.largest
        if self.keys_per_sum:
            n_sums = -(-n_sums // self.keys_per_sum)
            sums = partial(SaturatingSums, self.keys_per_sum, table_bits=self.table_bits)
            self.partial_total = sums(low=0, high=largest)
            self.partial_mean = sums(low=-largest_mean, high=largest_mean)
            self.total_unit = 1 << self.partial_total.lsbs
            self.mean_unit = 1 << self.partial_mean.lsbs
            largest, largest_mean = self.partial_total.range[1], self.partial_mean.range[1]
        self.total_lsbs = lookup_lsbs(n_sums * largest, self.table_bits)
        self.mean_offset = n_sums * largest_mean
        self.mean_lsbs = lookup_lsbs(2 * self.mean_offset, self.table_bits)
        self.output_offset = -self.sum_step.low * self.reciprocal_step.high
        reach = (self.sum_step.high - self.sum_step.low) * self.reciprocal_step.high
        self.output_lsbs = lookup_lsbs(reach, self.table_bits)

    def __call__(
        self, q: Tensor | None, k: Tensor, v: Tensor, mask: Tensor, offset: Tensor, noise_std: float
    ) -> Tensor:
        """Attend: integers `[B, n_q, d_v]`; arguments as `QuantizedInhibitor`."""
        k, v = (readable(x, mask.shape[1], self.window) for x in (k, v))
        products = k if q is None else self.keys(q[:, :, None, :]) * self.keys(k)
        score = products.sum(dim=-1) + self.score_offset
        score = round_to_step(score, self.score.lsbs, noise_std)
        if self.weight_step.calibrating:
            self._calibrate_weights(score, self.shift[offset], mask)
        weight = (self._weight(score, self.shift[offset]) * mask)[..., None]  # [B, n_q, m, 1]
        total = add_keys(weight, self.partial_total, noise_std)  # [B, n_q, 1]
        total = round_to_step(total, self.total_lsbs, noise_std)
        mean = add_keys(weight * self.values(v), self.partial_mean, noise_std) + self.mean_offset
        if self.reciprocal_step.calibrating:
            self._calibrate_reciprocal(total, mask)
        mean = self._mean(round_to_step(mean, self.mean_lsbs, noise_std))
        product = mean * self._reciprocal(total) + self.output_offset
        return self._output(round_to_step(product, self.output_lsbs, noise_std))

    def _weight(self, score: Tensor, shift: Tensor | None = None) -> Tensor:
        exponent = self._exponent(score, self.shift if shift is None else shift)
        # Beyond the largest weight exp would pass on gradients that drown all others.
        largest = self.weight_step.log_size + math.log(self.weight_step.high)
        return self.weight_step.integers(torch.minimum(exponent, largest).exp())

    def _exponent(self, score: Tensor, shift: Tensor) -> Tensor:
        if self.constant_query:
            real = (score - self.score_offset - self.key_step.centre) * self.key_step.size
        else:
            unit = (self.key_step.size / self.keys.multiple).square()
            real = (score - self.score_offset) * unit
        return self.gamma * real / math.sqrt(self.key_dim) + shift

    @torch.no_grad()
    def _calibrate_weights(self, score: Tensor, shift: Tensor, mask: Tensor) -> None:
        """Let the largest weight of a typical query fill the range: softmax's row maximum."""
        exponent = self._exponent(score, shift).masked_fill(~mask, -torch.inf).amax(dim=-1)
        typical = exponent[mask.any(dim=-1)].median().clamp(max=MAX_EXPONENT)
        self.weight_step.log_size.fill_(float(typical) - math.log(self.weight_step.high))

    def _reciprocal(self, total: Tensor) -> Tensor:
        return self.reciprocal_step.integers(1 / (self.total_unit * total).clamp(min=0.5))

    @torch.no_grad()
    def _calibrate_reciprocal(self, total: Tensor, mask: Tensor) -> None:
        """Put the reciprocal of a typical row sum in the middle of its range."""
        typical = 1 / (self.total_unit * total[mask.any(dim=-1)]).clamp(min=1).median()
        self.reciprocal_step.log_size.fill_(math.log(typical / (self.reciprocal_step.high / 2)))

    def _mean(self, mean: Tensor) -> Tensor:
        return self.sum_step(self.mean_unit * (mean - self.mean_offset))

    def _output(self, product: Tensor) -> Tensor:
        value = self.value_step.size / self.values.multiple
        factor = self.sum_step.size * self.reciprocal_step.size * value
        return self.output_step((product - self.output_offset) * factor)

    def to_circuit(self, value_dim: int) -> DotProductParameters:
        """Return the clear integer parameters of the head."""
        weight, key, value = self.weight_step.range, self.keys.terms, self.values.terms

        def vector(x: int) -> np.ndarray:
            return to_integers(torch.full((value_dim,), float(x)))

        return DotProductParameters(
            score=make_product(self.key_step.range, self.key_step.range, key, key),
            exponential=self.score.to_table(len(self.shift)),
            score_offset=self.score_offset,
            padding_score=self.score.padding_score,
            weighted=make_product(weight, self.value_step.range, (1, 0), value),
            total=tabulate(self._reciprocal, 1, 1 << self.table_bits, self.total_lsbs),
            total_offset=0,
            mean=tabulate(self._mean, value_dim, 1 << self.table_bits, self.mean_lsbs),
            mean_offset=vector(self.mean_offset),
            normalised=make_product(self.sum_step.range, self.reciprocal_step.range),
            output=tabulate(self._output, value_dim, 1 << self.table_bits, self.output_lsbs),
            output_offset=vector(self.output_offset),
            partial_total=partial_sums(self.partial_total),
            partial_mean=partial_sums(self.partial_mean),
        )
