"""Quantization-aware training: integers in the forward pass, straight-through gradients.

Two pieces make every quantized layer:

    Step         real activations to integers of a few bits, with a learned step size
    TableLinear  sum of integers times integer weights, rounded to the bits of one lookup,
                 then any function per channel: `circuits.linear` with gradients

A `TableLinear` computes on integers held in float32 (exact below 2^24) and reads its table
by computing the entry. Tabulating that same computation gives the circuit's parameters, so
the conversion to the integer model is exact by construction.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from circuits.linear import Linear
from circuits.lookups import Table, saturating
from fhe_inhibitor.model.configuration import QuantizationConfig
from fhe_inhibitor.model.quantized.functions import (
    Bounds,
    integer_rows,
    read_table,
    rounding_noise,
)
from fhe_inhibitor.model.quantized.least_error import least_error
from fhe_inhibitor.model.quantized.operations import round_ste

CLIP_LEAK = 0.05


def clamp_leaky(x: Tensor, low: float, high: float) -> Tensor:
    """Clamp to `low ... high`; outside, a gradient of `CLIP_LEAK` leads back inside.

    >>> clamp_leaky(torch.tensor([-3.0, 2.0, 9.0]), 0, 7).tolist()
    [0.0, 2.0, 7.0]
    """
    clamped = x.clamp(low, high)
    leak = CLIP_LEAK * (x - clamped)
    return clamped + (leak - leak.detach())


def round_to_step(x: Tensor, lsbs: int, noise_std: float) -> Tensor:
    """Round `x` to multiples of 2^lsbs, with the noise of encrypted rounding drawn.

    noise_std: standard deviation in rounding steps; beyond half a step it is cut off.
    Rounding to multiples of 1 is exact.
    """
    if lsbs == 0:
        return x
    step = float(1 << lsbs)
    index = (x + 0.5) / step  # half a unit, as Concrete adds it; without noise it changes nothing
    if noise_std:
        index = index + rounding_noise(index, noise_std)
    return x + (step * (index + 0.5).floor() - x).detach()


class Step(nn.Module):
    """A quantizer: `clamp(round(x / size + centre + zero_point), low, high)`.

    size: exp(log_size), learned per channel, `[channels]`. Gradients reach it as in LSQ, through
    the rounding. zero_point: what 0 becomes, learned too, `[channels]`, or None where that is the
    `centre`. No integer: the next layer's table takes it back.
    """

    zero_point: nn.Parameter | None
    terms = 1  # see `PooledStep`

    def __init__(
        self, channels: int, low: int, high: int, centre: float = 0.0, has_zero_point: bool = False
    ) -> None:
        super().__init__()
        self.low, self.high, self.centre = low, high, centre
        self.log_size = nn.Parameter(torch.zeros(channels))
        self.zero_point = nn.Parameter(torch.zeros(channels)) if has_zero_point else None
        self.calibrating = False

    @classmethod
    def signed(cls, channels: int, n_bits: int, has_zero_point: bool = False) -> Step:
        """Integers -2^(b-1) ... 2^(b-1) - 1."""
        half = 1 << (n_bits - 1)
        return cls(channels, -half, half - 1, has_zero_point=has_zero_point)

    @classmethod
    def symmetric(cls, channels: int, n_bits: int, has_zero_point: bool = False) -> Step:
        """Integers -(2^(b-1) - 1) ... 2^(b-1) - 1."""
        high = (1 << (n_bits - 1)) - 1
        return cls(channels, -high, high, has_zero_point=has_zero_point)

    @classmethod
    def unsigned(cls, channels: int, n_bits: int, has_zero_point: bool = False) -> Step:
        """Integers 0 ... 2^b - 1, for values that are not negative or have a zero point."""
        return cls(channels, 0, (1 << n_bits) - 1, has_zero_point=has_zero_point)

    @classmethod
    def centred(cls, channels: int, n_bits: int) -> Step:
        """Codes 0 ... 2^b - 1 for values (code - (2^b - 1) / 2) size, symmetric around 0."""
        high = (1 << n_bits) - 1
        return cls(channels, 0, high, high / 2)

    @classmethod
    def balanced(cls, channels: int, n_bits: int, has_zero_point: bool = False) -> Step:
        """Codes -(2^(b-1) - 1) ... 2^(b-1) - 1, the lowest for 0: for values not negative."""
        high = (1 << (n_bits - 1)) - 1
        return cls(channels, -high, high, -high, has_zero_point)

    @property
    def size(self) -> Tensor:
        """Step size, `[channels]`, positive."""
        return self.log_size.exp()

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest integer."""
        return self.low, self.high

    def forward(self, x: Tensor) -> Tensor:
        """Return the integers of `x` `[..., channels]`, as float32."""
        if self.calibrating:
            self.calibrate(x.detach())
        return self.integers(x)

    @property
    def shift(self) -> Tensor:
        """What is to be taken from an integer before it is multiplied by the size, `[channels]`."""
        zero = torch.zeros_like(self.log_size) if self.zero_point is None else self.zero_point
        return zero + self.centre

    def integers(self, x: Tensor) -> Tensor:
        """Return the integers of `x` without a change of size."""
        return round_ste(clamp_leaky(x / self.size + self.shift, self.low, self.high))

    def reals(self, integers: Tensor) -> Tensor:
        """Return what integers `[..., channels]` stand for."""
        return (integers - self.shift) * self.size

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Set the size that quantizes the sample `x` `[..., channels]` with least squared error.

        With a zero point, set that too: what lies between the middle of the range of values and
        their mean becomes the middle of the codes.
        """
        sample = x.reshape(-1, x.shape[-1])
        sample = sample[torch.randperm(len(sample))[:4096]]
        if len(self.log_size) == 1:
            sample = sample.reshape(-1, 1)
        if self.zero_point is None:
            sizes = self._candidates(sample, self.centre)
            zeros = torch.full_like(sizes, self.centre)
        else:
            middle, mean = (self.low + self.high) / 2, sample.mean(dim=0)
            ends = (sample.amax(dim=0) + sample.amin(dim=0)) / 2
            centres = [torch.lerp(mean, ends, share) for share in (0, 0.25, 0.5, 0.75, 1)]
            of_centre = [self._candidates(sample - centre, middle) for centre in centres]
            sizes = torch.cat(of_centre)
            zeros = torch.cat(
                [middle - centre / size for centre, size in zip(centres, of_centre, strict=True)]
            )
        best = least_error(sample, sizes, zeros, self.low, self.high)[None]
        self.log_size.copy_(sizes.gather(0, best)[0].log())
        if self.zero_point is not None:
            self.zero_point.copy_(zeros.gather(0, best)[0] - self.centre)

    def _candidates(self, sample: Tensor, middle: float) -> Tensor:
        """Return sizes to try, `[35, channels]`: of the whole range of the sample, and parts."""
        reach = max(abs(self.low - middle), self.high - middle)
        largest = sample.abs().amax(dim=0).clamp(min=1e-4) / reach
        return torch.linspace(0.15, 1.0, 35, device=sample.device)[:, None] * largest


def lookup_lsbs(span: float, table_bits: int) -> int:
    """Return the low bits to round away so that 0 ... span fit a lookup of `table_bits`."""
    lsbs = 0
    while span > lookup_limit(table_bits, lsbs):
        lsbs += 1
    return lsbs


def lookup_limit(table_bits: int, lsbs: int) -> int:
    """Return the largest accumulator that stays in a table of 2^table_bits entries.

    >>> lookup_limit(5, 0), lookup_limit(5, 4)
    (31, 495)
    """
    return index_limit((1 << table_bits) - 1, lsbs)


def index_limit(last: int, lsbs: int) -> int:
    """Return the largest accumulator whose index is at most `last`.

    Rounding noise may read the entry above an accumulator; none may lie above the last one.
    """
    return (last << lsbs) - (lsbs > 0)


@dataclass(frozen=True)
class JoinedSteps:
    """Several quantizers of as many channels each, side by side."""

    steps: tuple[Step, ...]
    terms = 1  # of one integer: no sum

    def __call__(self, x: Tensor) -> Tensor:
        """Return the integers of `x` `[..., channels]`, as float32."""
        parts = x.chunk(len(self.steps), dim=-1)
        return torch.cat([step(x) for step, x in zip(self.steps, parts, strict=True)], dim=-1)

    @property
    def size(self) -> Tensor:
        """Step size of each channel."""
        return torch.cat([step.size for step in self.steps])

    @property
    def shift(self) -> Tensor:
        """Of each channel, see `Step`."""
        return torch.cat([step.shift for step in self.steps])

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest integer."""
        return self.steps[0].range


