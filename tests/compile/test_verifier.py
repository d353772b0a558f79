"""The verifier passes what is consistent and names the stage of what is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.lookups import Table
from circuits.network import Network
from circuits.plan import network_stages, network_wires
from compile.verifier import VerificationError, verify
from tests.circuits.test_stages import shapes
from tests.networks import (
    NetworkShape,
    evaluate_stages,
    fitting_length,
    random_inputs,
    random_network,
)


@settings(deadline=None, max_examples=40)
@given(shapes(), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_what_is_proved_holds(shape: NetworkShape, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = random_network(rng, shape)
    n = fitting_length(network, n)
    proved = verify(network, n)
    x, padding = random_inputs(rng, network, n)
    values = evaluate_stages(network_stages(network, n), {"x": x, "padding": padding})
    wires = network_wires(network, n)
    for stage in proved:
        assert 0 < stage.widest <= 5
        for name, (low, high) in stage.outputs.items():
            assert low <= values[name].min() and values[name].max() <= high
            assert name == "logits" or values[name].shape == wires[name].shape
        for lookup in stage.lookups:
            assert lookup.domain[0] <= lookup.accumulator[0]
            assert lookup.accumulator[1] <= lookup.domain[1]


def test_a_table_that_ends_early_is_refused() -> None:
    network = random_network(np.random.default_rng(0))
    with pytest.raises(
        VerificationError, match=r"layer0\.project: lookup 2: .* the table covers .* lengthen"
    ):
        verify(with_key_table(network, lambda t: Table(t.values[:, :-1], t.first, t.lsbs)), 4)


def test_a_wide_lookup_is_refused() -> None:
    network = random_network(np.random.default_rng(0), NetworkShape(lookup_bits=6))
    with pytest.raises(
        VerificationError, match=r"layer0\.project: lookup 1 takes 6 bits, wanted 5: round more"
    ):
        verify(network, 4, max_bits=5)
    assert max(stage.widest for stage in verify(network, 4, max_bits=6)) == 6


def test_a_wire_that_is_too_narrow_is_refused() -> None:
    """q may reach 7 where the table of the distance expects 3."""
    network = random_network(np.random.default_rng(0))
    with pytest.raises(VerificationError, match=r"layer0\.attend\.head0: lookup 1: "):
        verify(with_key_table(network, lambda t: Table(t.values + 4, t.first, t.lsbs)), 4)


def test_shapes_that_do_not_fit_are_refused() -> None:
    network = random_network(np.random.default_rng(0))
    with pytest.raises(
        VerificationError,
        match=r"layer0\.project: shapes do not fit: .* channel of the stage before",
    ):
        verify(replace(network, dim=network.dim + 1), 4)


def with_key_table(network: Network, change: Any) -> Network:
    """Return the network with another table for the keys of its first head."""
    layer = network.layers[0]
    key = layer.heads[0].key
    head = replace(layer.heads[0], key=replace(key, table=change(key.table)))
    layer = replace(layer, heads=(head, *layer.heads[1:]))
    return replace(network, layers=(layer, *network.layers[1:]))
