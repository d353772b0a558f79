"""Heads alone: counts, proved ranges, naive loops, and how near they come to the float heads."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.blocks import cut
from circuits.inhibitor import InhibitorParameters
from circuits.intervals import interval, interval_lookup
from circuits.lookups import (
    AntiperiodicTable,
    SaturatingTable,
    Table,
    antiperiodic_abs,
    exact_lookup,
    noisy_lookup,
    read,
)
from circuits.single_head import PLAIN_SUM, AttentionHead
from circuits.softmax import NarrowSoftmaxParameters, WideSoftmaxParameters
from fhe_inhibitor.benchmark.heads import CIRCUITS, make_head
from fhe_inhibitor.errors import InputError

NOISE_STD = 0.1

Operands = tuple[np.ndarray, np.ndarray, np.ndarray]


@st.composite
def heads(draw: st.DrawFn) -> AttentionHead:
    circuit = draw(st.sampled_from(CIRCUITS))
    return make_head(
        circuit, draw(st.integers(2, 5)), draw(st.integers(1, 4)), draw(st.integers(2, 6))
    ).head


def inputs(rng: np.random.Generator, head: AttentionHead, corner: bool = False) -> Operands:
    def draw(low: int, high: int) -> np.ndarray:
        shape = (head.n, head.head_dim)
        return rng.choice([low, high], shape) if corner else rng.integers(low, high + 1, shape)

    return draw(*head.qk_range), draw(*head.qk_range), draw(*head.v_range)


@settings(deadline=None, max_examples=60)
@given(heads(), st.integers(0, 2**32 - 1))
def test_ranges_are_proved_and_hold(head: AttentionHead, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (head.n, head.head_dim)
    proved = head.prove()
    for corner in (False, True):
        qkv = inputs(rng, head, corner)
        q, k, v = (interval(x) for x in qkv)
        near = head.evaluate(q, k, v, interval_lookup)
        for lookup in (exact_lookup, noisy_lookup(rng, NOISE_STD)):
            h = head.evaluate(*qkv, lookup)
            assert h.shape == shape
            assert (proved.low <= near.low).all() and (near.high <= proved.high).all()
            assert (near.low <= h).all() and (h <= near.high).all()


@settings(deadline=None, max_examples=40)
@given(heads(), st.integers(0, 2**32 - 1))
def test_heads_equal_loops(head: AttentionHead, seed: int) -> None:
    qkv = inputs(np.random.default_rng(seed), head)
    assert head.evaluate(*qkv, exact_lookup).tolist() == loops(head, *qkv)


@settings(deadline=None, max_examples=40)
@given(heads())
def test_as_many_lookups_as_the_formula_says(head: AttentionHead) -> None:
    looked_up: Counter[int] = Counter()

    def counting(x: Any, table: Table) -> Any:
        assert table is not PLAIN_SUM
        looked_up[0] += x.size
        return exact_lookup(x, table)

    head.evaluate(*inputs(np.random.default_rng(0), head), counting)
    n, d = head.n, head.head_dim
    formulas = {
        "inhibitor_exact": n * n * (2 * d + 1),
        "inhibitor_rounded": n * n * (2 * d + 1),
        "inhibitor_signed": n * n * (3 * d + 1),
        "dot_product_rounded": n * n * (2 * d + 3) + n * (3 * d + 1),
    }
    if isinstance(head.parameters, WideSoftmaxParameters):
        m = head.parameters.score.lookups + head.parameters.weighted.lookups
        formulas["dot_product_exact"] = n * n * (m * d + 2) + n
    assert looked_up[0] == head.count_lookups().total() == formulas[head.circuit]


@settings(deadline=None, max_examples=40)
@given(heads(), st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_blocks_of_queries_are_the_head(head: AttentionHead, split: int, seed: int) -> None:
    """Row for row the same integers; the squares of k and v are looked up in each block again."""
    q, k, v = inputs(np.random.default_rng(seed), head)
    looked_up: Counter[int] = Counter()

    def counting(x: Any, table: Table) -> Any:
        looked_up[table.bit_width] += x.size
        return exact_lookup(x, table)

    rows = cut(head.n, split)
    blocks = [head.block(len(block)) for block in rows]
    whole = head.evaluate(q, k, v, exact_lookup)
    for block, queries in zip(blocks, rows, strict=True):
        h = block.evaluate(q[queries.start : queries.stop], k, v, counting)
        assert (h == whole[queries.start : queries.stop]).all()
    n, d = head.n, head.head_dim
    repeated = (len(rows) - 1) * 2 * n * d * (head.circuit == "dot_product_rounded")
    counted = sum((block.count_lookups() for block in blocks), Counter())
    assert counted.total() == head.count_lookups().total() + repeated
    # Of a wide head, Concrete may look a sum up at the width of what it is packed with.
    assert counted == looked_up or isinstance(head.parameters, WideSoftmaxParameters)
    assert counted.total() == looked_up.total()


@pytest.mark.parametrize("circuit", CIRCUITS)
def test_rounded_circuits_look_up_at_most_five_bits(circuit: str) -> None:
    for bits in range(2, 9):
        for n, d in ((2, 1), (4, 2), (16, 2), (8, 64)):
            widest = max(make_head(circuit, n, d, bits).head.count_lookups())
            assert widest <= 5 or circuit.endswith("exact")


@pytest.mark.parametrize(("circuit", "floor"), [(c, 0.93) for c in CIRCUITS])
def test_four_bits_come_near_the_float_head(circuit: str, floor: float) -> None:
    rng = np.random.default_rng(0)
    gaussian = make_head(circuit, n=8, head_dim=2, bits=4)
    qkv = gaussian.draw(rng, heads=100)
    lookup = noisy_lookup(rng, NOISE_STD)
    quantized = zip(*gaussian.quantize(qkv), strict=True)
    h = np.stack([gaussian.head.evaluate(q, k, v, lookup) for q, k, v in quantized])
    expected = gaussian.float_head(qkv)
    assert np.corrcoef(h.ravel(), expected.ravel())[0, 1] > floor
    error = h * gaussian.h_step - expected
    assert np.sqrt(np.mean(error**2)) < 0.4 * expected.std()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("softmax", 4, 2, 4), "no circuit 'softmax'"),
        (("inhibitor_exact", 1, 2, 4), "sequence length 1"),
        (("inhibitor_exact", 0, 2, 4), "sequence length 0"),
        (("inhibitor_exact", 4, 0, 4), "head width 0"),
        (("dot_product_exact", 4, 2, 1), "operands of 1 bits"),
        (("dot_product_exact", 4, 2, 9), "operands of 9 bits"),
    ],
)
def test_bad_shapes_are_refused(arguments: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make_head(*arguments)


@pytest.mark.parametrize("bits", range(1, 7))
def test_an_antiperiodic_table_goes_on_with_its_negative(bits: int) -> None:
    table = antiperiodic_abs(bits)
    t = np.arange(1 - (1 << bits), 1 << bits)
    assert table.bit_width == bits
    assert table.reach == (t[0], t[-1])
    assert (exact_lookup(t, table) + (1 << bits - 1) == np.abs(t)).all()
    assert (read(t + (1 << bits), table) == -read(t, table)).all()
    with pytest.raises(OverflowError, match="its table covers"):
        exact_lookup(np.array([1 << bits]), table)


@pytest.mark.parametrize(
    "wrong",
    [
        AntiperiodicTable(np.array([0, -1, -2, -3]), -2),  # no |t| at all
        AntiperiodicTable(np.array([0, -1, -2, -1]), -1),  # |t - 1| - 2
        AntiperiodicTable(np.array([0, -1, -2, -1]), -2, lsbs=1),
        AntiperiodicTable(np.array([[0, -1, -2, -1]]), -2),
        SaturatingTable(np.array([-2, -2, 0, 2]), -2),
    ],
)
def test_an_antiperiodic_threshold_is_an_absolute_value(wrong: AntiperiodicTable) -> None:
    """Its bounds are those of 2 relu(t), so the verifier would prove them of any other table."""
    parameters = make_head("inhibitor_rounded", 2, 1, 4).head.parameters
    assert isinstance(parameters, InhibitorParameters)
    assert isinstance(parameters.threshold, AntiperiodicTable)
    with pytest.raises(ValueError, match=r"less a constant: wanted antiperiodic_abs\(2\)"):
        replace(parameters, threshold=wrong)
    assert replace(parameters, threshold=antiperiodic_abs(2)).threshold.bit_width == 2


def loops(head: AttentionHead, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> list[list[int]]:
    """The head once more, as plain loops over numbers."""
    rows = []
    for i in range(head.n):
        weigh = _inhibited if isinstance(head.parameters, InhibitorParameters) else _weighted
        rows.append(weigh(head, head.parameters, q[i], k, v))
    return rows


def _inhibited(head: AttentionHead, p: Any, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> Any:
    total = [0] * head.head_dim
    nearest = int(p.distance.values.min())  # where |q - k| is 0
    for key, value in zip(k, v, strict=True):
        distance = sum(abs(int(x) - int(y)) + nearest for x, y in zip(q, key, strict=True))
        z = _entry(p.inhibition, distance)
        for channel, x in enumerate(value):
            total[channel] += _kept(p.threshold, x - z)
            if head.circuit == "inhibitor_signed":
                total[channel] -= _kept(p.threshold, -x - z)
    return total


def _weighted(head: AttentionHead, p: Any, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> Any:
    narrow = isinstance(p, NarrowSoftmaxParameters)
    factor = 2 if narrow else 1
    scores = [sum(_product(p, x, y) for x, y in zip(q, key, strict=True)) for key in k]
    e = [_entry(p.exponential, score) for score in scores]
    if narrow:
        logarithm = _entry(p.logarithm, sum(e))
        lowest = p.weight_squared.first  # stands for a weight of 0
        weights = [_entry(p.weight, score - logarithm) - lowest for score in scores]
    else:
        code = _entry(p.total, sum(e))
        weights = [_entry(p.normalised, (x << p.code_bits) + code) for x in e]
    return [
        factor * sum(w * int(value[channel]) for w, value in zip(weights, v, strict=True))
        for channel in range(head.head_dim)
    ]


def _product(p: Any, x: int, y: int) -> int:
    """x y, or about 2 x y less a constant."""
    x, y = int(x), int(y)
    if isinstance(p, NarrowSoftmaxParameters):
        return x * x + y * y - _entry(p.difference, x - y)
    return x * y


def _kept(threshold: Table, x: int) -> int:
    """relu(x) of a plain table; twice that where it is made of |x|."""
    return 2 * max(x, 0) if isinstance(threshold, AntiperiodicTable) else _entry(threshold, x)


def _entry(table: Table, x: int) -> int:
    """The entry nearest to `x`, the upper one of two; past the last comes the first, negated."""
    step = 2**table.lsbs
    values = table.values.ravel()
    position = (2 * int(x) + step) // (2 * step) - table.first
    if isinstance(table, AntiperiodicTable) and not 0 <= position < len(values):
        return -int(values[position % len(values)])
    return int(values[position])
