"""The loop over tasks keeps no value that nothing reads any more."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence

from fhe_inhibitor.runtime.execution import run_tasks
from fhe_inhibitor.runtime.manifest import Task


class Ciphertext:
    """Stands for megabytes."""


def test_values_are_let_go_after_their_last_reader() -> None:
    tasks = [
        Task("a", "a", ("x",), ("a",), {}),
        Task("b", "b", ("a", "x"), ("b", "unread"), {}),
        Task("c", "c", ("b",), ("logits",), {}),
    ]
    alive: dict[str, weakref.ref[Ciphertext]] = {}

    def call(function: str, given: Sequence[Ciphertext]) -> list[Ciphertext]:
        (task,) = (task for task in tasks if task.function == function)
        outputs = [Ciphertext() for _ in task.outputs]
        alive.update({n: weakref.ref(v) for n, v in zip(task.outputs, outputs, strict=True)})
        return outputs

    running = run_tasks(tasks, {"x": Ciphertext()}, call)
    for task, wanted in zip(tasks, [{"a"}, {"b"}, {"logits"}], strict=True):
        done = next(running)
        assert done.task is task
        kept = set(done.outputs)
        del done
        gc.collect()
        found = {name for name, value in alive.items() if value() is not None}
        # What the task gave is held by the loop itself until it goes on.
        assert found - kept == wanted - kept
        assert wanted <= found
