"""The one nonlinear operation of TFHE: a table lookup on one encrypted integer.

A stage computes sums and products with clear integers, and calls `lookup(x, table)` for
all the rest. What `lookup` is decides what the stage is:

    exact_lookup          the integer reference, rounding half up
    noisy_lookup(...)     the reference with the noise of encrypted rounding drawn
    encrypted_lookup(...) in `circuits.encrypted`: one programmable bootstrap
    interval_lookup       in `circuits.intervals`: which outputs are possible at all

Rounding comes first: a `Table` with `lsbs = r` drops the r low bits of its input,

    index = floor((x + 2^(r-1)) / 2^r),     output = values[index - first],

so that an accumulator of 12 bits reads a table of 32 entries with one 5-bit lookup.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Lookup = Callable[[Any, "Table"], Any]


@dataclass(frozen=True)
class Table:
    """A table lookup after rounding, one table per channel.

    values: int64 `[*channels, n_entries]`; `channels` are the last axes of the input.
    first: rounded index of the first entry; the table covers `first ... first + n_entries - 1`.
    lsbs: low bits removed by rounding before the lookup; 0 reads the input as it is.

    >>> relu = Table(np.array([0, 0, 0, 1, 2]), first=-2)
    >>> exact_lookup(np.array([-2, 0, 2]), relu)
    array([0, 0, 2])
    >>> exact_lookup(np.array([7, 8, 25]), Table(np.array([0, 10, 20]), lsbs=4))
    array([ 0, 10, 20])
    """

    values: np.ndarray
    first: int = 0
    lsbs: int = 0

    @property
    def last(self) -> int:
        """Rounded index of the last entry."""
        return self.first + self.values.shape[-1] - 1

    @property
    def reach(self) -> tuple[int, int]:
        """Smallest and largest rounded index that may be read."""
        return self.first, self.last

    @property
    def domain(self) -> tuple[int, int]:
        """Smallest and largest input that stays inside the table whatever the rounding noise.

        Encrypted rounding may read one entry too high even on a multiple of 2^lsbs, because it
        moves the input half a unit up (see `noisy_lookup`); so the last one is left out.
        """
        first, last = self.reach
        return first << self.lsbs, (last << self.lsbs) - (self.lsbs > 0)

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest output."""
        return int(self.values.min()), int(self.values.max())

    @property
    def bit_width(self) -> int:
        """Bits of the lookup: what is left of the input, shifted to start at 0, after rounding."""
        return bit_width(0, self.last - self.first)

    def take(self, channels: np.ndarray) -> Table:
        """Return the table whose channels are these rows of the first channel axis."""
        return replace(self, values=self.values[channels])


