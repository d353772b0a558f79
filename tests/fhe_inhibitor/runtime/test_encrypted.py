"""Encrypted runs on tiny shapes: every attention, query and window; exact and approximate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compile.module import CompileOptions
from tests.execution import Execution, check_execution, prepare
from tests.fhe_inhibitor.runtime.conftest import BUCKETS, SHAPES
from tests.networks import NetworkShape, random_network

# One lookup more for each bit rounded away: shapes as small as they come.
EXACT = {"inhibitor": "all", "inhibitor_signed": "constant", "dot_product": "constant"}


@pytest.mark.fhe
@pytest.mark.parametrize("n", BUCKETS)
@pytest.mark.parametrize("attention", SHAPES)
def test_every_stage_stays_in_its_rounding_bounds(
    executions: Callable[[str], Execution], attention: str, n: int
) -> None:
    check_execution(executions(attention), n)


@pytest.mark.fhe
@pytest.mark.parametrize("attention", EXACT)
def test_with_exact_rounding_all_are_equal(attention: str, tmp_path: Path) -> None:
    shape = NetworkShape(
        attention, n_layers=1, last_query=EXACT[attention], n_heads=1, dim=2, last_key_dim=1,
        value_dim=1, lookup_bits=4, weight_limit=1,
    )  # fmt: skip
    network = random_network(np.random.default_rng(3), shape)
    execution = prepare(network, (2,), tmp_path / "new", CompileOptions(exact_rounding=True))
    check_execution(execution, 2)
