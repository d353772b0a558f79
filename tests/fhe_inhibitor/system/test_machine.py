"""What of the machine is refused before native code trips over it."""

from __future__ import annotations

import os

import psutil
import pytest

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.child import Child
from fhe_inhibitor.system.machine import check_threads, usable_cores


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
