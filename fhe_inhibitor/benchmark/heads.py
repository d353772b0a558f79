"""Attention heads for random Gaussian operands: integers and tables chosen for the least error.

The benchmarks feed heads with q, k, v of independent standard normal entries. Their integers are
symmetric, -m ... m with m = 2^(bits - 1) - 1, in steps that minimise the squared error of such an
entry (Max 1960); a v that only has a positive side gets all 2^bits values on it. Every table
follows from these steps and the float equation that it stands for. Rounded circuits read at most
5 bits of each operand (the inhibitor) or 4 (the dot product), since no lookup would see the rest.

Both mechanisms get both kinds of tables that a bootstrap continues by itself, wherever the
optimizer's complexity falls and the output stays as near to the float head's:

- Antiperiodic. |q - k|; the inhibitor's threshold, from |v - Z| of v and Z one bit narrower; and
  the square of q - k, a parabola that turns over beyond its middle.
- Saturating. The exponential. Nothing of the inhibitor is flat over enough of its proved range, nor
  are the weights of the softmax.

Rejected: a 3-bit |q - k|, and a 4-bit square of S - v, since less of the output is right.

The inhibitor's shift is the paper's 0.5 at width 2. The mean distance grows with the square root
of the width, so at other widths the shift is what keeps the mean inhibition; else no value of a
wide head would pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from circuits.dot_product import make_product
from circuits.inhibitor import InhibitorParameters
from circuits.lookups import (
    AntiperiodicTable,
    SaturatingTable,
    Table,
    antiperiodic_abs,
    bit_width,
    exact_lookup,
    read,
    table_of,
)
from circuits.single_head import PLAIN_SUM, AttentionHead
from circuits.softmax import NarrowSoftmaxParameters, WideSoftmaxParameters
from fhe_inhibitor.errors import InputError

INHIBITORS = ("inhibitor_exact", "inhibitor_rounded", "inhibitor_signed")
DOT_PRODUCTS = ("dot_product_exact", "dot_product_rounded")
CIRCUITS = (*INHIBITORS, *DOT_PRODUCTS)
MIN_BITS, MAX_BITS = 2, 8

# Best step of 2^bits - 1 symmetric values for a standard normal variable.
STEP = {2: 1.224, 3: 0.6508, 4: 0.3534, 5: 0.1932, 6: 0.1055, 7: 0.0573, 8: 0.0309, 9: 0.0165}
SHIFT, SHIFT_WIDTH = 0.5, 2
MEAN_DISTANCE = 2 / math.sqrt(math.pi)  # E |x - y| of standard normal x, y

MIN_ROUNDED_BITS, MAX_LOOKUP_BITS = 4, 5  # of rounded circuits
# v and Z are part of the sum that |v - Z| completes, and have its encoding. In a wider one than
# this Z needs less noise, which costs every lookup more than the narrower threshold saves.
PLAIN_SUM_BITS = 8
NARROWER = 0.8  # a rounded score gains more by a smaller range than it loses by saturation
EXP_TOP = 255  # largest E of a rounded circuit: the width of what a lookup gives is free
EXP_CEILING = 2.0  # score beyond which E saturates; 1 score in 44 is
EXP_FLOOR = -1.35  # and below, 1 in 11; so near that 4 bits reach the largest score
EXP_LOW = round(EXP_TOP * math.exp(EXP_FLOOR - EXP_CEILING))
LOG_SPREAD = (-0.5, 1.7)  # how far log sum_j exp lies from log n


@dataclass(frozen=True)
class GaussianHead:
    """A head's circuit, and what its integers stand for.

    qk_step, v_step, h_step: value of one integer step of q and k, of v, and of what the circuit
    returns.
    """

    head: AttentionHead
    qk_step: float
    v_step: float
    h_step: float

    def draw(self, rng: np.random.Generator, heads: int = 1) -> np.ndarray:
        """Return float q, k, v: `[3, heads, n, head_dim]`."""
        return rng.normal(size=(3, heads, self.head.n, self.head.head_dim))

    def quantize(self, qkv: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the nearest integers of float q, k, v `[3, ..., n, head_dim]`, saturating."""
        q, k = (np.clip(np.rint(x / self.qk_step), *self.head.qk_range) for x in qkv[:2])
        v = np.clip(np.rint(qkv[2] / self.v_step), *self.head.v_range)
        return q.astype(np.int64), k.astype(np.int64), v.astype(np.int64)

    def float_head(self, qkv: np.ndarray) -> np.ndarray:
        """Return what attention in floating point gives for the same q, k, v."""
        import torch  # takes two seconds, and the circuit alone doesn't need it

        from fhe_inhibitor.model import attention

        q, k, v = torch.from_numpy(qkv)[:, :, None]
        mask = torch.ones(self.head.n, self.head.n, dtype=torch.bool)
        shift = shift_at(self.head.head_dim)
        if self.head.circuit in DOT_PRODUCTS:
            h = attention.dot_product(q, k, v, mask, 1.0, 0.0)
        elif self.head.circuit == "inhibitor_signed":
            h = attention.inhibitor_signed(q, k, v, mask, 1.0, shift, 1.0)
        else:
            h = attention.inhibitor(q, k, v, mask, 1.0, shift)
        return h[:, 0].numpy()


