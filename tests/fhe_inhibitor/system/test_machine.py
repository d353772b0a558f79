"""What of the machine is refused before native code trips over it."""

from __future__ import annotations

import pytest

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.child import Child
from fhe_inhibitor.system.machine import check_threads


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
