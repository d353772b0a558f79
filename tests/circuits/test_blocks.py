"""Stages that are cut into blocks of rows give the same integers, and take the same lookups."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from circuits.blocks import LayerBlocks, cut, plain_name
from circuits.counts import count_lookups
from circuits.lookups import Table, exact_lookup
from circuits.network import Network, run
from circuits.plan import Stage, function_names, network_stages, network_wires
from tests.circuits.test_stages import shapes
from tests.networks import NetworkShape, fitting_length, random_inputs, random_network

CUTS = st.builds(LayerBlocks, *[st.integers(1, 8)] * 3)


def values_in_blocks(
    network: Network, n: int, blocks: tuple[LayerBlocks, ...], x: np.ndarray, padding: np.ndarray
) -> dict[str, np.ndarray]:
    """What a client encrypts, cut as the wires say."""
    given = {"x": x, "padding": padding}
    return {
        name: given[plain_name(name)][slice(*(wire.rows or (0, n)))]
        for name, wire in network_wires(network, n, blocks).items()
        if plain_name(name) in given
    }


@settings(deadline=None, max_examples=40)
@given(shapes(), st.integers(1, 9), st.integers(0, 3), st.tuples(CUTS, CUTS, CUTS), st.randoms())
def test_blocks_of_all_sizes_give_the_network(
    shape: NetworkShape, n: int, n_padded: int, cuts: tuple[LayerBlocks, ...], random
) -> None:
    rng = np.random.default_rng(random.randrange(2**32))
    network = random_network(rng, shape)
    n, blocks = fitting_length(network, n), cuts[: shape.n_layers]
    assume(n <= shape.max_tokens)
    x, padding = random_inputs(rng, network, n, min(n_padded, n - 1))
    known = values_in_blocks(network, n, blocks, x, padding)
    wires = network_wires(network, n, blocks)
    formula, total = count_lookups(network, n, blocks), Counter[int]()
    for stage in network_stages(network, n, blocks):
        counted = Counter[int]()

        def lookup(value: np.ndarray, table: Table, counted: Counter[int] = counted) -> np.ndarray:
            counted[table.bit_width] += value.size
            return exact_lookup(value, table)

        outputs = stage.evaluate([known[name] for name in stage.inputs], lookup)
        known.update(zip(stage.outputs, outputs, strict=True))
        assert counted == formula[stage.name]
        assert all(
            known[name].shape == wires[name].shape for name in stage.outputs if name in wires
        )
        total += counted
    assert (known["logits"][0] == run(network, x, padding)).all()
    if shape.last_query != "all":  # else rows of the last layer that nobody reads are left out
        assert total == sum(count_lookups(network, n).values(), Counter())


@settings(deadline=None, max_examples=15)
@given(shapes(), st.integers(1, 9), st.tuples(CUTS, CUTS, CUTS), st.randoms())
def test_stages_that_share_a_function_are_the_same_function(
    shape: NetworkShape, n: int, cuts: tuple[LayerBlocks, ...], random
) -> None:
    """Given the same values they give the same ones, whichever rows they are of."""
    rng = np.random.default_rng(random.randrange(2**32))
    network = random_network(rng, shape)
    n = fitting_length(network, n)
    assume(n <= shape.max_tokens)
    lengths, blocks = {n, max(n - network.stride, network.stride)}, cuts[: shape.n_layers]
    plans = {
        n: (network_stages(network, n, blocks), network_wires(network, n, blocks)) for n in lengths
    }
    groups: dict[str, list[tuple[Stage, list[tuple[int, ...]]]]] = {}
    for n, names in function_names(plans).items():
        stages, wires = plans[n]
        for name, stage in zip(names, stages, strict=True):
            shapes_read = [wires[value].shape for value in stage.inputs]
            groups.setdefault(name, []).append((stage, shapes_read))
            low_high = [(wires[value].low, wires[value].high + 1) for value in stage.inputs]
            first, first_shapes = groups[name][0]
            assert (stage.place, shapes_read) == (first.place, first_shapes)
            read = [
                rng.integers(*ends, size) for ends, size in zip(low_high, shapes_read, strict=True)
            ]
            for got, wanted in zip(
                stage.evaluate(read, exact_lookup), first.evaluate(read, exact_lookup), strict=True
            ):
                assert (got == wanted).all()


def test_blocks_of_equal_rows_share_functions_and_read_no_further_than_their_window() -> None:
    network = random_network(np.random.default_rng(0), NetworkShape(window=1, hidden_dim=3))
    blocks = (LayerBlocks(8, 8, 8), LayerBlocks(4, 1, 1))
    stages, wires = network_stages(network, 8, blocks), network_wires(network, 8, blocks)
    names = dict(
        zip([s.name for s in stages], function_names({8: (stages, wires)})[8], strict=True)
    )
    assert len({names[f"layer0.project.rows{i}"] for i in range(8)}) == 1
    assert len({names[f"layer0.feed_forward.rows{i}"] for i in range(8)}) == 1
    # A query inside has a neighbour on either side, those at the ends have one.
    assert len({names[f"layer0.attend.head0.rows{i}"] for i in range(8)}) == 3
    inside = next(s for s in stages if s.name == "layer0.attend.head0.rows3")
    assert inside.inputs == (
        "layer0.head0.q.rows3",
        *(f"layer0.head0.{c}.rows{i}" for c in "kv" for i in (2, 3, 4)),
        *(f"padding.rows{i}" for i in (2, 3, 4)),
    )


def test_what_is_not_cut_keeps_its_names() -> None:
    network = random_network(np.random.default_rng(0))
    whole = [(s.name, s.inputs, s.outputs, s.form) for s in network_stages(network, 5)]
    ones = network_stages(network, 5, (LayerBlocks(), LayerBlocks()))
    assert [(s.name, s.inputs, s.outputs, s.form) for s in ones] == whole
    assert not any(plain_name(name) != name for name in network_wires(network, 5))


def test_the_client_s_projections_are_cut_too() -> None:
    network = replace(random_network(np.random.default_rng(0)), client_boundary="projection")
    blocks = (LayerBlocks(3, 2, 1), LayerBlocks())
    names = [stage.name for stage in network_stages(network, 5, blocks)]
    assert names[0] == "layer0.attend.head0.rows0"
    assert set(count_lookups(network, 5, blocks)) == set(names)
    wires = network_wires(network, 5, blocks)
    assert wires["layer0.head1.k.rows1"].rows == (2, 4)


@given(st.integers(1, 40), st.integers(1, 50))
def test_rows_are_cut_as_evenly_as_can_be(n: int, count: int) -> None:
    rows = cut(n, count)
    assert [row for block in rows for row in block] == list(range(n))
    assert len(rows) == min(n, count)
    sizes = [len(block) for block in rows]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] - sizes[-1] <= 1


def test_blocks_of_another_number_of_layers_are_refused() -> None:
    network = random_network(np.random.default_rng(0))
    with pytest.raises(ValueError, match="blocks of 1 layers, the network has 2"):
        network_stages(network, 4, (LayerBlocks(2, 2, 2),))
