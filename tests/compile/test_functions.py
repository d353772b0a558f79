"""A constant is added modulo what its ciphertexts hold, so it never makes them wider."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from circuits.linear import Linear
from circuits.network import Network
from compile.module import build_module
from compile.report import describe
from tests.execution import check_execution, prepare
from tests.networks import NetworkShape, random_network

SHAPE = NetworkShape(n_layers=1, last_query="first", hidden_dim=4)


def moved(linear: Linear, periods: float) -> Linear:
    """The same layer with its table, and the constant before it, so many table lengths further."""
    entries = int(periods * (1 << linear.table.bit_width))
    table = replace(linear.table, first=linear.table.first + entries)
    return replace(linear, offset=linear.offset + (entries << table.lsbs), table=table)


def with_large_constants(network: Network) -> Network:
    (layer,) = network.layers
    assert layer.hidden is not None
    changed = replace(
        layer,
        attention_output=moved(layer.attention_output, 1.5),
        hidden=moved(layer.hidden, -2.25),
    )
    return replace(network, layers=(changed,))


@pytest.fixture(scope="module")
def network() -> Network:
    return random_network(np.random.default_rng(0), SHAPE)


def test_large_constants_cost_nothing(network: Network) -> None:
    reports = [
        describe(build_module(each, (3,))) for each in (network, with_large_constants(network))
    ]
    assert reports[0].complexity == reports[1].complexity
    assert reports[0].parameters == reports[1].parameters
    assert reports[0].lengths[0].request_bytes == reports[1].lengths[0].request_bytes


@pytest.mark.fhe
@pytest.mark.slow
def test_large_constants_are_added_right(network: Network, tmp_path: Path) -> None:
    execution = prepare(with_large_constants(network), (3,), tmp_path / "circuits")
    check_execution(execution, 3, n_random=2, n_corners=3)