@dataclass(frozen=True)
class AntiperiodicTable(Table):
    """A table that goes on with its own negative: f(i + m) = -f(i) for its m = 2^p entries.

    A bootstrap does that by itself, because X^N = -1 in its ring: where a sum runs into the
    padding bit above its p bits, the negative of the entry comes out. So such a table needs one
    bit less than its 2 m - 1 inputs. Up to a constant, an absolute value is antiperiodic:

    >>> distance = antiperiodic_abs(2)
    >>> exact_lookup(np.arange(-3, 4), distance) + 2, distance.bit_width
    (array([3, 2, 1, 0, 1, 2, 3]), 2)

    Raises ValueError for entries whose number is no power of 2: a bootstrap's period would be more.
    """

    def __post_init__(self) -> None:
        entries = self.values.shape[-1]
        if entries < 2 or entries & (entries - 1):
            raise ValueError(f"an antiperiodic table has {entries} entries: wanted 2^b, b >= 1")

    @property
    def reach(self) -> tuple[int, int]:
        """Smallest and largest rounded index, half a period beyond the entries."""
        half = self.values.shape[-1] // 2
        return self.first - half + 1, self.last + half

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest output."""
        first, last = self.reach
        index = np.arange(first, last + 1).reshape(-1, *[1] * (self.values.ndim - 1))
        entries = read(index, self)
        return int(entries.min()), int(entries.max())


@dataclass(frozen=True)
class SaturatingTable(AntiperiodicTable):
    """An antiperiodic table that is flat at both ends, -c and c: sums may reach twice as far.

    A bootstrap goes on past the last entry with the negative of the first ones. Where those are
    -c and the last one is c, that is the right value, so the flat ends need no entries of their
    own: with m entries, flat up to index a and from index b, all of `b - m ... a + m` is right.

    >>> clip = SaturatingTable(np.array([-2, -2, -2, -1, 0, 1, 2, 2]), first=-4)
    >>> clip.reach, clip.bit_width, exact_lookup(np.array([-6, -5, 0, 5, 6]), clip)
    ((-6, 6), 3, array([-2, -2,  0,  2,  2]))

    Raises ValueError for entries whose number is no power of 2, or whose ends are not -c and c.
    """

    def __post_init__(self) -> None:
        entries = self.values.shape[-1]
        if entries & (entries - 1) or (self.values[..., 0] != -self.values[..., -1]).any():
            raise ValueError(
                f"a saturating table has {entries} entries that end in {self.values[..., 0]} and "
                f"{self.values[..., -1]}: wanted 2^b entries from -c to c"
            )

    @property
    def reach(self) -> tuple[int, int]:
        """Smallest and largest rounded index that reads a flat end or an entry, in any channel."""
        entries = self.values.shape[-1]
        low = (self.values == self.values[..., :1]).cumprod(axis=-1).sum(axis=-1).min()
        high = (self.values == self.values[..., -1:])[..., ::-1].cumprod(axis=-1).sum(axis=-1).min()
        return self.first - int(high), self.first + int(low) + entries - 1


def bit_width(low: int, high: int) -> int:
    """Return the bits that hold `low ... high`: two's complement if `low` is negative.

    >>> bit_width(0, 31), bit_width(-16, 15), bit_width(-15, 16)
    (5, 5, 6)
    """
    if low < 0:
        return max((-low - 1).bit_length(), max(high, 0).bit_length()) + 1
    return max(high.bit_length(), 1)


def table_of(
    function: Callable[[np.ndarray], np.ndarray], low: int, high: int, lsbs: int = 0
) -> Table:
    """Tabulate `function` on all rounded inputs that noise can make of `low ... high`.

    >>> table_of(np.abs, -3, 3).values
    array([3, 2, 1, 0, 1, 2, 3])
    """
    first, last = low >> lsbs, (high >> lsbs) + (lsbs > 0)
    index = np.arange(first, last + 1, dtype=np.int64)
    return Table(np.asarray(function(index << lsbs), dtype=np.int64), first, lsbs)


def saturating(table: Table, bits: int) -> SaturatingTable:
    """Return a table that reads the same with 2^bits entries, those in its middle.

    Raises ValueError if it can't: beyond them it isn't flat, or not -c and c.
    """
    entries = 1 << bits
    before = (table.values.shape[-1] - entries) // 2
    kept = table.values[..., before : before + entries]
    narrow = SaturatingTable(kept, table.first + before, table.lsbs)
    low, high = narrow.reach
    left, right = table.values[..., :before], table.values[..., before + entries :]
    if (left != kept[..., :1]).any() or (right != kept[..., -1:]).any():
        low, high = narrow.first, narrow.last
    if low > table.first or high < table.last:
        raise ValueError(
            f"{entries} entries read {low}..{high} right, wanted {table.first}..{table.last}: let "
            "the table be flat from nearer to its middle, or take more bits"
        )
    return narrow


def antiperiodic_abs(bits: int) -> AntiperiodicTable:
    """Tabulate |t| - 2^(bits - 1) for |t| < 2^bits with one lookup of `bits` bits."""
    half = 1 << (bits - 1)
    return AntiperiodicTable(np.abs(np.arange(-half, half, dtype=np.int64)) - half, -half)


def read(index: np.ndarray, table: Table) -> np.ndarray:
    """Return the entries at rounded indices `index`, each from its channel's table."""
    entries = table.values.shape[-1]
    channels = table.values.shape[:-1]
    base = np.arange(int(np.prod(channels)), dtype=np.int64).reshape(channels) * entries
    position = index - table.first
    if isinstance(table, AntiperiodicTable):
        periods, position = np.divmod(position, entries)
        return table.values.reshape(-1)[base + position] * (1 - 2 * (periods & 1))
    return table.values.reshape(-1)[base + position]


def exact_lookup(x: np.ndarray, table: Table) -> np.ndarray:
    """Look `x` up after rounding half up; the integer reference.

    Raises OverflowError if a value leaves the table: accumulators never saturate here,
    because encrypted ones would wrap around in silence.
    """
    _check_domain(x, table)
    half = (1 << table.lsbs) >> 1
    return read((x + half) >> table.lsbs, table)


def noisy_lookup(rng: np.random.Generator, noise_std: float) -> Lookup:
    """Return a lookup that draws the noise of approximate encrypted rounding.

    noise_std: standard deviation of the noise, in units of one rounding step 2^lsbs. Noise
    beyond half a step is cut off: its probability is the lookup's p_error. Concrete moves x
    half a unit up first, so that without noise a tie is rounded up and none is on the
    boundary. Lookups without rounding are exact. Raises OverflowError as `exact_lookup` does.
    """

    def lookup(x: np.ndarray, table: Table) -> np.ndarray:
        if table.lsbs == 0:
            return exact_lookup(x, table)
        _check_domain(x, table)
        step = 1 << table.lsbs
        noise = np.clip(rng.normal(0.0, noise_std, x.shape), -0.499, 0.499)
        return read(np.floor((x + 0.5) / step + 0.5 + noise).astype(np.int64), table)

    return lookup


def _check_domain(x: np.ndarray, table: Table) -> None:
    low, high = table.domain
    if x.size and (x.min() < low or x.max() > high):
        raise OverflowError(
            f"an accumulator reached {x.min()}..{x.max()}, its table covers {low}..{high}"
        )