@dataclass(frozen=True)
class PooledStep:
    """What sums of a quantizer's integers over `terms` positions stand for: the positions' mean."""

    step: Step
    terms: int

    @property
    def size(self) -> Tensor:
        """What a unit of the sum is in the mean."""
        return self.step.size / self.terms

    @property
    def shift(self) -> Tensor:
        """Of each channel, see `Step`."""
        return self.step.shift * self.terms

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest sum."""
        return self.step.low * self.terms, self.step.high * self.terms


@dataclass(frozen=True)
class IntegerWeights:
    """Integer weights `[out, in (+ 1)]`, the last column a residual's; scale, offset `[out]`.

    zero: the accumulator of inputs that stand for 0, `[out]`.
    """

    weight: Tensor
    scale: Tensor
    offset: Tensor
    zero: Tensor
    lsbs: int


@dataclass
class TableLinear:
    """`entry(weight x + residual + bias)` as integers that one lookup an output can compute.

    weight: float `[out, in]`, bias: float `[out]`. input_step: what the input integers stand
    for. entry: real pre-activation `[..., out]` to output integers. residual_step: the same as
    input_step for a residual input that is added as it is. calibrating: `entry` fits its step to
    what it is given, which must be a sample then, not a table. Integers are computed when they are
    first asked for, so that calibration can set the steps one after the other.

    Row c becomes integers w with scale s_c (`row_scales`): the accumulator, shifted to start
    at 0, never passes `lookup_limit`, whatever the input is, so that rounding noise can't wrap
    it around.
    """

    weight: Tensor
    bias: Tensor
    input_step: Step | JoinedSteps | PooledStep
    function: Callable[[Tensor], Tensor]
    output_step: Step | JoinedSteps
    bits: QuantizationConfig
    residual_step: Step | PooledStep | None = None
    calibrating: bool = False
    monotone: bool = True

    @property
    def saturates(self) -> bool:
        """Whether sums may reach beyond the entries of the circuit's table."""
        return self.monotone and self.bits.saturating

    @property
    def n_indices(self) -> int:
        """How many rounded sums there may be."""
        entries = 1 << self.bits.table_bits
        if not self.saturates:
            return entries
        return max(2 * round(entries * self.bits.sum_reach / 2), entries + 2)  # a flat end each

    @cached_property
    def integers(self) -> IntegerWeights:
        """The integer weights, with gradients to the float weights and the steps."""
        rows = self.weight * self.input_step.size  # [out, in]
        low, high = (rows.new_full((rows.shape[1],), end) for end in self.input_step.range)
        terms = torch.full_like(low, self.input_step.terms)
        shift = self.input_step.shift
        if self.residual_step is not None:
            terms = torch.cat([terms, rows.new_tensor([self.residual_step.terms])])
            rows = torch.cat([rows, self.residual_step.size[:, None]], dim=1)
            ends = rows.new_tensor([self.residual_step.range])
            low, high = torch.cat([low, ends[:, 0]]), torch.cat([high, ends[:, 1]])
        span, bits = high - low, self.bits
        fan_in = min(bits.fan_in or len(span), len(span))
        largest = float((1 << (bits.weight_bits - 1)) - 1)
        # Mean magnitude of a typical row: 0.4 of its largest weight, 0.8 of its root mean square.
        norm = bits.weight_norm / math.sqrt(self.input_step.terms)
        typical = min(0.4 * largest, 0.8 * norm / math.sqrt(fan_in))
        last = self.n_indices - 1
        lsbs = max(0, round(math.log2(typical * float(span.mean()) * fan_in / last)))
        limit = index_limit(last, lsbs)
        bounds = Bounds(largest, bits.weight_norm, float(limit))
        weight, scale = integer_rows(
            rows, span, bounds, fan_in, keep_last=self.residual_step is not None, terms=terms
        )
        fixed = weight.detach()
        offset = -(fixed.clamp(min=0) @ low + fixed.clamp(max=0) @ high)
        if self.saturates:  # the sums lie around the middle, where the table isn't flat
            offset = offset + ((limit - fixed.abs() @ span) / 2).floor()
        zero = offset + weight[:, : len(shift)] @ shift
        if self.residual_step is not None:
            zero = zero + weight[:, -1] * self.residual_step.shift
        return IntegerWeights(weight, scale, offset, zero, lsbs)

    def __call__(self, x: Tensor, residual: Tensor | None = None, noise_std: float = 0) -> Tensor:
        """Return output integers `[..., out]` of input integers `[..., in]`."""
        n_inputs, integers = self.weight.shape[1], self.integers
        weight = integers.weight[:, :n_inputs]
        accumulator = torch.nn.functional.linear(x, weight, integers.offset)
        if residual is not None:
            accumulator = accumulator + residual * integers.weight[:, n_inputs]
        if self.calibrating:  # the step is fitted to what it is given
            return self._entries(round_to_step(accumulator, integers.lsbs, noise_std))
        return read_table(accumulator, *self._table(), integers.lsbs, noise_std)

    def _table(self) -> tuple[Tensor, Tensor]:
        """Return the table `[entries, out]` with gradients, and the slopes of its entries.

        A batch looks each entry up many times: it is computed once.
        """
        entries = self.n_indices, self.integers.lsbs
        index = table_index(len(self.bias), *entries, self.bias.device)
        if not torch.is_grad_enabled():
            return self._indexed(index), torch.zeros_like(index)
        table = self._indexed(index.requires_grad_())
        (slope,) = torch.autograd.grad(table.sum(), index, retain_graph=True)
        return table, slope

    def _entries(self, accumulator: Tensor) -> Tensor:
        """Return the output integers of rounded accumulators."""
        return self.output_step(self.function(self._real(accumulator)))

    def _indexed(self, index: Tensor) -> Tensor:
        """Return the entries of all rounded sums `[n_indices, out]`, flat where they have to be."""
        codes = self._entries(index)
        if not self.saturates:
            return codes
        entries = 1 << self.bits.table_bits
        first = self.n_indices - entries  # that isn't flat
        end = self.output_step.range[1] * torch.where(codes[-1] >= codes[0], 1.0, -1.0)
        leak = CLIP_LEAK * (codes - codes.detach())
        return torch.cat([leak[:first] - end, codes[first:entries], leak[entries:] + end])

    def _real(self, accumulator: Tensor) -> Tensor:
        """Return the real pre-activation of a rounded accumulator."""
        return (accumulator - self.integers.zero) * self.integers.scale + self.bias

    @torch.no_grad()
    def to_circuit(self) -> Linear:
        """Return the clear integer parameters, the table computed entry by entry."""
        n_inputs, integers = self.weight.shape[1], self.integers
        weight = to_integers(integers.weight)
        table = tabulate(self._indexed, len(self.bias), self.n_indices, integers.lsbs)
        return Linear(
            weight=np.ascontiguousarray(weight[:, :n_inputs].T),
            offset=to_integers(integers.offset),
            table=saturating(table, self.bits.table_bits) if self.saturates else table,
            residual=None if self.residual_step is None else weight[:, n_inputs],
        )


def to_integers(x: Tensor) -> np.ndarray:
    """Return integers held in floats as int64."""
    return x.detach().round().to(torch.int64).numpy()


def table_index(
    channels: int, entries: int, lsbs: int, device: torch.device | None = None
) -> Tensor:
    """Return what the entries of a table stand for, 0, 2^lsbs, ...: `[entries, channels]`."""
    index = torch.arange(entries, dtype=torch.float32, device=device) * float(1 << lsbs)
    return index[:, None].expand(-1, channels).contiguous()


@torch.no_grad()
def tabulate(
    function: Callable[[Tensor], Tensor], channels: int, n_entries: int, lsbs: int
) -> Table:
    """Tabulate `function` of `[n_entries, channels]` on 0, 2^lsbs, ..., (n_entries - 1) 2^lsbs."""
    entries = function(table_index(channels, n_entries, lsbs))
    return Table(np.ascontiguousarray(to_integers(entries).T), first=0, lsbs=lsbs)
