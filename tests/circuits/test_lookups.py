"""Tables, their widths and domains; noise stays inside what intervals allow."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.counts import count_groups, count_keys, count_lookups, count_pairs
from circuits.dot_product import make_product, multiply
from circuits.intervals import full, interval, interval_lookup
from circuits.lookups import (
    AntiperiodicTable,
    SaturatingTable,
    Table,
    antiperiodic_abs,
    bit_width,
    exact_lookup,
    noisy_lookup,
    read,
    saturating,
    table_of,
)
from circuits.network import run
from circuits.pairs import make_pairs
from circuits.plan import network_stages
from tests.circuits.test_stages import ATTENTION, shapes
from tests.networks import NetworkShape, fitting_length, random_inputs, random_network

NOISE_STD = 0.1


@given(st.integers(-4000, 4000), st.integers(0, 3000), st.integers(0, 7))
def test_a_table_covers_the_range_it_was_made_for(low: int, spread: int, lsbs: int) -> None:
    table = table_of(lambda x: x, low, low + spread, lsbs)
    assert table.domain[0] <= low and low + spread <= table.domain[1]
    ends = np.array([low, low + spread])
    assert np.abs(exact_lookup(ends, table) - ends).max() <= (1 << lsbs) / 2


@given(st.integers(-300, 300), st.integers(0, 600))
def test_bit_width_is_the_smallest(low: int, spread: int) -> None:
    high = low + spread
    bits = bit_width(low, high)

    def holds(b: int) -> bool:
        return (-(1 << b - 1) <= low and high < 1 << b - 1) if low < 0 else high < 1 << b

    assert holds(bits) and (bits == 1 or not holds(bits - 1))


def test_ties_round_up_and_the_width_counts_entries() -> None:
    table = Table(np.arange(-4, 4), first=-4, lsbs=1)
    assert exact_lookup(np.array([-3, -1, 0, 1]), table).tolist() == [-1, 0, 0, 1]
    assert (table.bit_width, table.domain) == (3, (-8, 5))
    assert Table(np.arange(8), first=-1).bit_width == 3


def test_leaving_a_table_is_an_error() -> None:
    table = Table(np.arange(8), lsbs=2)
    with pytest.raises(OverflowError, match=r"reached -1\.\.28, its table covers 0\.\.27"):
        exact_lookup(np.array([-1, 28]), table)
    with pytest.raises(OverflowError, match=r"reach 0\.\.8, the table covers 0\.\.7"):
        interval_lookup(full((1,), 0, 28), table)


def test_leaving_a_table_is_an_error_with_noise_too() -> None:
    """Before, an index beyond the end read the next channel's entries."""
    table = Table(np.stack([np.arange(4), np.arange(20, 24)]), lsbs=2)
    lookup = noisy_lookup(np.random.default_rng(0), NOISE_STD)
    for x in (-1, 12):
        with pytest.raises(OverflowError, match=rf"reached {x}\.\.{x}, its table covers 0\.\.11"):
            lookup(np.array([[x, x]]), table)


def test_taken_channels_keep_the_kind_of_their_table() -> None:
    table = antiperiodic_abs(2)
    rows = replace(table, values=np.stack([table.values, -table.values])).take(np.array([1, 0]))
    assert isinstance(rows, AntiperiodicTable)
    x = np.arange(-3, 4)
    assert exact_lookup(np.stack([x, x], axis=-1), rows)[:, 1].tolist() == [1, 0, -1, -2, -1, 0, 1]


@pytest.mark.parametrize("entries", [1, 3, 6, 12])
def test_a_period_that_no_bootstrap_has_is_refused(entries: int) -> None:
    """Six entries are read with 3 bits, and a bootstrap of 3 bits goes on after eight."""
    with pytest.raises(ValueError, match=rf"has {entries} entries: wanted 2\^b"):
        AntiperiodicTable(np.arange(entries))


