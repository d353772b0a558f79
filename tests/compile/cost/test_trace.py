"""A traced sum has the shape and the largest weights of the matrix that the sum really is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from circuits.counts import count_lookups
from circuits.lookups import SaturatingTable, Table, antiperiodic_abs
from circuits.stages import pool
from compile.cost.trace import Sum, TracedLookup, trace_lookup, trace_network
from tests.networks import NetworkShape, fitting_length, random_network

SHAPE = (3, 4)
WEIGHT = np.array([[1, -2], [0, 3], [2, 2], [-1, 0]])
ROWS = np.array([[1, 1, 0], [0, 1, -2]])
LINEAR: dict[str, Callable[[Any], Any]] = {
    "times a matrix": lambda x: x @ WEIGHT + np.array([5, 7]),
    "a matrix times": lambda x: ROWS @ x,
    "both": lambda x: ROWS @ (x @ WEIGHT),
    "difference of rows": lambda x: x[np.array([0, 1])] - x[np.array([1, 2])],
    "sum of channels": lambda x: np.sum(x, axis=-1) * 3,
    "negated, spread": lambda x: np.expand_dims(-x[:, 0], axis=-1),
    "pooled": lambda x: pool(np.concatenate((x, x[:1]), axis=0), 2) @ WEIGHT,
    "joined": lambda x: np.concatenate((x[:, :2], x[:, 2:] * 1), axis=-1) @ WEIGHT,
}


@pytest.mark.parametrize("name", LINEAR)
def test_terms_are_the_largest_squared_norm_of_a_row(name: str) -> None:
    """The oracle runs the same sum on the unit vectors: each output's row of the whole matrix."""
    function, size = LINEAR[name], int(np.prod(SHAPE))
    zero = function(np.zeros(SHAPE, np.int64))
    units = np.eye(size, dtype=np.int64).reshape(size, *SHAPE)
    columns = np.stack([(function(unit) - zero).ravel() for unit in units])
    traced = function(Sum(SHAPE, {"x": 1}))
    assert traced.shape == zero.shape
    assert max(traced.terms.values()) == np.square(columns).sum(axis=0).max()


def test_values_add_up_and_joined_ones_do_not() -> None:
    x, y = Sum(SHAPE, {"x": 4}), Sum(SHAPE, {"y": 9})
    assert (x - y).terms == {"x": 4, "y": 9}
    joined: Any = np.concatenate((x, y), axis=-1)
    assert list(joined.terms.values()) == [9]


def test_a_lookup_is_as_wide_as_its_table_and_its_sum_as_the_inputs_that_are_declared() -> None:
    lookups: list[TracedLookup] = []
    lookup = trace_lookup(lookups)
    lookup(Sum((5,), {"x": 1}), Table(np.arange(20), first=-3, lsbs=4))
    lookup(Sum((5,), {"x": 1}), antiperiodic_abs(3))
    lookup(Sum((2, 3), {"x": 1}), SaturatingTable(np.array([-2, -2, -1, 0, 1, 2, 2, 2]), -4, 2))
    seen = [(read.bit_width, read.count, read.sum_bits, read.bits) for read in lookups]
    assert seen == [(5, 5, 9, 5), (3, 5, 3, 3), (3, 6, 5, 3)]


@pytest.mark.parametrize(
    "shape",
    [
        NetworkShape(keys_per_sum=3),
        NetworkShape("inhibitor_signed", n_layers=3, last_query="all", hidden_dim=6),
        NetworkShape("dot_product", bits=3, lookup_bits=6, last_query="first", plain_logits=True),
        NetworkShape(n_layers=3, pooling=(2, 3), window=1),
        NetworkShape(n_layers=3, causal=True, window=2, last_query="first"),
        NetworkShape("dot_product", causal=True, window=0, last_query="first"),
    ],
)
@pytest.mark.parametrize("boundary", ["embedding", "projection"])
def test_counts_are_those_of_the_formula(shape: NetworkShape, boundary: str) -> None:
    network = replace(random_network(np.random.default_rng(0), shape), client_boundary=boundary)
    lengths = [fitting_length(network, n) for n in (4, 7)]
    for n, calls in trace_network(network, lengths).items():
        counted = {call.stage.name: Counter[int]() for call in calls}
        for call in calls:
            for read in call.function.lookups:
                if read.bit_width:
                    counted[call.stage.name][read.bit_width] += read.count
        assert counted == count_lookups(network, n)
