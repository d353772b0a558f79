"""What of the machine is refused before native code trips over it."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system import machine
from fhe_inhibitor.system.child import Child
from fhe_inhibitor.system.machine import cgroup_limit_bytes, check_threads, usable_cores


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no sets of cores")
def test_usable_cores_are_those_that_the_process_is_bound_to() -> None:
    before = os.sched_getaffinity(0)
    assert usable_cores() == len(psutil.Process().cpu_affinity())
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_usable_cores_are_all_where_processes_have_no_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    assert usable_cores() == psutil.cpu_count()


@pytest.mark.parametrize("value", ["0", "-1", "+2", "", "two", "2,0", "100000", "1025"])
def test_a_number_of_threads_that_crashes_concrete_is_refused(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    with pytest.raises(InputError, match=f"OMP_NUM_THREADS is '{value.replace('+', '.')}': set it"):
        check_threads()
    with pytest.raises(InputError, match="OMP_NUM_THREADS"):
        Child(object)


@pytest.mark.parametrize("value", [None, "1", " 2 ", "16,4", "1024"])
def test_any_other_is_not(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if value is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", value)
    check_threads()


@pytest.mark.parametrize(
    ("own", "limits", "least"),
    [
        ("0::/", {"": "7"}, 7),  # a container, which sees its own group as the root
        ("0::/", {}, None),
        ("", {"": "7"}, 7),
        ("0::/system.slice/fhe.service", {"system.slice/fhe.service": "5"}, 5),  # MemoryMax=5
        ("0::/slurm/job_1/step_0", {"slurm/job_1": "3", "slurm/job_1/step_0": "max"}, 3),
        ("0::/a/b", {"": "9", "a": "2", "a/b": "4"}, 2),
        ("4:memory:/a\n0::/b", {"a": "1", "b": "6"}, 6),
        ("0::/a/b", {"a": "max", "a/b": "max", "other": "1"}, None),
    ],
)
def test_the_least_limit_of_a_process_s_control_groups_counts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own: str,
    limits: dict[str, str],
    least: int | None,
) -> None:
    for group, limit in limits.items():
        (tmp_path / "groups" / group).mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / group / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "own").write_text(f"{own}\n")
    (tmp_path / "memory.max").write_text("1\n")  # of no group
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(machine, "OWN_CGROUP", tmp_path / "own")
    assert cgroup_limit_bytes() == least


def test_the_limit_is_none_where_there_are_no_control_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(machine, "OWN_CGROUP", tmp_path / "own")
    assert cgroup_limit_bytes() is None