def steps(*rows: list[int], first: int = 0, lsbs: int = 0) -> SaturatingTable:
    """A table that saturates, one row of entries for each channel."""
    return SaturatingTable(np.array(rows), first, lsbs)


# Two entries at either end are flat in the first row, three in the second.
RISING, FALLING = [-3, -3, -1, 0, 1, 2, 3, 3], [5, 5, 5, 1, -1, -5, -5, -5]


def test_a_saturating_table_reaches_as_far_as_its_least_flat_channel() -> None:
    assert steps(RISING, first=-4).reach == (-4 - 2, 3 + 2)
    assert steps(FALLING, first=-4).reach == (-4 - 3, 3 + 3)
    both = steps(RISING, FALLING, first=-4, lsbs=2)
    assert both.reach == (-6, 5) and both.take(np.array([1])).reach == (-7, 6)
    assert both.domain == (-24, 19) and both.bit_width == 3 and both.range == (-5, 5)
    assert steps([-1, -1, 1, 1]).reach == (-2, 5)  # a step: twice its length


@given(st.integers(1, 4), st.integers(-40, 40), st.integers(0, 3), st.integers(1, 9), st.data())
def test_a_saturating_table_goes_on_as_it_ends(
    width: int, first: int, lsbs: int, c: int, data: st.DataObject
) -> None:
    """Beyond the first and the last entry, in both directions, as far as it claims."""
    inner = st.lists(st.integers(-c, c), min_size=(1 << width) - 2, max_size=(1 << width) - 2)
    sign = data.draw(st.sampled_from((-1, 1)))
    table = steps([-sign * c, *data.draw(inner), sign * c], first=first, lsbs=lsbs)
    low, high = table.reach
    assert low < table.first and table.last < high
    index = np.arange(low, high + 1)
    wanted = table.values[0][np.clip(index - table.first, 0, (1 << width) - 1)]
    assert read(index[:, None], table)[:, 0].tolist() == wanted.tolist()
    assert table.range == (wanted.min(), wanted.max())
    # One further is wrong, in one direction or the other: nothing is claimed too little.
    beyond = read(np.array([[low - 1], [high + 1]]), table)[:, 0]
    assert (beyond != [-sign * c, sign * c]).all()


@pytest.mark.parametrize(
    "entries", [[-2, 0, 2], [-2, -2, 0, 1], [0, 0, 1, 3], [2, 1, 0, 2], [-2, -1, 0, 1, 2, 2]]
)
def test_entries_that_do_not_saturate_are_refused(entries: list[int]) -> None:
    with pytest.raises(ValueError, match=r"wanted 2\^b entries from -c to c"):
        steps(entries)
    with pytest.raises(ValueError, match=r"wanted 2\^b entries from -c to c"):
        SaturatingTable(np.array([[-1, -1, 1, 1], [-1, -1, 1, 2]]))


def test_noise_reads_a_saturated_end_beyond_the_entries() -> None:
    table = steps(RISING, first=-4, lsbs=3)
    low, high = table.domain
    lookup = noisy_lookup(np.random.default_rng(0), 0.3)
    outside = np.concatenate([np.arange(low, (-4 << 3) - 4), np.arange((3 << 3) + 5, high + 1)])
    x = outside.repeat(500)[:, None]
    assert len(outside) > 20
    assert (lookup(x, table) == np.where(x < 0, -3, 3)).all()
    for x in (low - 1, high + 1):
        for function in (exact_lookup, lookup):
            with pytest.raises(OverflowError, match=rf"covers {low}\.\.{high}"):
                function(np.array([[x]]), table)


