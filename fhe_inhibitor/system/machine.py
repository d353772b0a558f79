"""What a figure is bound to: processor, memory, versions, commit, date; and what a process took."""

from __future__ import annotations

import os
import platform
import re
import resource
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.files import Record
from fhe_inhibitor.system.huge_pages import has_huge_pages

THREADS_VARIABLE, MAX_THREADS = "OMP_NUM_THREADS", 1024
CGROUPS, OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
CGROUP_LIMIT = "memory.max"


class Machine(Record):
    """What a figure is bound to: processor, versions, commit and date.

    versions: of Python and of the packages that matter. commit: with "-dirty" if files were
    changed since, "unknown" outside a checkout. huge_pages: whether the process that measured asks
    Linux for them, and Linux grants them.
    """

    processor: str
    cores: int
    memory_gb: int
    load_average: float
    versions: dict[str, str]
    commit: str
    date: str
    huge_pages: bool = False

    @property
    def hardware(self) -> str:
        """Processor, cores and memory in words."""
        pages = ", huge pages" if self.huge_pages else ""
        return f"{self.processor}, {self.cores} cores, {self.memory_gb} GB{pages}"

    def describe(self) -> str:
        """Return all but the load in words."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return f"{self.hardware}, {versions}, commit {self.commit}, {self.date}"


def describe_machine(packages: Sequence[str], in_children: bool = False) -> Machine:
    """Return the machine as it is now, with the versions of these packages.

    in_children: whether a `system.child.Child` of this process measures, not this process.
    """
    return Machine(
        processor=processor(),
        cores=psutil.cpu_count(logical=False) or os.cpu_count() or 1,
        memory_gb=round(psutil.virtual_memory().total / 1e9),
        load_average=round(psutil.getloadavg()[0], 2),
        versions={"python": platform.python_version()} | {name: version(name) for name in packages},
        commit=commit(),
        date=datetime.now(UTC).date().isoformat(),
        huge_pages=has_huge_pages(in_children),
    )


def check_machine(measured: Machine, here: Machine, path: Path) -> None:
    """Raise InputError where new times would stand under another machine than they are taken on."""
    if (measured.hardware, measured.versions) != (here.hardware, here.versions):
        raise InputError(
            f"the times in {path} are of another machine ({measured.describe()}; this one is "
            f"{here.describe()}): go on there, or name another --out"
        )


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor()


def commit() -> str:
    """Return the commit of the checkout that this file is part of."""
    here = Path(__file__).resolve()
    outputs = []
    for arguments in (
        ["ls-files", "--error-unmatch", here.name],  # an installed copy is part of none
        ["describe", "--always", "--dirty", "--exclude=*"],
    ):
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=here.parent, capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            return "unknown"
        outputs.append(done.stdout.strip())
    return outputs[-1]


def usable_cores() -> int:
    """Return how many cores this process may use: all where a process has no set of its own."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_threads() -> None:
    """Refuse a number of threads that would crash Concrete's native code, with no word of why.

    Raises InputError for an OMP_NUM_THREADS that is no number from 1 to 1024, or list of those.
    """
    value = os.environ.get(THREADS_VARIABLE)
    counts = [] if value is None else value.split(",")
    if not all(re.fullmatch(r"\s*0*[1-9][0-9]{0,3}\s*", count) for count in counts) or any(
        int(count) > MAX_THREADS for count in counts
    ):
        raise InputError(
            f"{THREADS_VARIABLE} is {value!r}: set it to a number of threads from 1 to "
            f"{MAX_THREADS}, or unset it"
        )


def cgroup_limit_bytes() -> int | None:
    """Return the memory that this process's control group may take, None for no limit.

    A container has one, and so has a unit of systemd (`MemoryMax=`) and a job of Slurm. The least
    limit counts, of the group and of all that it is part of. Version 2 of control groups alone.
    """
    folder = CGROUPS / _own_cgroup().lstrip("/")
    # A container sees its own group as the root, whose file a machine itself doesn't have.
    folders = [folder, *(parent for parent in folder.parents if parent.is_relative_to(CGROUPS))]
    limits = []
    for folder in folders:
        with suppress(OSError, ValueError):  # none there, or "max"
            limits.append(int((folder / CGROUP_LIMIT).read_text()))
    return min(limits, default=None)


def _own_cgroup() -> str:
    """Return the path of this process's control group below the root."""
    try:
        lines = OWN_CGROUP.read_text().splitlines()
    except (OSError, ValueError):
        return "/"
    return next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")


def peak_memory_bytes() -> int:
    """Return the largest memory that this process held at once."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
