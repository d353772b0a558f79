"""What is simulated of a network: bounds, seconds that were measured, the goal, and the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from circuits.counts import count_lookups
from circuits.network import Network
from compile.cost.speed import USUAL_CORE
from compile.cost.tasks import ProgramEstimate, estimate_tasks
from compile.scaling.report import goal_line, simulated_markdown, write_page, write_simulated
from compile.scaling.results import ScalingOptions, ScalingPoint, ScalingResults, SimulatedResults
from compile.scaling.simulation import Fleet, simulate_fleet, task_graph
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.machine import Machine
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.system.statistics import summarize
from tests.networks import NetworkShape, random_network

N, P_ERROR = 4, 2.0**-20
FLEET = Fleet((1, 2), (1, 2), (10.0,))


@pytest.fixture(scope="module")
def network() -> Network:
    shape = NetworkShape(dim=4, lookup_bits=4, key_dim=1, value_dim=2, last_key_dim=2)
    return random_network(np.random.default_rng(0), shape)


@pytest.fixture(scope="module")
def program(network: Network) -> ProgramEstimate:
    return estimate_tasks(network, N, P_ERROR)


@pytest.fixture(scope="module")
def simulated(network: Network) -> SimulatedResults:
    return simulate_fleet("random", network, N, P_ERROR, 1, FLEET, Observer())


def measured(program: ProgramEstimate, factor: float) -> ScalingResults:
    """Results of one thread on which each task takes `factor` times as long as is predicted."""
    task_s = {task.stage: factor * task.units * USUAL_CORE.unit_s for task in program.tasks}
    seconds = sum(task_s.values())
    point = ScalingPoint(
        series="threads", cores=1, lookups=7, seconds=(seconds,), summary=summarize([seconds]),
        task_s=task_s,
    )  # fmt: skip
    options = ScalingOptions(
        model="random", model_hash="ab", tokens=N, split=1, layers=None, repetitions=1
    )
    machine = Machine(
        processor="a processor", cores=1, memory_gb=1, load_average=0.0, versions={}, commit="c",
        date="2026-11-30",
    )  # fmt: skip
    return ScalingResults(machine=machine, options=options, points=(point,))


def test_one_core_takes_all_lookups_and_nothing_beats_the_bounds(
    network: Network, simulated: SimulatedResults
) -> None:
    assert simulated.lookups == sum(of.total() for of in count_lookups(network, N).values())
    one = simulated.find(1, 1, 10.0)
    assert one is not None
    assert one.seconds == pytest.approx(simulated.one_core_s, rel=1e-3)
    assert one.limit == "lookups"
    for point in simulated.points:
        assert max(point.even_s, point.chain_s, point.no_network_s) <= point.seconds + 1e-9
        assert point.efficiency <= 1
    two = simulated.find(2, 2, 10.0)
    assert two is not None and one.seconds / 4 <= two.seconds < one.seconds


def test_the_goal_is_simulated_whatever_else_is(simulated: SimulatedResults) -> None:
    assert simulated.find(16, 64, 10.0) is not None
    assert "Gbit/s: met in this simulation" in goal_line(simulated)
    low = simulated.model_copy(update={"goal": simulated.goal.model_copy(update={"limit_s": 0.0})})
    assert "Gbit/s: missed in this simulation" in goal_line(low)


def test_measured_seconds_take_the_place_of_predicted_ones(
    network: Network, program: ProgramEstimate
) -> None:
    graph = task_graph(program, USUAL_CORE)
    slow = task_graph(program, USUAL_CORE, measured(program, 3.0).points[0].task_s)
    assert slow.one_core_s() == pytest.approx(3 * graph.one_core_s())
    first = program.tasks[0].stage
    partly = task_graph(program, USUAL_CORE, {first: 3 * graph.tasks[0].seconds(1)})
    assert partly.one_core_s() == pytest.approx(3 * graph.one_core_s())  # as the one that is known
    results = measured(program, 3.0)
    other = results.model_copy(update={"options": results.options.model_copy(update={"split": 4})})
    with pytest.raises(InputError, match="split for 4; wanted random, 4 and 1"):
        simulate_fleet("random", network, N, P_ERROR, 1, FLEET, Observer(), other, "ab")


@pytest.mark.parametrize("model_hash", ["cd", None])
def test_seconds_of_another_model_of_the_same_name_are_refused(
    network: Network, program: ProgramEstimate, model_hash: str | None
) -> None:
    results, how = measured(program, 3.0), ("random", network, N, P_ERROR, 1, FLEET, Observer())
    words = rf"another random \(hash ab, wanted {model_hash or 'none'}\)"
    with pytest.raises(InputError, match=words):
        simulate_fleet(*how, results, model_hash)
    found = simulate_fleet(*how, results, "ab")
    assert found.seconds_from == "tasks measured on one core of a processor"


def test_a_fleet_of_nothing_is_refused(network: Network) -> None:
    with pytest.raises(InputError, match="one of each or more, positive"):
        simulate_fleet("random", network, N, P_ERROR, 1, Fleet(()), Observer())


def test_the_page_says_what_is_simulated_and_what_was_not_measured(
    simulated: SimulatedResults, program: ProgramEstimate, tmp_path: Path
) -> None:
    paths = write_simulated(simulated, tmp_path)
    assert all(path.stat().st_size for path in paths)
    page = write_page(tmp_path, tmp_path).read_text()
    assert simulated_markdown(simulated) in page and "**Simulated, not measured.**" in page
    assert "Not taken yet" in page
    header = (tmp_path / "scaling_simulated.csv").read_text().splitlines()[0]
    assert "simulated_seconds" in header
    (tmp_path / "scaling_measured.json").write_text(measured(program, 1.0).model_dump_json())
    page = write_page(tmp_path, tmp_path).read_text()
    assert "| threads | 1 | " in page and "100%" in page and "Not taken yet" not in page
    with pytest.raises(InputError, match="neither scaling_measured.json nor"):
        write_page(tmp_path / "nowhere", tmp_path)
