"""Which tasks run again when values were lost, and how bytes between workers are counted."""

from __future__ import annotations

from fhe_inhibitor.cluster.executor import needed
from fhe_inhibitor.cluster.orders import Receipt
from fhe_inhibitor.cluster.placement import Placement
from fhe_inhibitor.runtime.manifest import Task

#  x -> a -> b --> d -> e
#        \-> c -/
TASKS = [
    Task("a", "a", ("x",), ("a1", "a2"), {}),
    Task("b", "b", ("a1",), ("b",), {}),
    Task("c", "c", ("a2",), ("c",), {}),
    Task("d", "d", ("b", "c"), ("d",), {}),
    Task("e", "e", ("d", "x"), ("e",), {}),
]


def test_what_is_left_brings_the_makers_of_what_was_lost() -> None:
    assert needed(TASKS, [1, 2, 3, 4, 5], {"x"}) == [1, 2, 3, 4, 5]
    assert needed(TASKS, [5], {"x", "d"}) == [5]
    assert needed(TASKS, [5], {"x"}) == [1, 2, 3, 4, 5]
    assert needed(TASKS, [4, 5], {"x", "b", "a2"}) == [3, 4, 5]
    assert needed(TASKS, [3, 4, 5], {"x", "b"}) == [1, 3, 4, 5]


def test_bytes_move_once_to_each_worker_that_reads_and_did_not_make_them() -> None:
    placement = Placement()
    placement.give("x", 10)
    ran = [("w1", (100, 200)), ("w1", (300,)), ("w2", (400,)), ("w2", (500,)), ("w1", (600,))]
    # Receipts come in any order.
    for task, (worker, sizes) in reversed(list(zip(TASKS, ran, strict=True))):
        placement.add(task, Receipt(worker, 2.0, sizes, 1, 1.0))
    # a2 and b go to w2, d to w1.
    assert placement.moved_bytes == 200 + 300 + 500
    assert placement.given_bytes == 10
    assert placement.tasks == {"w1": 3, "w2": 2}
    assert placement.seconds == {"w1": 6.0, "w2": 4.0}
    assert placement.describe().startswith("5 tasks on 2 workers (3 + 2): 0.0 MB moved")