def test_intervals_go_as_far_as_a_saturating_table_reaches() -> None:
    table = steps(RISING, first=-4, lsbs=3)
    low, high = table.domain
    bound = interval_lookup(full((1, 1), low, high), table)
    assert (bound.low.item(), bound.high.item()) == (-3, 3)
    for x, wanted in ((low, -3), (high, 3), (-4 << 3, -3), (3 << 3, 3)):
        point = interval_lookup(full((1, 1), x, x), table)
        assert point.low.item() == point.high.item() == wanted
    for ends, reached in (((low - 1, 0), r"-7\.\.1"), ((0, high + 1), r"0\.\.6")):
        with pytest.raises(OverflowError, match=rf"reach {reached}, the table covers -6\.\.5"):
            interval_lookup(full((1, 1), *ends), table)


def test_a_flat_table_is_narrowed_to_its_middle() -> None:
    clip = table_of(lambda x: np.clip(x >> 2, -2, 2), -20, 20, lsbs=2)
    narrow = saturating(clip, 3)
    assert (narrow.bit_width, narrow.lsbs) == (3, 2) and clip.bit_width == 4
    x = np.arange(clip.domain[0], clip.domain[1] + 1)
    assert (exact_lookup(x, narrow) == exact_lookup(x, clip)).all()
    # Five values need five entries, of which the ends must be among four.
    with pytest.raises(ValueError, match=r"a saturating table has 4 entries that end in"):
        saturating(clip, 2)


def test_a_table_that_is_not_flat_enough_is_not_narrowed() -> None:
    steep = Table(np.array([[-2] * 8 + [-1, 1] + [2] * 8]), first=-5)
    with pytest.raises(ValueError, match=r"4 entries read 1\.\.6 right, wanted -5\.\.12"):
        saturating(steep, 2)


@pytest.mark.parametrize(
    "bent", [[-1, -2, -2, -1, 0, 1, 2, 2, 2, 2], [-2] * 4 + [0, 1, 2, 2, 2, 1]]
)
def test_a_table_that_turns_beyond_its_middle_is_not_narrowed(bent: list[int]) -> None:
    """Before, the narrow table reached as far, but read other entries there."""
    with pytest.raises(ValueError, match=r"8 entries read -4\.\.3 right, wanted -5\.\.4"):
        saturating(Table(np.array([bent]), first=-5), 3)


def test_noise_flips_what_lies_near_a_boundary_and_only_there() -> None:
    table = Table(np.arange(32), lsbs=5)
    x = np.arange(31 * 32).repeat(40)
    noisy = noisy_lookup(np.random.default_rng(0), NOISE_STD)(x, table)
    off = noisy - exact_lookup(x, table)
    # E |noise| = std * sqrt(2 / pi)
    assert np.mean(off != 0) == pytest.approx(NOISE_STD * np.sqrt(2 / np.pi), rel=0.05)
    far = np.abs(x % 32 - 15.5) > 15
    assert (np.abs(off) <= 1).all() and not off[far].any()


def test_without_rounding_nothing_is_noisy() -> None:
    table = Table(np.arange(8))
    x = np.arange(8)
    assert (noisy_lookup(np.random.default_rng(0), 0.4)(x, table) == x).all()


