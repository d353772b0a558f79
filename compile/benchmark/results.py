"""The schema of the encrypted benchmark's results, and the file that a stopped run goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ValidationError

from compile.options import DEFAULT_P_ERROR
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.files import Record, write_atomically
from fhe_inhibitor.system.machine import Machine, check_machine, describe_machine
from fhe_inhibitor.system.pages import counted
from fhe_inhibitor.system.statistics import Growth, Summary

VERSION = 1  # of the file
CIRCUITS = 2  # of the circuits: 2 have narrower thresholds, squares and exponentials
NAME = "attention"
PHASES = ("compile", "keygen", "encrypt", "run", "decrypt")
CALLS = "calls"  # on workers, a phase beside `run`
PACKAGES = ("concrete-python", "numpy", "fhe-inhibitor")

Mode = Literal["execute", "simulate"]


class AttentionOptions(Record):
    """What was asked for.

    bits: of the operands q, k, v. seeds: of the inputs; repetitions take them in turn. point_s: a
    circuit repeats, after the second time, until it ran this long at one length. on_cluster:
    whether workers of a cluster run the heads. split: into how many blocks of queries a head is cut
    for them, more than its queries being one each.
    """

    lengths: tuple[int, ...]
    head_dim: int
    bits: int
    circuits: tuple[str, ...]
    seeds: tuple[int, ...]
    repetitions: int
    point_s: float
    mode: Mode
    p_error: float = DEFAULT_P_ERROR
    on_cluster: bool = False
    split: int = 1


class Workers(Record):
    """Workers of a cluster that are alike.

    processor, cores, memory_gb: of each machine. machines, workers: how many. tasks_at_once: of
    each worker. threads: of each task.
    """

    processor: str
    cores: int
    memory_gb: int
    machines: int
    workers: int
    tasks_at_once: int
    threads: int

    def describe(self) -> str:
        """Return it in words.

        >>> Workers(
        ...     processor="EPYC", cores=64, memory_gb=256, machines=1, workers=2, tasks_at_once=1,
        ...     threads=32,
        ... ).describe()
        '2 workers on 1 machine (EPYC, 64 cores, 256 GB), 1 task at once each, of 32 threads'
        """
        return (
            f"{counted(self.workers, 'worker')} on {counted(self.machines, 'machine')} "
            f"({self.processor}, {counted(self.cores, 'core')}, {self.memory_gb} GB), "
            f"{counted(self.tasks_at_once, 'task')} at once each, of "
            f"{counted(self.threads, 'thread')}"
        )


class Quality(Record):
    """How near a circuit's output comes to the float head's on the same inputs.

    normalised_error: root mean square of the difference over the standard deviation of the
    float head's output. values: how many outputs were compared.
    """

    correlation: float
    normalised_error: float
    values: int


class AttentionPoint(Record):
    """One circuit at one length.

    status: "left_out" by the time budget or for want of memory, "not_compiled" where Concrete
    finds no circuit, "failed" where its process ended; reason says why. complete: whether all
    repetitions are there. lookups: by bit width, as Concrete counted them; formula: the same from
    shapes. complexity: the optimizer's, of the head alone. seconds, summaries: by phase; only
    compile and run in simulation; on a cluster also "calls", those of all tasks added up. lookup_s:
    of one lookup by bit width, with the same keys; on a cluster in one task of a worker.
    predicted_s: lookups by width times that. fleet: on a cluster, which of the results' fleets was
    there at each run. equal: share of values that came back as with exact
    rounding. inside: whether all were within what rounding noise allows. h, expected: what came
    back, dequantized, and the float head's. quality: of these. model_quality: of the integer
    model with drawn noise, over many more inputs.
    """

    circuit: str
    n: int
    status: Literal["measured", "left_out", "not_compiled", "failed"]
    reason: str = ""
    complete: bool = True
    lookups: dict[int, int] = {}
    formula: dict[int, int] = {}
    complexity: float | None = None
    bootstrap_keys_bytes: int | None = None
    keyswitch_keys_bytes: int | None = None
    evaluation_keys_bytes: int | None = None
    request_bytes: int | None = None
    response_bytes: int | None = None
    peak_memory_bytes: int | None = None
    seconds: dict[str, list[float]] = {}
    summaries: dict[str, Summary] = {}
    lookup_s: dict[int, float] = {}
    predicted_s: float | None = None
    equal: list[float] = []
    inside: bool | None = None
    h: list[float] = []
    expected: list[float] = []
    quality: Quality | None = None
    model_quality: Quality | None = None
    fleet: list[int] = []

    @property
    def n_lookups(self) -> int:
        """Lookups of all widths."""
        return sum(self.lookups.values())

    @property
    def run_s(self) -> float | None:
        """Median run time, None if nothing ran."""
        return self.summaries["run"].median if "run" in self.summaries else None


class AttentionRatio(Record):
    """Run time of one circuit over another's at one length, and the same of complexities."""

    circuit: str
    other: str
    n: int
    ratio: Summary
    complexity_ratio: float


