"""`fhe-inhibitor cost`: what it prints, what it refuses, and that it takes seconds."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from circuits.counts import count_lookups
from fhe_inhibitor.cli import cost as cost_command
from fhe_inhibitor.cli.main import main
from fhe_inhibitor.integer.model import CHECKPOINTS, DEFAULT_MODEL, REPOSITORY_ONLY, IntegerModel

LIMIT_S = 5.0
NANO = str(CHECKPOINTS / DEFAULT_MODEL / "config.json")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["cost", *arguments])
    code = exit_.value.code
    assert isinstance(code, int)
    return code


def test_a_model_costs_what_its_configuration_does(capfd: pytest.CaptureFixture[str]) -> None:
    network = IntegerModel.load(DEFAULT_MODEL).network
    counts = {n: sum(count_lookups(network, n).values(), Counter()).total() for n in (8, 12)}
    for asked in (["--model", DEFAULT_MODEL], ["--config", NANO]):
        assert run(*asked, "--tokens", "8", "--tokens", "12") == 0
        shown = capfd.readouterr().out
        for n, count in counts.items():
            assert f"| {n} | {count:,} | " in shown and f"| stage, {n} tokens |" in shown


def test_a_smaller_probability_of_errors_costs_more(capfd: pytest.CaptureFixture[str]) -> None:
    costs = []
    for p_error in ("2^-20", "2^-40"):
        assert run("--tokens", "8", "--p-error", p_error, "--json") == 0
        costs.append(json.loads(capfd.readouterr().out)["lengths"][0])
    assert costs[0]["lookups"] == costs[1]["lookups"]
    assert 1.2 * costs[0]["seconds"] < costs[1]["seconds"]


@pytest.mark.parametrize(
    ("content", "arguments", "reason"),
    [
        ("{}", ["--model", DEFAULT_MODEL], "two models; name one"),
        (None, [], "can't be read as JSON"),
        ("[1", [], "can't be read as JSON"),
        pytest.param(100_000 * "[", [], "can't be read as JSON", id="deep"),
        ("[]", [], "has the model_type None; wanted 'inhibidistilbert'"),
        ('{"model_type": "bert"}', [], "has the model_type 'bert'"),
        ('{"model_type": "inhibidistilbert"}', [], "has no quantization"),
        (
            '{"model_type": "inhibidistilbert", "quantization": {"table_bits": 12}}',
            [],
            "table_bits is 12, wanted an integer from 2 to 8",
        ),
        (
            '{"model_type": "inhibidistilbert", "quantization": {"tables": 5}}',
            [],
            "quantization is {'tables': 5}, wanted a dictionary of some of activation_bits",
        ),
    ],
)
def test_a_bad_configuration_is_one_line(
    content: str | None,
    arguments: list[str],
    reason: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A process for each would take most of the time.
    monkeypatch.setattr(cost_command, "in_worker", lambda work, observer: work.run(observer))
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    assert run("--config", str(path), *arguments) == 2
    err = capfd.readouterr().err
    assert reason in err and err.count("\n") == 1


def test_lengths_beyond_the_model_are_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--tokens", "17") == 2
    assert "--tokens 17: this model reads 1 to 16 tokens" in capfd.readouterr().err


def test_lengths_that_do_not_fit_the_pooling_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost_command, "in_worker", lambda work, observer: work.run(observer))
    config = json.loads(Path(NANO).read_text()) | {"pooling": 2}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    assert run("--config", str(path), "--tokens", "9") == 2
    assert "lengths [9]: wanted multiples of 2" in capfd.readouterr().err


@pytest.mark.timing
@pytest.mark.parametrize(
    "arguments",
    [
        ["--model", DEFAULT_MODEL],
        ["--config", NANO],
        ["--model", REPOSITORY_ONLY[0]],
        ["--config", str(CHECKPOINTS / REPOSITORY_ONLY[0])],
    ],
)
def test_it_takes_seconds(arguments: list[str]) -> None:
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "fhe_inhibitor", "cost", *arguments],
        check=True,
        capture_output=True,
    )
    assert time.perf_counter() - start < LIMIT_S
