"""Where the tasks of a program run: in this process, or on a cluster (`fhe_inhibitor.cluster`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fhe_inhibitor.runtime.execution import TaskDone
from fhe_inhibitor.runtime.manifest import Task
from fhe_inhibitor.runtime.server import EvaluationKeys, Server, Value
from fhe_inhibitor.system.progress import Observer


class Executor(Protocol):
    """Runs tasks with the circuits and the keys that it was made for."""

    def go_on(
        self,
        tasks: Sequence[Task],
        values: Mapping[str, Value],
        observer: Observer | None = None,
        left: Iterable[int] | None = None,
        keep: bool = False,
    ) -> Iterator[TaskDone[Value]]:
        """Run the tasks `left`, indices from 1; yield each when it is done, the last one last.

        values: the ciphertexts of a request, and the outputs of tasks that are not run again. keep:
        whether the outputs of every task are wanted, to go on from them another time; those of the
        last one are always there, others may be left out.
        """
        ...


@dataclass(frozen=True)
class InProcess:
    """Runs one task after the other in this process."""

    server: Server
    evaluation_keys: EvaluationKeys

    def go_on(
        self,
        tasks: Sequence[Task],
        values: Mapping[str, Value],
        observer: Observer | None = None,
        left: Iterable[int] | None = None,
        keep: bool = False,
    ) -> Iterator[TaskDone[Value]]:
        """Run the tasks in their order; all outputs are there, kept or not."""
        return self.server.go_on(tasks, values, self.evaluation_keys, observer, left)