def shift_at(head_dim: int) -> float:
    """Return the inhibitor's shift at a width."""
    return SHIFT + MEAN_DISTANCE * (math.sqrt(head_dim) - math.sqrt(SHIFT_WIDTH))


def make_head(circuit: str, n: int, head_dim: int, bits: int) -> GaussianHead:
    """Return a head for n tokens and operands of `bits` bits.

    >>> make_head("inhibitor_rounded", n=4, head_dim=2, bits=4).head.count_lookups()
    Counter({4: 48, 3: 32})

    Raises InputError for an unknown circuit, n below 2, no width, or bits outside 2 to 8.
    """
    if circuit not in CIRCUITS:
        raise InputError(f"no circuit {circuit!r}; there are {', '.join(CIRCUITS)}")
    if n < 2:
        raise InputError(f"sequence length {n}; wanted 2 or more tokens")
    if head_dim < 1:
        raise InputError(f"head width {head_dim}; wanted 1 or more")
    if not MIN_BITS <= bits <= MAX_BITS:
        raise InputError(f"operands of {bits} bits; wanted {MIN_BITS} to {MAX_BITS}")
    make = {"dot_product_exact": _wide, "dot_product_rounded": _narrow}.get(circuit)
    return _inhibitor(circuit, n, head_dim, bits) if make is None else make(n, head_dim, bits)


def _inhibitor(circuit: str, n: int, d: int, bits: int) -> GaussianHead:
    signed, exact = circuit == "inhibitor_signed", circuit == "inhibitor_exact"
    bits = bits if exact else min(bits, MAX_LOOKUP_BITS)
    width = None if exact else max(bits, MIN_ROUNDED_BITS)
    top = 2 ** (bits - 1) - 1
    v_bits = bits if exact or signed else max(bits - 1, MIN_BITS)  # as many as |v - Z| takes
    halved = not exact and bit_width(0, 2 * (2**v_bits - 1) * n) <= PLAIN_SUM_BITS
    if not halved:
        v_bits = bits
    v_low, v_top = (-top, top) if signed else (0, 2**v_bits - 1)
    step, v_step = STEP[bits], STEP[bits] if signed else STEP[v_bits + 1]
    distance = table_of(np.abs, -2 * top, 2 * top) if exact else antiperiodic_abs(bits)
    nearest = distance.range[0]  # what the table gives for a distance of 0
    z_top, drift = v_top, 0.0
    if not halved:
        while width and not _fits((v_low - z_top, v_top), width, lsbs=1):
            z_top -= 1  # rounding takes one input: the last value of Z
        # Rounded, what is kept is 1 for a difference of 1 or 2: half too little, as Z makes up for.
        drift = -0.5 if width and not _fits((v_low - z_top, v_top), width, lsbs=0) else 0.0

    def inhibition(score: np.ndarray) -> np.ndarray:
        z = (score - nearest * d) * step / math.sqrt(d) - shift_at(d)
        return np.clip(np.rint(z / v_step + drift), 0, z_top)

    def kept(difference: np.ndarray) -> np.ndarray:
        return np.maximum(difference + drift, 0)

    scores = (nearest * d, (nearest + 2 * top) * d)
    score_width = width if _fits(scores, width or 0, lsbs=1) else MAX_LOOKUP_BITS
    table = _fitted(inhibition, scores, width and score_width)
    rounded = _fitted(kept, (v_low - z_top, v_top), width)
    parameters = InhibitorParameters(
        distance=distance,
        inhibition=replace(table, values=table.values[None]),
        threshold=antiperiodic_abs(v_bits) if halved else rounded,
        padding_score=0,
        output=PLAIN_SUM,
        output_offset=np.zeros(d, dtype=np.int64),
    )
    head = AttentionHead(circuit, n, d, (-top, top), (v_low, v_top), parameters)
    return GaussianHead(head, step, v_step, v_step / 2 if halved else v_step)


