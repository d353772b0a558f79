"""Encrypted runs on tiny shapes: every attention, query and window; exact and approximate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compile.module import Settings
from tests.execution import Execution, check_execution, prepare
from tests.networks import NetworkShape, random_network

SMALL = {"dim": 4, "key_dim": 1, "value_dim": 2, "last_key_dim": 2}
APPROXIMATE = {
    "inhibitor": NetworkShape("inhibitor", window=1, max_offset=1, **SMALL),
    "inhibitor_signed": NetworkShape(
        "inhibitor_signed", n_heads=1, window=0, last_query="first", hidden_dim=4, **SMALL
    ),
    "dot_product": NetworkShape("dot_product", n_heads=1, last_query="first", **SMALL),
}
# One lookup more for each bit rounded away: shapes as small as they come.
EXACT = {
    "inhibitor": {"last_query": "all"},
    "inhibitor_signed": {"last_query": "constant"},
    "dot_product": {"last_query": "constant"},
}


@pytest.fixture(scope="module", params=APPROXIMATE)
def execution(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Execution:
    network = random_network(np.random.default_rng(5), APPROXIMATE[request.param])
    return prepare(network, (3, 4), tmp_path_factory.mktemp("circuits") / "new")


@pytest.mark.fhe
@pytest.mark.parametrize("n", [3, 4])
def test_every_stage_stays_in_its_rounding_bounds(execution: Execution, n: int) -> None:
    check_execution(execution, n)


@pytest.mark.fhe
@pytest.mark.parametrize("attention", EXACT)
def test_with_exact_rounding_all_are_equal(attention: str, tmp_path: Path) -> None:
    shape = NetworkShape(
        attention, n_layers=1, n_heads=1, dim=2, last_key_dim=1, value_dim=1,
        lookup_bits=4, weight_limit=1, **EXACT[attention],
    )  # fmt: skip
    network = random_network(np.random.default_rng(3), shape)
    execution = prepare(network, (2,), tmp_path / "new", Settings(exact_rounding=True))
    check_execution(execution, 2)
