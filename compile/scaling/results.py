"""The schemas of what was measured and what was simulated, and the files that hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.files import Record, read_results, write_atomically
from fhe_inhibitor.system.machine import Machine, check_machine, describe_machine
from fhe_inhibitor.system.statistics import Summary

Series = Literal["threads", "workers"]
MEASURED, SIMULATED = "scaling_measured", "scaling_simulated"
PACKAGES = ("concrete-python", "numpy", "fhe-inhibitor")
MEASURED_BY, SIMULATED_BY = "benchmark scaling", "benchmark scaling --simulate"


class ScalingOptions(Record):
    """What was asked for.

    tokens: length of the sentence. split: for how many workers it was cut into tasks. layers: how
    many of the first layers run, None for the whole sentence.
    """

    model: str
    model_hash: str
    tokens: int
    split: int
    layers: int | None
    repetitions: int


class ScalingPoint(Record):
    """So many cores. series: "threads" of one process, or "workers" of a cluster.

    seconds: of all tasks, for each repetition. task_s: of each task by name, of the fastest
    repetition. difference: largest one of a decrypted logit from the integer model's, in steps;
    None where only some layers ran. simulated_s: of workers, from the seconds of each task on one
    thread; None where these were not measured.
    """

    series: Series
    cores: int
    lookups: int
    seconds: tuple[float, ...] = ()
    summary: Summary | None = None
    task_s: dict[str, float] = {}
    difference: int | None = None
    simulated_s: float | None = None


class ScalingResults(Record):
    """What was measured on one machine."""

    version: int = 1
    machine: Machine
    options: ScalingOptions
    points: tuple[ScalingPoint, ...] = ()

    def find(self, series: Series, cores: int) -> ScalingPoint | None:
        """Return a point, None if there is none yet."""
        return next((p for p in self.points if (p.series, p.cores) == (series, cores)), None)

    def replacing(self, point: ScalingPoint) -> ScalingResults:
        """Return the results with this point in the place of the one before."""
        others = [p for p in self.points if (p.series, p.cores) != (point.series, point.cores)]
        ordered = sorted([*others, point], key=lambda p: (p.series, p.cores))
        return self.model_copy(update={"points": tuple(ordered)})

    def efficiency(self, point: ScalingPoint) -> float | None:
        """Return T(1) / (cores T(cores)) within a series, None without both."""
        one = self.find(point.series, 1)
        if one is None or one.summary is None or point.summary is None:
            return None
        return one.summary.median / (point.cores * point.summary.median)


class SimulatedPoint(Record):
    """So many machines, with the number of workers on each that was fastest.

    limit: what keeps it from being faster, in words. even_s: all work shared out evenly over all
    cores. chain_s: the critical path, each task on as many cores as it has here. no_network_s: the
    same without a network.
    """

    machines: int
    cores: int
    gbit_per_s: float
    workers: int
    seconds: float
    moved_bytes: int
    even_s: float
    chain_s: float
    no_network_s: float
    limit: str

    @property
    def efficiency(self) -> float:
        """Share of the cores' time that goes into lookups, if nothing else slows them."""
        return self.even_s / self.seconds


class Goal(Record):
    """A full-depth sentence in at most so many seconds."""

    machines: int = 16
    cores: int = 64
    gbit_per_s: float = 10.0
    limit_s: float = 60.0


class SimulatedResults(Record):
    """What was simulated: nothing of it was measured but, where it says so, seconds of tasks.

    seconds_from: where the seconds of a task come from, in words. lookups, tasks: of the sentence.
    one_core_s: of all lookups. value_bytes: of the ciphertexts of all values, each once.
    """

    version: int = 1
    model: str
    tokens: int
    split: int
    seconds_from: str
    lookups: int
    tasks: int
    one_core_s: float
    value_bytes: int
    points: tuple[SimulatedPoint, ...]
    goal: Goal = Goal()
    commit: str
    date: str

    def find(self, machines: int, cores: int, gbit_per_s: float) -> SimulatedPoint | None:
        """Return a point, None if it was not simulated."""
        wanted = (machines, cores, gbit_per_s)
        return next((p for p in self.points if (p.machines, p.cores, p.gbit_per_s) == wanted), None)


def start_or_resume(out: Path, options: ScalingOptions) -> ScalingResults:
    """Return the results that a folder holds, to go on with; new ones if it holds none.

    Raises InputError for results of another commit, of other options or of another machine.
    """
    machine = describe_machine(PACKAGES, in_children=True)
    path = out / f"{MEASURED}.json"
    if not path.exists():
        return ScalingResults(machine=machine, options=options)
    found = read_results(path, ScalingResults, MEASURED_BY)
    differing = [
        name
        for name in ScalingOptions.model_fields
        if getattr(found.options, name) != getattr(options, name)
    ]
    if found.machine.commit != machine.commit:
        differing.append(f"commit {found.machine.commit}, this is {machine.commit}")
    if differing:
        raise InputError(
            f"{path} holds results with other {', '.join(differing)}: name another --out or "
            "remove it"
        )
    check_machine(found.machine, machine, path)
    return found


def write_results(results: ScalingResults | SimulatedResults, out: Path) -> None:
    """Write a JSON file; it is the old one or the new one, never half of it."""
    name = MEASURED if isinstance(results, ScalingResults) else SIMULATED
    write_atomically(out / f"{name}.json", results.model_dump_json(indent=1) + "\n")
