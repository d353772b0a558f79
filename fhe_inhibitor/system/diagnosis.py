"""What a machine and an installation are fit for, each as a finding with a remedy.

These take milliseconds and load neither torch nor Concrete. `compile.local.diagnosis` adds what
needs those.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import psutil

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system import huge_pages
from fhe_inhibitor.system.extras import install_command
from fhe_inhibitor.system.files import Record
from fhe_inhibitor.system.machine import (
    cgroup_limit_bytes,
    check_threads,
    processor,
    usable_cores,
)

PACKAGE = "fhe-inhibitor"
GB = 10**9
# The shipped model's run holds 1.2 GB at once, docs/figures.md; deeper ones a few more.
LEAST_MEMORY_BYTES, ENOUGH_MEMORY_BYTES = 1.5 * GB, 4 * GB
ENOUGH_DISK_BYTES = 1 * GB
CPU_INFO = Path("/proc/cpuinfo")
FEATURES = {"AVX-512": "avx512f", "AVX2": "avx2", "AES": "aes"}

State = Literal["ok", "warning", "failure"]


class Finding(Record):
    """What was found out about one thing.

    state: ok; warning, for what works but slowly or not safely; failure, for what keeps a command
    from working. remedy: what to do; empty where there is nothing to.
    """

    name: str
    state: State
    found: str
    remedy: str = ""


def find_versions() -> Finding:
    """Find the versions of Python, this package and what classifying needs."""
    wanted = [line for line in _requirements() if not _parse(line)[1]]
    names = [PACKAGE, *(_parse(line)[0] for line in wanted)]
    installed = {name: _version(name) for name in names}
    shown = (PACKAGE, "concrete-python", "torch", "numpy")
    found = f"Python {platform.python_version()}, " + ", ".join(
        f"{name} {installed.get(name) or 'missing'}" for name in shown
    )
    missing = [name for name in installed if installed[name] is None]
    if missing:
        return Finding(
            name="versions",
            state="failure",
            found=f"{found}; missing: {', '.join(missing)}",
            remedy="pip install . in the folder of the repository, in a new environment",
        )
    pinned = dict(line.split("==") for line in wanted if "==" in line)
    others = [x for x in pinned if _release(installed[x] or "") != _release(pinned[x])]
    if others:
        wishes = " ".join(f"{name}=={pinned[name]}" for name in others)
        return Finding(
            name="versions",
            state="failure",
            found=f"{found}; not as wanted: {', '.join(f'{x} {installed[x]}' for x in others)}",
            remedy=f"pip install {wishes}",
        )
    if find_spec("pkg_resources") is None:
        return Finding(
            name="versions",
            state="failure",
            found=f"{found}; this setuptools has no pkg_resources, which Concrete imports",
            remedy="pip install 'setuptools<81'",
        )
    return Finding(name="versions", state="ok", found=found)


def find_extras() -> Finding:
    """Find which extras are installed, and which in part."""
    packages: dict[str, list[str]] = {}
    for line in _requirements():
        name, extra = _parse(line)
        if extra and name != PACKAGE:
            packages.setdefault(extra, []).append(name)
    missing = {
        extra: [name for name in names if _version(name) is None]
        for extra, names in packages.items()
    }
    whole = [extra for extra in packages if not missing[extra]]
    absent = [extra for extra in packages if missing[extra]]
    return Finding(
        name="extras",
        state="ok",
        found=f"installed: {', '.join(whole) or 'none'}; not: {', '.join(absent) or 'none'}",
        remedy=f"for a command that wants one: {install_command(*absent)}" if absent else "",
    )


def find_processor() -> Finding:
    """Find the processor's name, and whether it has what lookups are fast with."""
    name, flags = processor(), _flags()
    if flags is None:
        return Finding(
            name="processor", state="ok", found=f"{name}, {platform.machine()}, features unknown"
        )
    has = {feature: flag in flags for feature, flag in FEATURES.items()}
    found = f"{name}, " + ", ".join(
        feature if there else f"no {feature}" for feature, there in has.items()
    )
    if has["AVX2"] and has["AES"]:
        return Finding(name="processor", state="ok", found=found)
    return Finding(
        name="processor",
        state="warning",
        found=found,
        remedy="encrypted text takes several times as long; use a machine that has both AVX2 and "
        "AES, or a virtual machine that shows them to its guest",
    )


