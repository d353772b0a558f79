"""Encrypted runs on tiny shapes: every attention, query and window; exact and approximate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuits.blocks import LayerBlocks
from circuits.network import run
from compile.module import CompileOptions
from compile.report import describe
from fhe_inhibitor.runtime.manifest import BLOCKS_FORMAT
from tests.execution import Execution, check_encrypted, check_execution, check_simulated, prepare
from tests.fhe_inhibitor.runtime.conftest import BUCKETS, SHAPES
from tests.networks import NetworkShape, random_inputs, random_network, worst_inputs

# One lookup more for each bit rounded away: shapes as small as they come.
EXACT = {"inhibitor": "all", "inhibitor_signed": "constant", "dot_product": "constant"}


def marked(attention: str, *more: int) -> Any:
    """Return parameters of a test; those of the second form of the inhibitor are slow."""
    marks = (pytest.mark.slow,) if attention == "inhibitor_signed" else ()
    return pytest.param(attention, *more, marks=marks)


@pytest.mark.fhe
@pytest.mark.parametrize(
    ("attention", "n"),
    [marked(x, n) for x in SHAPES for n in BUCKETS if x == "inhibitor" or n == 4],
)
def test_every_stage_stays_in_its_rounding_bounds(
    executions: Callable[[str], Execution], attention: str, n: int
) -> None:
    check_execution(executions(attention), n)


@pytest.mark.fhe
@pytest.mark.parametrize("attention", [marked(x) for x in EXACT])
def test_with_exact_rounding_all_are_equal(attention: str, tmp_path: Path) -> None:
    shape = NetworkShape(
        attention, n_layers=1, last_query=EXACT[attention], n_heads=1, dim=2, last_key_dim=1,
        value_dim=1, lookup_bits=4, weight_limit=1,
    )  # fmt: skip
    network = random_network(np.random.default_rng(3), shape)
    execution = prepare(network, (2,), tmp_path / "new", CompileOptions(exact_rounding=True))
    check_execution(execution, 2)


@pytest.mark.fhe
def test_layers_that_pool_are_the_integer_stages(tmp_path: Path) -> None:
    """Four positions become two, or two one; what reads their sums is exact, without rounding."""
    shape = NetworkShape(
        n_layers=2, last_query="all", n_heads=1, dim=1, key_dim=1, last_key_dim=1, value_dim=1,
        weight_limit=1, max_tokens=4, pooling=(2,), window=1, max_offset=0,
    )  # fmt: skip
    network = random_network(np.random.default_rng(1035), shape)  # no weight is 0
    head = network.layers[1].heads[0]
    assert head.query is not None and head.query.table.lsbs == head.value.table.lsbs == 0
    execution = prepare(network, (2, 4), tmp_path / "new")
    texts = {4: np.array([[5], [-8], [7], [0]]), 2: np.array([[7], [0]])}
    for n, x in texts.items():
        padding = (np.arange(n) == n - 1).astype(np.int64)
        check_simulated(execution.compiled, x, padding)
        check_encrypted(execution, x, padding)


@pytest.mark.fhe
def test_a_causal_network_is_its_integer_stages(tmp_path: Path) -> None:
    """Without padding, and with one padded position before the text."""
    shape = NetworkShape(
        n_layers=2, last_query="first", n_heads=1, dim=2, key_dim=1, last_key_dim=1, value_dim=1,
        lookup_bits=4, weight_limit=1, max_tokens=2, window=0, causal=True,
    )  # fmt: skip
    execution = prepare(random_network(np.random.default_rng(5), shape), (2,), tmp_path / "new")
    check_execution(execution, 2, n_random=2, n_corners=0)


@pytest.mark.fhe
def test_blocks_of_rows_are_the_integer_network(tmp_path: Path) -> None:
    """Blocks that don't divide their rows, before and after pooling; nothing is rounded."""
    shape = NetworkShape(
        n_layers=2, last_query="all", n_heads=1, dim=1, key_dim=1, last_key_dim=1, value_dim=1,
        weight_limit=1, max_tokens=4, pooling=(2,), window=1, max_offset=0,
    )  # fmt: skip
    network = random_network(np.random.default_rng(1035), shape)
    blocks = {4: (LayerBlocks(3, 2, 1), LayerBlocks(1, 2, 2))}
    execution = prepare(network, (4,), tmp_path / "new", CompileOptions(blocks=blocks))
    x, padding = np.array([[5], [-8], [7], [0]]), np.array([0, 0, 0, 1])
    request = execution.client.encrypt(x, padding)
    response = execution.server.run(request, execution.evaluation_keys)
    assert (execution.client.decrypt(response) == run(network, x, padding)).all()
    manifest = execution.server.manifest
    assert (manifest.format_version, manifest.blocks) == (BLOCKS_FORMAT, blocks)
    program = manifest.program(4)
    thirds = [(0, 2), (2, 3), (3, 4)]
    assert {(e.value, e.rows) for e in program.encryptions} == {
        (value, rows) for value in ("x", "padding") for rows in thirds
    }
    # The last layer's second position is read by nobody.
    assert len(program.tasks) == (3 + 2 + 1) + (1 + 1 + 1) + 1
    assert len({task.function for task in program.tasks}) < len(program.tasks)
    (length,) = describe(execution.compiled).lengths
    assert all(stage.lookups == stage.formula for stage in length.stages)


def corner_inputs(execution: Execution, n: int) -> list[np.ndarray]:
    """All at one end, and rows that are the worst cases of single outputs."""
    low, high = execution.network.input_range
    shape = (n, execution.network.dim)
    return [np.full(shape, low), np.full(shape, high), worst_inputs(execution.network, n)]


@pytest.mark.fhe
@pytest.mark.parametrize("attention", [marked(x) for x in EXACT])
def test_sums_beyond_the_entries_of_a_table_read_right(attention: str, tmp_path: Path) -> None:
    """Projections, heads with antiperiodic |q - k| and |v - Z|, and what follows them."""
    shape = NetworkShape(
        attention, n_layers=1, last_query="first", n_heads=1, dim=4, last_key_dim=2, value_dim=3,
        hidden_dim=4, lookup_bits=4, bits=3 if attention != "dot_product" else 2, max_tokens=4,
        saturating=True,
    )  # fmt: skip
    network = random_network(np.random.default_rng(1), shape)
    execution = prepare(network, (4,), tmp_path / "new", CompileOptions(max_bits=5))
    rng = np.random.default_rng(2)
    x, padding = random_inputs(rng, network, 4, n_padded=1)
    check_simulated(execution.compiled, x, padding)
    check_encrypted(execution, x, padding)
    beyond = [check_encrypted(execution, x, 0 * padding) for x in corner_inputs(execution, 4)]
    assert beyond[-1] >= 4 and sum(beyond) >= 10, beyond


@pytest.mark.fhe
def test_with_exact_rounding_sums_beyond_the_entries_are_equal(tmp_path: Path) -> None:
    shape = NetworkShape(
        n_layers=1, last_query="all", n_heads=1, dim=2, last_key_dim=1, value_dim=1,
        lookup_bits=3, weight_limit=1, max_tokens=2, saturating=True,
    )  # fmt: skip
    network = random_network(np.random.default_rng(3), shape)
    options = CompileOptions(exact_rounding=True)
    execution = prepare(network, (2,), tmp_path / "new", options)
    padding = np.zeros(2, np.int64)
    assert sum(check_encrypted(execution, x, padding) for x in corner_inputs(execution, 2)) > 0
