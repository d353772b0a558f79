"""Circuits run on machines that have what they were compiled for, and on no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fhe_inhibitor.cluster.machines import Machine, _instructions, this_machine, why_unfit

VERSIONS = {"concrete-python": "2.11.0", "python": "3.11"}
OWN = Machine("x86_64", frozenset({"avx2", "fma"}), VERSIONS)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (OWN, None),
        (replace(OWN, instructions=OWN.instructions | {"avx512f"}), None),
        (replace(OWN, instructions=frozenset({"avx2"})), "lacks fma"),
        (replace(OWN, architecture="aarch64"), "it is aarch64"),
        (replace(OWN, versions=VERSIONS | {"python": "3.12"}), "it has python 3.12, wanted 3.11"),
        (replace(OWN, versions={"python": "3.11"}), "concrete-python None, wanted 2.11.0"),
    ],
)  # fmt: skip
def test_one_line_says_why_a_machine_is_unfit(other: Machine, words: str | None) -> None:
    reason = why_unfit(OWN, other)
    assert (reason is None) if words is None else (reason is not None and words in reason)
    assert "\n" not in (reason or "")


def test_only_instructions_are_compared(tmp_path: Path) -> None:
    """Two machines of one cloud differ in what the kernel says of virtualization and of bugs."""
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nflags\t\t: fpu avx2 hypervisor avx512_vnni md_clear sse4_2\n")
    assert _instructions(file) == {"avx2", "avx512_vnni", "sse4_2"}
    assert _instructions(tmp_path / "missing") == frozenset()


def test_this_machine_has_what_it_runs_on() -> None:
    machine = this_machine()
    assert machine.versions["concrete-python"] == "2.11.0"
    assert why_unfit(machine, this_machine()) is None
    if machine.architecture == "x86_64":
        assert "sse2" in machine.instructions