class AttentionResults(Record):
    """Everything that one run of the benchmark found.

    circuits: version of the circuits; files that don't say are of the first. machine: that keys
    were made on and, unless a cluster did, that ran the heads. fleets: on a cluster, all workers
    that fitted at some run. growth: of run time and lookups.
    """

    version: int = VERSION
    circuits: int = 1
    machine: Machine
    parameters: AttentionOptions
    points: tuple[AttentionPoint, ...] = ()
    ratios: tuple[AttentionRatio, ...] = ()
    growth: dict[str, Growth] = {}
    lookup_growth: dict[str, Growth] = {}
    fleets: tuple[tuple[Workers, ...], ...] = ()

    def find(self, circuit: str, n: int) -> AttentionPoint | None:
        """Return the point of a circuit at a length, None if there is none yet."""
        return next((p for p in self.points if (p.circuit, p.n) == (circuit, n)), None)

    def measured(self, circuit: str) -> list[AttentionPoint]:
        """Return the points of a circuit that have a run time, by length."""
        found = [p for p in self.points if p.circuit == circuit and p.run_s is not None]
        return sorted(found, key=lambda p: p.n)

    def replacing(self, point: AttentionPoint) -> AttentionResults:
        """Return the results with this point in the place of the one before."""
        others = [p for p in self.points if (p.circuit, p.n) != (point.circuit, point.n)]
        return self.model_copy(update={"points": (*others, point)})

    def with_fleet(self, fleet: tuple[Workers, ...]) -> AttentionResults:
        """Return the results with these workers among the fleets."""
        if fleet in self.fleets:
            return self
        return self.model_copy(update={"fleets": (*self.fleets, fleet)})


def measure_quality(h: np.ndarray, expected: np.ndarray) -> Quality:
    """Return correlation and normalised error; no correlation where nothing varies.

    >>> measure_quality(np.array([0.0, 1.0]), np.array([0.0, 2.0])).normalised_error
    0.7071067811865476
    """
    h, expected = np.ravel(h), np.ravel(expected)
    varies = h.std() > 0 and expected.std() > 0
    error = float(np.sqrt(np.mean((h - expected) ** 2)))
    return Quality(
        correlation=float(np.corrcoef(h, expected)[0, 1]) if varies else 0.0,
        normalised_error=error / float(expected.std()) if expected.std() > 0 else 0.0,
        values=h.size,
    )


def start_or_resume(out: Path, parameters: AttentionOptions) -> AttentionResults:
    """Return the results that a folder holds, to go on with; new ones if it holds none.

    Raises InputError for results of another version, of other circuits, commit, parameters or
    machine.
    """
    machine = describe_machine(PACKAGES, in_children=True)
    path = out / f"{NAME}.json"
    if not path.exists():
        return AttentionResults(machine=machine, parameters=parameters, circuits=CIRCUITS)
    found = read_results(path)
    if found.circuits != CIRCUITS:
        raise _other(path, f"circuits of version {found.circuits}, these are {CIRCUITS}")
    if found.machine.commit != machine.commit:
        raise _other(path, f"commit {found.machine.commit}, this is {machine.commit}")
    if found.parameters != parameters:
        names = [
            f"{name} {getattr(found.parameters, name)}"
            for name in AttentionOptions.model_fields
            if getattr(found.parameters, name) != getattr(parameters, name)
        ]
        raise _other(path, ", ".join(names))
    check_machine(found.machine, machine, path)
    return found


def read_results(path: Path) -> AttentionResults:
    """Return the results in a file. Raises InputError for anything else, or another version."""
    try:
        found = AttentionResults.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}") from None
    except (ValidationError, UnicodeDecodeError):
        raise _other(path, "another version or a damaged file") from None
    if found.version != VERSION:
        raise _other(path, f"version {found.version}, this is {VERSION}")
    return found


def write_results(results: AttentionResults, out: Path) -> None:
    """Write the JSON file; it is the old one or the new one, never half of it."""
    write_atomically(out / f"{NAME}.json", results.model_dump_json(indent=1) + "\n")


def _other(path: Path, what: str) -> InputError:
    return InputError(f"{path} holds other results ({what}): name another --out or remove it")
