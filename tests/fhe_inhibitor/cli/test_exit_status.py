"""A failure after a circuit is one, although Concrete's exit handler would have it succeed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fhe_inhibitor.cli import benchmark
from fhe_inhibitor.cli.main import main
from fhe_inhibitor.cli.worker import Work
from fhe_inhibitor.system.progress import Observer

REPOSITORY = Path(__file__).resolve().parents[3]
NOISE = ["benchmark", "noise", "--bits", "3", "--norm", "3", "--lookups", "64"]
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


def test_noise_is_measured_in_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[object] = []

    def in_worker(work: Work[dict[str, Any]], observer: Observer) -> dict[str, Any]:
        given.append(work)
        figures = dict.fromkeys(("mean", "mean_error", "std", "std_error"), 0.25)
        return {**figures, "flip_rate": 0.5, "far_rate": 0.125, "n_lookups": 1024}

    monkeypatch.setattr(benchmark, "in_worker", in_worker)
    with pytest.raises(SystemExit) as exit_:
        main(NOISE)
    assert not exit_.value.code
    assert given == [benchmark.MeasureNoise(bits=3, norm=3.0, lookups=64)]
    assert capsys.readouterr().out.splitlines() == [
        "standard deviation   0.250 (standard error 0.250)",
        "mean                 0.250 (standard error 0.250)",
        "the entry beside     50.0% of 1,024 lookups",
        "another wrong entry  12.5%",
    ]


@pytest.mark.fhe
def test_a_command_that_fails_after_a_circuit_says_so() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "fhe_inhibitor", *NOISE],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()  # long before there is a result
        assert b"nobody reads the output" in process.stderr.read()
    assert process.returncode == 128 + signal.SIGPIPE
