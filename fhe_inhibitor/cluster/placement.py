"""What ran where, and which bytes had to move for it.

Dask sends a task that has become ready to the worker where it would start first: the one whose own
tasks take least, by what tasks of that function took so far, plus the time to fetch those inputs
that it lacks. So a task goes where its inputs are unless that worker is busy; an idle worker takes
tasks from a busy one. A ciphertext moves from worker to worker, at most once to each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from fhe_inhibitor.cluster.orders import Receipt
from fhe_inhibitor.runtime.manifest import Task
from fhe_inhibitor.system.pages import counted


@dataclass
class Placement:
    """Tasks by worker, and bytes that workers had to get.

    packed: what compression would leave of an output's bytes, as a fraction. compressed: whether
    Dask compresses what it sends.
    """

    compressed: bool = False
    packed: float = 1.0
    _made: dict[str, tuple[str, int]] = field(default_factory=dict)
    _ran: list[tuple[Task, Receipt]] = field(default_factory=list)

    def give(self, name: str, n_bytes: int) -> None:
        """Count a ciphertext that no worker made."""
        self._made.setdefault(name, ("", n_bytes))

    def add(self, task: Task, receipt: Receipt) -> None:
        """Count a task that is done."""
        self._ran.append((task, receipt))
        self.packed = receipt.packed
        for name, n_bytes in zip(task.outputs, receipt.sizes, strict=True):
            self._made[name] = (receipt.worker, n_bytes)

    @property
    def tasks(self) -> Counter[str]:
        """Number of tasks by worker."""
        return Counter(receipt.worker for _, receipt in self._ran)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of calls by worker."""
        found: dict[str, float] = {}
        for _, receipt in self._ran:
            found[receipt.worker] = found.get(receipt.worker, 0.0) + receipt.seconds
        return found

    @property
    def moved_bytes(self) -> int:
        """Bytes that workers got from other workers."""
        return sum(size for maker, size in self._fetched() if maker)

    @property
    def given_bytes(self) -> int:
        """Bytes of the request, or of what an earlier run kept, that workers got."""
        return sum(size for maker, size in self._fetched() if not maker)

    def _fetched(self) -> list[tuple[str, int]]:
        """Return maker and size of ciphertexts, for each worker that read one and made it not."""
        read = {(name, r.worker) for task, r in self._ran for name in task.inputs}
        return [self._made[name] for name, worker in read if self._made[name][0] != worker]

    def describe(self) -> str:
        """Say it in one line.

        >>> placement = Placement()
        >>> placement.give("x", 500)
        >>> placement.add(Task("a", "a", ("x",), ("y",), {}), Receipt("w1", 1.0, (9000,), 1, 1.0))
        >>> placement.add(Task("b", "b", ("y",), ("z",), {}), Receipt("w2", 1.0, (9000,), 1, 1.0))
        >>> placement.describe().partition(";")[0]
        '2 tasks on 2 workers (1 + 1): 0.0 MB moved between them, not compressed'
        """
        tasks = sorted(self.tasks.values(), reverse=True)
        how = "compressed" if self.compressed else "not compressed"
        return (
            f"{sum(tasks)} tasks on {counted(len(tasks), 'worker')} ({_joined(tasks)}): "
            f"{self.moved_bytes / 1e6:.1f} MB moved between them, {how}; compression would leave "
            f"{self.packed:.0%} of it. Each task went where it could start first, by the tasks "
            "that waited there and the inputs that lay there"
        )


def _joined(counts: Sequence[int], most: int = 8) -> str:
    named = " + ".join(map(str, counts[:most]))
    return f"{named} + ..." if len(counts) > most else named
