"""How stages are cut for a number of workers, and what their tasks are then predicted to cost."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from circuits.blocks import LayerBlocks
from circuits.counts import count_lookups
from circuits.network import Network
from compile.cost.blocks import choose_blocks, cut_for
from compile.cost.report import LengthEstimate, estimate
from compile.cost.speed import USUAL
from compile.cost.tasks import estimate_tasks
from fhe_inhibitor.errors import InputError
from tests.networks import NetworkShape, random_network

N, P_ERROR = 8, 2.0**-20


@pytest.fixture(scope="module")
def network() -> Network:
    shape = NetworkShape(dim=4, hidden_dim=4, last_query="first", pooling=(2,), lookup_bits=4)
    return random_network(np.random.default_rng(0), shape)


@pytest.fixture(scope="module")
def whole(network: Network) -> LengthEstimate:
    return estimate(network, [N], P_ERROR).lengths[0]


def test_a_stage_has_as_many_tasks_as_workers_if_it_has_the_rows(
    network: Network, whole: LengthEstimate
) -> None:
    # Two heads, and the last layer has 4 positions of which one is a query.
    assert cut_for(network, whole, 3, 0.001) == (LayerBlocks(3, 2, 3), LayerBlocks(3, 1, 1))
    assert cut_for(network, whole, 50, 0.001) == (LayerBlocks(8, 8, 8), LayerBlocks(4, 1, 1))


def test_no_task_is_shorter_than_asked(network: Network, whole: LengthEstimate) -> None:
    seconds = {stage.stage: stage.seconds for stage in whole.stages}
    layer, _ = cut_for(network, whole, 100, seconds["layer0.project"] / 3.5)
    assert layer.project == 3
    layer, _ = cut_for(network, whole, 100, seconds["layer0.attend"] / 2 / 4.5)
    assert layer.attend == 4
    assert cut_for(network, whole, 100, 60.0) == (LayerBlocks(), LayerBlocks())


def test_a_number_of_workers_chooses_blocks(network: Network, whole: LengthEstimate) -> None:
    slow = replace(USUAL, unit_s=1.0)
    assert choose_blocks(network, [N], P_ERROR, 3, slow) == {N: cut_for(network, whole, 3, 0.0001)}
    assert choose_blocks(network, [N], P_ERROR, 1) == {N: (LayerBlocks(), LayerBlocks())}
    with pytest.raises(InputError, match="0 workers"):
        choose_blocks(network, [N], P_ERROR, 0)


def test_tasks_cost_what_the_whole_does(network: Network, whole: LengthEstimate) -> None:
    """Whatever the blocks: the optimizer sees the same lookups behind the same norms."""
    blocks = (LayerBlocks(8, 3, 4), LayerBlocks(2, 1, 1))
    cut = estimate_tasks(network, N, P_ERROR, blocks)
    counted = {task.stage: sum(loop.count for loop in task.loops) for task in cut.tasks}
    assert counted == {stage: of.total() for stage, of in count_lookups(network, N, blocks).items()}
    assert sum(task.units for task in cut.tasks) == pytest.approx(whole.units, rel=0.01)
    for task in cut.tasks:
        assert task.units_on(1) == pytest.approx(task.units)
        longest = sum(loop.units for loop in task.loops)
        assert task.units_on(10**6) == pytest.approx(longest) and longest < task.units
    sent = sum(size for name, size in cut.value_bytes.items() if name.startswith(("x", "padding")))
    assert sent == whole.request_bytes
    assert cut.value_bytes["logits"] == whole.response_bytes
    k = Counter({name: cut.value_bytes[name] for name in cut.value_bytes if ".head0.k" in name})
    assert len(set(k.values())) == 2  # one row, and two of the pooled ones
    assert k["layer1.head0.k.rows0"] == 2 * 2 * k["layer0.head0.k.rows0"]  # and wider keys