def find_cores() -> Finding:
    """Find how many cores this process may use, and whether its threads' settings let it work."""
    usable, load = usable_cores(), psutil.getloadavg()[0]
    found = f"{usable} usable of {os.cpu_count()}, load {load:.1f}"
    try:
        check_threads()
    except InputError as error:
        return Finding(name="cores", state="failure", found=found, remedy=str(error))
    if load > 1.5 * usable:
        return Finding(
            name="cores",
            state="warning",
            found=f"{found}: other programs compute",
            remedy="wait for them, or expect times that are several times as long",
        )
    return Finding(name="cores", state="ok", found=found)


def find_memory() -> Finding:
    """Find how much memory this process may still take: free, and by the limits that are set."""
    available = psutil.virtual_memory().available
    found = f"{available / GB:.1f} GB free of {psutil.virtual_memory().total / GB:.1f}"
    limits = {
        "ulimit -v": resource.getrlimit(resource.RLIMIT_AS)[0],
        "of its control group": cgroup_limit_bytes(),
    }
    for name, limit in limits.items():
        if limit is not None and 0 <= limit < available:
            available, found = limit, f"{found}, {limit / GB:.1f} GB by the limit {name}"
    if available >= ENOUGH_MEMORY_BYTES:
        return Finding(name="memory", state="ok", found=found)
    little = available < LEAST_MEMORY_BYTES
    return Finding(
        name="memory",
        state="failure" if little else "warning",
        found=found,
        remedy=f"close other programs or raise the limit: a run takes "
        f"{LEAST_MEMORY_BYTES / GB:.1f} GB with the shipped model, "
        f"{ENOUGH_MEMORY_BYTES / GB:.0f} GB with deeper ones",
    )


def find_huge_pages() -> Finding:
    """Find whether Linux gives memory huge pages, which lookups are faster with."""
    found = {"always": "for all memory", "madvise": "for memory that asks, as ours does"}
    kind = huge_pages.mode()
    if kind in found or kind == "unknown":
        return Finding(name="huge pages", state="ok", found=found.get(kind, kind))
    return Finding(
        name="huge pages",
        state="warning",
        found=f"{kind}, by {huge_pages.MODES}",
        remedy="encrypted text is some percent faster with them: as root, "
        f"echo madvise > {huge_pages.MODES}",
    )


def find_disk(name: str, folder: Path, variable: str, runs_code: bool = False) -> Finding:
    """Find whether a folder, or the one it would be made in, can be written and has space.

    runs_code: whether native code in it is to run.
    """
    # Path.exists raises PermissionError for what lies below a folder that is closed to this user.
    places = (folder, *folder.absolute().parents)
    place = next(path for path in places if os.path.exists(path))
    free = shutil.disk_usage(place).free
    found = f"{folder}, {free / GB:.1f} GB free"
    instead = f"or name another folder in {variable}"
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        remedy = f"make {place} a folder that you can write to, {instead}"
        return Finding(name=name, state="failure", found=f"{found}, not writable", remedy=remedy)
    if runs_code and os.statvfs(place).f_flag & getattr(os, "ST_NOEXEC", 0):
        remedy = f"name a folder elsewhere in {variable}: circuits are native code"
        return Finding(name=name, state="failure", found=f"{found}, mounted noexec", remedy=remedy)
    if free < ENOUGH_DISK_BYTES:
        return Finding(name=name, state="warning", found=found, remedy=f"free 1 GB, {instead}")
    return Finding(name=name, state="ok", found=found)


def _requirements() -> list[str]:
    """Return what this package requires, extras included; nothing where it isn't installed."""
    try:
        return requires(PACKAGE) or []
    except PackageNotFoundError:
        return []


def _parse(requirement: str) -> tuple[str, str]:
    """Return the package of a requirement, and the extra that it belongs to, if any.

    >>> _parse("numpy<2,>=1.26"), _parse('uvicorn<1; extra == "server"')
    (('numpy', ''), ('uvicorn', 'server'))
    """
    name = re.match(r"[\w.-]+", requirement)
    extra = re.search(r"extra\s*==\s*['\"]([\w-]+)", requirement)
    assert name is not None
    return name.group(), extra.group(1) if extra else ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _release(version: str) -> str:
    """Return a version without zeros at its end, and without what stands behind a plus.

    >>> _release("2.13.0+cpu"), _release("4.13.0.0")
    ('2.13', '4.13')
    """
    return re.sub(r"(\.0)+$", "", version.partition("+")[0])


def _flags() -> set[str] | None:
    try:
        found = re.search(r"^flags\s*:(.*)$", CPU_INFO.read_text(), re.M)
    except OSError:
        return None
    return set(found.group(1).split()) if found else None
