"""One sentence on machines that aren't here: the cost model's tasks, scheduled for each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from math import inf

from circuits.network import Network
from compile.cost.blocks import choose_blocks
from compile.cost.speed import USUAL_CORE, Speed
from compile.cost.tasks import ProgramEstimate, estimate_tasks
from compile.scaling.graph import Machines, Schedule, TaskGraph, TimedTask, simulate
from compile.scaling.results import (
    Goal,
    ScalingResults,
    SimulatedPoint,
    SimulatedResults,
)
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.machine import commit
from fhe_inhibitor.system.progress import Observer

THREADS = (1, 8, 32)  # of a worker, beside all cores of a machine
NEARLY = 1.25  # a bound this near below the seconds is what limits them


@dataclass(frozen=True)
class Fleet:
    """The machines to simulate: each number, of each size, with each network."""

    machines: Sequence[int] = (1, 4, 16, 64)
    cores: Sequence[int] = (1, 16, 64, 192)
    gbit_per_s: Sequence[float] = (1.0, 10.0, 100.0)

    def combinations(self, goal: Goal) -> list[tuple[int, int, float]]:
        """Return all, those of the goal included."""
        if not (self.machines and self.cores and self.gbit_per_s) or any(
            size <= 0 for size in (*self.machines, *self.cores, *self.gbit_per_s)
        ):
            raise InputError("machines, cores and networks: wanted one of each or more, positive")
        wanted = list(product(self.machines, self.cores, self.gbit_per_s))
        return sorted({*wanted, (goal.machines, goal.cores, goal.gbit_per_s)})


def simulate_fleet(
    name: str,
    network: Network,
    n: int,
    p_error: float,
    split: int,
    fleet: Fleet,
    observer: Observer,
    measured: ScalingResults | None = None,
    model_hash: str | None = None,
) -> SimulatedResults:
    """Return the seconds of one sentence of n tokens, cut for `split` workers, on each fleet.

    measured: whose seconds of tasks on one core to take, of the same model, length and split; the
    cost model's if None. model_hash: of the model that this is the network of, None for one that
    isn't trained. Raises InputError for results of something else, for a fleet of nothing, and as
    `choose_blocks` does.
    """
    goal = Goal()
    wanted = fleet.combinations(goal)
    observer.begin("choose parameters")
    (blocks,) = choose_blocks(network, [n], p_error, split).values()
    program = estimate_tasks(network, n, p_error, blocks)
    speed, task_s = USUAL_CORE, dict[str, float]()
    seconds_from = f"the cost model, for {speed.measured}; not measured"
    if measured is not None:
        task_s = _measured_seconds(measured, name, model_hash, n, split)
        seconds_from = f"tasks measured on one core of {measured.machine.processor}"
    graph = task_graph(program, speed, task_s)
    without: dict[Machines, float] = {}
    points = []
    observer.plan(len(wanted), "fleets")
    for machines, cores, rate in wanted:
        observer.begin(f"simulate {machines} machines of {cores} cores")
        points.append(_point(graph, machines, cores, rate, without))
        observer.finish(1)
    return SimulatedResults(
        model=name,
        tokens=n,
        split=split,
        seconds_from=seconds_from,
        lookups=sum(loop.count for task in program.tasks for loop in task.loops),
        tasks=len(program.tasks),
        one_core_s=graph.one_core_s(),
        value_bytes=sum(program.value_bytes.values()),
        points=tuple(points),
        goal=goal,
        commit=commit(),
        date=datetime.now(UTC).date().isoformat(),
    )


def task_graph(
    program: ProgramEstimate, speed: Speed, task_s: Mapping[str, float] | None = None
) -> TaskGraph:
    """Return the graph of a program's tasks.

    speed: of one core. task_s: measured on one core, by stage; a task that isn't there takes what
    the others' measured seconds are to their predicted ones, on average.
    """
    predicted = {task.stage: task.units * speed.unit_s for task in program.tasks}
    known = {stage: s for stage, s in (task_s or {}).items() if predicted.get(stage)}
    usual = sum(known.values()) / sum(predicted[stage] for stage in known) if known else 1.0
    tasks = []
    for task in program.tasks:
        factor = known[task.stage] / predicted[task.stage] if task.stage in known else usual
        loops = tuple((loop.count, loop.units * speed.unit_s * factor) for loop in task.loops)
        tasks.append(TimedTask(task.stage, task.inputs, task.outputs, loops))
    return TaskGraph(tuple(tasks), program.value_bytes)


def _point(
    graph: TaskGraph, count: int, cores: int, rate: float, without: dict[Machines, float]
) -> SimulatedPoint:
    """Return the fastest way to share out the cores among workers."""
    tried: list[tuple[Schedule, Machines]] = []
    for threads in sorted({cores, *(t for t in THREADS if t < cores and cores % t == 0)}):
        machines = Machines(count, cores, rate, cores // threads)
        tried.append((simulate(graph, machines), machines))
    schedule, machines = min(tried, key=lambda one: one[0].seconds)
    free = Machines(count, cores, inf, machines.workers)
    if free not in without:
        without[free] = simulate(graph, free).seconds
    even_s = graph.one_core_s() / (count * cores)
    chain_s = graph.critical_path_s(machines.threads)
    return SimulatedPoint(
        machines=count,
        cores=cores,
        gbit_per_s=rate,
        workers=machines.workers,
        seconds=schedule.seconds,
        moved_bytes=schedule.moved_bytes,
        even_s=even_s,
        chain_s=chain_s,
        no_network_s=without[free],
        limit=_limit(schedule.seconds, even_s, chain_s, without[free]),
    )


def _limit(seconds: float, even_s: float, chain_s: float, no_network_s: float) -> str:
    """Return what keeps a schedule from being shorter.

    >>> _limit(10.0, 9.0, 2.0, 9.5), _limit(10.0, 1.0, 9.0, 9.5), _limit(10.0, 1.0, 1.0, 4.0)
    ('lookups', 'chain of stages', 'network')
    """
    if seconds > NEARLY * no_network_s:
        return "network"
    if seconds <= NEARLY * even_s:
        return "lookups"
    if seconds <= NEARLY * chain_s:
        return "chain of stages"
    return "uneven tasks"


def _measured_seconds(
    measured: ScalingResults, name: str, model_hash: str | None, n: int, split: int
) -> dict[str, float]:
    options = measured.options
    if (options.model, options.tokens, options.split) != (name, n, split):
        raise InputError(
            f"measured was {options.model} with {options.tokens} tokens, split for "
            f"{options.split}; wanted {name}, {n} and {split}"
        )
    if options.model_hash != model_hash:
        raise InputError(
            f"measured was another {name} (hash {options.model_hash[:12]}, wanted "
            f"{(model_hash or 'none')[:12]}): measure this one, or drop --measured"
        )
    one = measured.find("threads", 1)
    if one is None or not one.task_s:
        raise InputError("nothing was measured on one thread: run `benchmark scaling` with 1")
    return one.task_s