def _wide(n: int, d: int, bits: int) -> GaussianHead:
    top, e_top = 2 ** (bits - 1) - 1, 2**bits - 1
    step, ceiling = STEP[bits], _largest_weight(n)
    unit = step**2 / math.sqrt(d)
    codes = np.geomspace(*_sums_of_exponentials(n, e_top), 2**bits)

    def exponential(score: np.ndarray) -> np.ndarray:
        return np.rint(e_top * np.exp(np.minimum(score * unit - EXP_CEILING, 0)))

    def code(total: np.ndarray) -> np.ndarray:
        return np.abs(np.log(np.maximum(total, 1))[:, None] - np.log(codes)).argmin(axis=1)

    def normalised(x: np.ndarray) -> np.ndarray:
        weight = (x >> bits) / codes[x & (2**bits - 1)]
        return np.rint(e_top * np.minimum(weight / ceiling, 1))

    qk, v = (-top, top), (-top, top)
    score = make_product(qk, qk)
    parameters = WideSoftmaxParameters(
        score=score,
        exponential=table_of(exponential, d * score.range[0], d * score.range[1]),
        total=table_of(code, 0, n * e_top),
        code_bits=bits,
        normalised=table_of(normalised, 0, 2 ** (2 * bits) - 1),
        weighted=make_product((0, e_top), v),
    )
    head = AttentionHead("dot_product_exact", n, d, qk, v, parameters)
    return GaussianHead(head, step, step, step * ceiling / e_top)


def _narrow(n: int, d: int, bits: int) -> GaussianHead:
    bits = min(bits, MAX_LOOKUP_BITS - 1)  # of q and k, so that q - k fits a lookup
    top = 2 ** (bits - 1) - 1
    s_top = 2**MAX_LOOKUP_BITS - 2 - 2 * top  # even, and S - v fits a lookup
    middle, half = (EXP_LOW + EXP_TOP) // 2, s_top // 2  # E and S less these end in -c and c
    step, v_step = NARROWER * STEP[bits], STEP[bits]
    unit, ceiling = step**2 / math.sqrt(d) / 2, _largest_weight(n)
    operand, difference = (-top, top), turned_square(bits)
    score = _scores(top, difference, d)
    moved = -d * difference.range[0]  # by what the table of q - k is lower than a square
    logarithms = [round((math.log(n) + x) / unit) for x in LOG_SPREAD]

    def exponential(x: np.ndarray) -> np.ndarray:
        e = EXP_TOP * np.exp(np.minimum((x - moved) * unit - EXP_CEILING, 0))
        return np.rint(np.maximum(e, EXP_LOW)) - middle

    def logarithm(total: np.ndarray) -> np.ndarray:
        value = np.log(np.maximum(total + n * middle, 1) / EXP_TOP) + EXP_CEILING
        return np.clip(np.rint(value / unit), logarithms[0], logarithms[1])

    def weight(x: np.ndarray) -> np.ndarray:
        e = np.exp(np.minimum((x - moved) * unit, 0))
        return np.rint(s_top * np.minimum(e / ceiling, 1)) - half

    sums = n * (EXP_LOW - middle), n * (EXP_TOP - middle)
    normalised = (score[0] - logarithms[1], score[1] - logarithms[0])
    weights = _fitted(weight, normalised, MAX_LOOKUP_BITS)
    parameters = NarrowSoftmaxParameters(
        difference=difference,
        operand=table_of(np.square, *operand),
        # One encoding with the normalised score: both drop the same bits.
        exponential=_narrowest(_rounded(exponential, score, weights.lsbs)),
        logarithm=_fitted(logarithm, sums, MAX_LOOKUP_BITS),
        weight=_narrowest(weights),
        spread=table_of(lambda x: (x + half) ** 2, -half - top, half + top),
        weight_squared=table_of(lambda x: (x + half) ** 2, -half, half),
        value=table_of(np.square, *operand),
        score_range=score,
        weighted_range=(-2 * s_top * top, 2 * s_top * top),
    )
    head = AttentionHead("dot_product_rounded", n, d, operand, operand, parameters)
    return GaussianHead(head, step, v_step, v_step * ceiling / s_top / 2)


