"""A failing test fails the run, although Concrete's exit handler would have it succeed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
FAILS_AFTER_A_CIRCUIT = """
import numpy as np
import pytest
from concrete import fhe


def test_fails_after_a_circuit():
    @fhe.compiler({"x": "encrypted"})
    def square(x):
        return fhe.univariate(lambda v: (v * v) % 8)(x)

    circuit = square.compile(range(8))
    assert circuit.encrypt_run_decrypt(3) == 2, "never"
"""


@pytest.mark.fhe
@pytest.mark.parametrize("workers", [(), ("-n", "1")])
def test_a_failure_after_a_circuit_fails_the_run(tmp_path: Path, workers: tuple[str, ...]) -> None:
    (tmp_path / "test_made.py").write_text(FAILS_AFTER_A_CIRCUIT, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-c", str(REPOSITORY / "pyproject.toml")]
    plugin = ["-p", "tests.conftest", "-m", "", "--rootdir", str(tmp_path)]
    run = subprocess.run(
        [*command, *plugin, *workers, str(tmp_path)], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert "1 failed" in run.stdout
    assert run.returncode == 1