@settings(deadline=None, max_examples=40)
@given(shapes(), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_noisy_stages_stay_in_their_bounds(shape: NetworkShape, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = random_network(rng, shape)
    x, padding = random_inputs(rng, network, fitting_length(network, n))
    values: dict[str, Any] = {"x": x, "padding": padding}
    for stage in network_stages(network, len(x)):
        inputs = [values[name] for name in stage.inputs]
        bounds = stage.evaluate([interval(value) for value in inputs], interval_lookup)
        for lookup in (exact_lookup, noisy_lookup(rng, 0.3)):
            outputs = stage.evaluate(inputs, lookup)
            for bound, output in zip(bounds, outputs, strict=True):
                assert ((bound.low <= output) & (output <= bound.high)).all()
        values.update(zip(stage.outputs, outputs, strict=True))


@given(st.integers(-8, 8), st.integers(0, 12), st.integers(-8, 8), st.integers(0, 12), st.randoms())
def test_products_are_exact(x_low: int, x_span: int, y_low: int, y_span: int, random: Any) -> None:
    product = make_product((x_low, x_low + x_span), (y_low, y_low + y_span))
    x = np.arange(x_low, x_low + x_span + 1)[:, None] + np.zeros((1, y_span + 1), dtype=int)
    y = np.arange(y_low, y_low + y_span + 1)[None, :] + np.zeros((x_span + 1, 1), dtype=int)
    assert (multiply(x, y, product, exact_lookup) == x * y).all()
    wide = full((1,), x_low, x_low + x_span), full((1,), y_low, y_low + y_span)
    bound = multiply(*wide, product, interval_lookup)
    assert (x * y).min() - 1 < bound.low.min() and bound.high.max() < (x * y).max() + 1


@settings(deadline=None, max_examples=40)
@given(shapes(), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_the_formula_counts_what_the_stages_look_up(shape: NetworkShape, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = random_network(rng, shape)
    n = fitting_length(network, n)
    x, padding = random_inputs(rng, network, n)
    counted: Counter[int] = Counter()

    def counting_lookup(value: np.ndarray, table: Table) -> np.ndarray:
        counted[table.bit_width] += value.size
        return exact_lookup(value, table)

    run(network, x, padding, counting_lookup)
    assert counted == sum(count_lookups(network, n).values(), Counter())


@given(st.integers(1, 12), st.integers(0, 14), st.booleans(), st.booleans())
def test_pairs(n: int, window: int, single: bool, causal: bool) -> None:
    n_queries = 1 if single else n
    pairs = make_pairs(n, n_queries, window, max_offset=2, causal=causal)
    listed = {(int(i), int(j)) for i, j in zip(pairs.i, pairs.j, strict=True)}
    first = n - n_queries if causal else 0  # position of the first query
    wanted = {
        (i, j)
        for i in range(n_queries)
        for j in range(n)
        if (not window or abs(first + i - j) <= window) and not (causal and j > first + i)
    }
    assert listed == wanted and len(pairs) == count_pairs(n, n_queries, window, causal)
    keys = [sum(i == q for i, _ in wanted) for q in range(n_queries)]
    assert pairs.collect.sum(axis=1).tolist() == keys == count_keys(n, n_queries, window, causal)
    assert (pairs.offset == np.clip(pairs.j - pairs.i - first, -2, 2) + 2).all()
    group, of_query = pairs.groups(3)
    assert len(group) == count_groups(n, n_queries, window, 3, causal)
    assert (of_query @ group == pairs.collect).all()


def test_a_causal_layer_takes_about_half_of_the_lookups() -> None:
    """n = 8, full attention, d = 4: 36 pairs instead of 64, so P (2 d + 1) + n d is 356."""
    shape = NetworkShape(
        n_layers=1, last_query="all", n_heads=1, last_key_dim=4, value_dim=4, causal=True
    )
    network = random_network(np.random.default_rng(0), shape)
    assert count_lookups(network, 8)["layer0.attend.head0"].total() == 36 * (2 * 4 + 1) + 8 * 4


@pytest.mark.parametrize("attention", ATTENTION)
def test_lookups_of_one_head_by_hand(attention: str) -> None:
    """n = 8 queries and keys, d = 4 channels; small products of secrets take one lookup."""
    shape = NetworkShape(
        attention, n_layers=1, last_query="all", n_heads=1, last_key_dim=4, value_dim=4
    )
    network = random_network(np.random.default_rng(0), shape)
    wanted = {
        "inhibitor": 64 * (2 * 4 + 1) + 8 * 4,
        "inhibitor_signed": 64 * (3 * 4 + 1) + 8 * 4,
        "dot_product": 64 * (2 * 4 + 1) + 8 * (1 + 3 * 4),
    }
    assert count_lookups(network, 8)["layer0.attend.head0"].total() == wanted[attention]