def turned_square(bits: int) -> AntiperiodicTable:
    """Tabulate t^2 - 4^(bits - 1), for |t| up to half of 2^bits, with one lookup of `bits` bits.

    Beyond, the bootstrap goes on with its negative: the parabola turns over, without a step, and
    reads too little for the few differences that lie so far out.

    >>> exact_lookup(np.array([0, 3, 4, 5, 6]), turned_square(3)) + 16
    array([ 0,  9, 16, 23, 28])
    """
    half = 1 << (bits - 1)
    return AntiperiodicTable(np.arange(-half, half, dtype=np.int64) ** 2 - half**2, -half)


def _scores(top: int, difference: Table, d: int) -> tuple[int, int]:
    """Return the smallest and largest sum of q^2 + k^2 less what the table of q - k gives."""
    q = np.arange(-top, top + 1)
    products = q[:, None] ** 2 + q**2 - exact_lookup(q[:, None] - q, difference)
    return int(d * products.min()), int(d * products.max())


def _narrowest(table: Table) -> Table:
    """Return the table with as few entries as read the same, if it saturates."""
    entries = table.values.shape[-1]
    index = np.arange(table.first, table.last + 1)
    for bits in range(1, table.bit_width):
        for before in range(entries - (1 << bits) + 1):
            kept = table.values[before : before + (1 << bits)]
            if kept[0] != -kept[-1]:
                continue
            narrow = SaturatingTable(kept, table.first + before, table.lsbs)
            low, high = narrow.reach
            inside = low <= table.first and table.last <= high
            if inside and (read(index, narrow) == table.values).all():
                return narrow
    return table


def _largest_weight(n: int) -> float:
    """Return where attention weights saturate: few of n Gaussian scores stand out that far."""
    return n**-0.25


def _sums_of_exponentials(n: int, e_top: int) -> tuple[float, float]:
    """Return the smallest and largest sum of E that gets a code of its own."""
    low, high = (n * math.exp(x - EXP_CEILING) * e_top for x in LOG_SPREAD)
    return max(low, 1.0), min(high, n * e_top)


def _fitted(
    function: Callable[[np.ndarray], np.ndarray], bounds: tuple[int, int], width: int | None
) -> Table:
    """Tabulate a function on bounds, rounding as few bits as fit it into `width` bits, if given."""
    lsbs = 0
    while width is not None and not _fits(bounds, width, lsbs):
        lsbs += 1
    return _rounded(function, bounds, lsbs)


def _rounded(
    function: Callable[[np.ndarray], np.ndarray], bounds: tuple[int, int], lsbs: int
) -> Table:
    """Tabulate a function at the mean of the integers that round to each entry."""
    centre = 0.5 if lsbs else 0.0  # halves round up
    return table_of(lambda x: function(x - centre), *bounds, lsbs)


def _fits(bounds: tuple[int, int], width: int, lsbs: int) -> bool:
    """Whether the table of these bounds has at most 2^width entries."""
    return (bounds[1] >> lsbs) + (lsbs > 0) - (bounds[0] >> lsbs) < 1 << width
