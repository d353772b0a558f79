"""The simulator on graphs whose schedule is known by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compile.scaling.graph import Machines, TaskGraph, TimedTask, simulate

GBIT = 1e9 / 8  # bytes in a second


def independent(count: int, seconds: float = 1.0, n_bytes: int = 0) -> TaskGraph:
    tasks = tuple(TimedTask(f"t{i}", ("x",), (f"y{i}",), ((1, seconds),)) for i in range(count))
    return TaskGraph(tasks, {"x": n_bytes, **{f"y{i}": n_bytes for i in range(count)}})


def chain(count: int, n_bytes: int = 0) -> TaskGraph:
    tasks = tuple(TimedTask(f"t{i}", (f"v{i}",), (f"v{i + 1}",), ((1, 1.0),)) for i in range(count))
    return TaskGraph(tasks, {f"v{i}": n_bytes for i in range(count + 1)})


def test_independent_tasks_share_out_perfectly() -> None:
    assert simulate(independent(8), Machines(1, 1)).seconds == 8
    assert simulate(independent(8), Machines(4, 1)).seconds == 2
    assert simulate(independent(8), Machines(2, 4, workers=4)).seconds == 1
    assert simulate(independent(9), Machines(4, 1)).seconds == 3  # one task is left over


def test_a_chain_takes_its_length_and_stays_where_it_is() -> None:
    schedule = simulate(chain(5, n_bytes=10**9), Machines(8, 1, gbit_per_s=1))
    assert schedule.seconds == pytest.approx(5 + 8)  # the request's value moves once
    assert schedule.moved_bytes == 10**9
    assert len({placed.machine for placed in schedule.placed}) == 1
    assert chain(5).critical_path_s(1) == 5


def test_cores_share_the_lookups_of_a_loop_and_not_those_of_several() -> None:
    task = TimedTask("t", (), ("y",), ((6, 1.0), (1, 1.0)))
    graph = TaskGraph((task,), {"y": 0})
    seconds = [simulate(graph, Machines(1, cores)).seconds for cores in (1, 2, 4, 6, 64)]
    assert seconds == [7, 4, 3, 2, 2]


def test_what_moves_bounds_short_tasks() -> None:
    """Two tasks of a second: the second machine's value takes three seconds to come, so it is
    better to wait for the first."""
    graph = independent(2, n_bytes=round(3 * GBIT))
    slow = simulate(graph, Machines(2, 1, gbit_per_s=1))
    assert (slow.seconds, slow.moved_bytes) == (3 + 1 + 1, round(3 * GBIT))
    fast = simulate(graph, Machines(2, 1, gbit_per_s=100))
    assert fast.seconds == pytest.approx(2 * 0.03 + 1)  # the client sends to one after the other
    assert fast.moved_bytes == 2 * round(3 * GBIT)


def test_a_machine_receives_one_value_at_a_time() -> None:
    first = tuple(TimedTask(f"a{i}", (), (f"y{i}",), ((1, 1.0),)) for i in range(3))
    last = TimedTask("join", ("y0", "y1", "y2"), ("z",), ((1, 1.0),))
    graph = TaskGraph((*first, last), {**{f"y{i}": round(GBIT) for i in range(3)}, "z": 0})
    schedule = simulate(graph, Machines(3, 1, gbit_per_s=1))
    assert schedule.seconds == pytest.approx(1 + 2 + 1)  # two of three come, after each other
    assert schedule.moved_bytes == 2 * round(GBIT)


def test_the_longest_way_goes_first() -> None:
    """A long chain beside short tasks: begun last, it would end after six seconds."""
    tasks = [TimedTask(f"s{i}", (), (f"r{i}",), ((1, 1.0),)) for i in range(3)]
    tasks += [
        TimedTask("c0", (), ("u",), ((1, 1.0),)),
        TimedTask("c1", ("u",), ("w",), ((1, 2.0),)),
    ]
    graph = TaskGraph(tuple(tasks), dict.fromkeys(["r0", "r1", "r2", "u", "w"], 0))
    assert simulate(graph, Machines(2, 1)).seconds == 3


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_schedule_breaks_a_law(data: st.DataObject) -> None:
    """Inputs are made and moved before a task begins; workers run one task at a time; the whole
    takes no less than its critical path, nor than its work shared out evenly."""
    n = data.draw(st.integers(1, 12))
    tasks = []
    for index in range(n):
        read = data.draw(st.sets(st.integers(0, index - 1), max_size=3)) if index else set()
        inputs = tuple(f"v{i}" for i in sorted(read)) or ("x",)
        loops = ((data.draw(st.integers(1, 5)), data.draw(st.floats(0.1, 2.0))),)
        tasks.append(TimedTask(f"t{index}", inputs, (f"v{index}",), loops))
    sizes = {name: data.draw(st.integers(0, 10**9)) for name in ("x", *(f"v{i}" for i in range(n)))}
    graph = TaskGraph(tuple(tasks), sizes)
    machines = Machines(data.draw(st.integers(1, 4)), 4, 1.0, data.draw(st.sampled_from((1, 2, 4))))
    schedule = simulate(graph, machines)
    placed = {p.task: p for p in schedule.placed}
    made = {task.outputs[0]: placed[task.name] for task in tasks}
    for task in tasks:
        mine = placed[task.name]
        assert mine.end_s - mine.start_s == pytest.approx(task.seconds(machines.threads))
        for name in task.inputs:
            source = made.get(name)
            local = source is not None and source.machine == mine.machine
            moved_s = 0.0 if local else sizes[name] / GBIT
            ready = (source.end_s if source else 0.0) + moved_s
            assert mine.start_s >= ready - 1e-9
    for machine in range(machines.count):
        for p in schedule.placed:
            beside = [
                q
                for q in schedule.placed
                if q.machine == p.machine == machine and q.start_s <= p.start_s < q.end_s
            ]
            assert len(beside) <= machines.workers
    work = sum(task.seconds(machines.threads) for task in tasks)
    least = max(graph.critical_path_s(machines.threads), work / (machines.count * machines.workers))
    assert least - 1e-9 <= schedule.seconds
