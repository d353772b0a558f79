"""One compiled network with keys, for all tests of the runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.execution import Execution, prepare
from tests.networks import NetworkShape, random_network

# Lookups of 4 bits instead of 5 halve keys and times; sessions and the shipped model run 5.
SMALL = NetworkShape(
    dim=4, key_dim=1, value_dim=2, last_key_dim=2, keys_per_sum=2, lookup_bits=4
)  # fmt: skip
SHAPES = {
    "inhibitor": replace(SMALL, window=1, max_offset=1),
    "inhibitor_signed": replace(
        SMALL,
        attention="inhibitor_signed",
        n_heads=1,
        window=0,
        last_query="first",
        hidden_dim=4,
    ),
    "dot_product": replace(SMALL, attention="dot_product", n_heads=1, last_query="first"),
}
BUCKETS = (3, 4)


@pytest.fixture(scope="session")
def executions(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Execution]:
    """Return the compiled network of an attention, made when it is first asked for."""
    made: dict[str, Execution] = {}

    def execution(attention: str) -> Execution:
        if attention not in made:
            network = random_network(np.random.default_rng(5), SHAPES[attention])
            folder = tmp_path_factory.mktemp(attention) / "circuits"
            lengths = BUCKETS if attention == "inhibitor" else BUCKETS[-1:]
            made[attention] = prepare(network, lengths, folder)
        return made[attention]

    return execution


@pytest.fixture
def inhibitor(executions: Callable[[str], Execution]) -> Execution:
    return executions("inhibitor")
