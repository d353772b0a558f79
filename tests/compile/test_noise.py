"""Measured rounding noise is what training and simulation draw."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from compile import noise as noise_module
from compile.noise import (
    ModelNoise,
    RoundingNoise,
    largest_norms,
    measure_model_noise,
    measure_rounding_noise,
)
from compile.report import describe_noise
from fhe_inhibitor.cli import benchmark
from fhe_inhibitor.cli.main import _run
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import DEFAULT_MODEL, IntegerModel
from tests.networks import NetworkShape, random_network


@pytest.mark.fhe
def test_rounding_noise() -> None:
    noise = measure_rounding_noise(weight_norm=8, n_lookups=1024)
    # Five standard errors, 0.0089 of the mean and 0.0112 of the deviation, around what is drawn.
    assert 0.044 < noise.std < 0.156
    assert abs(noise.mean) < 0.045
    assert noise.far_rate == 0
    assert noise.n_lookups == 1024
    assert noise.std_error == pytest.approx(0.0112, rel=0.3)


@pytest.mark.parametrize("norm", [2.0, 0.5])
def test_too_few_weights_are_refused(norm: float) -> None:
    with pytest.raises(InputError, match="wanted a larger norm"):
        measure_rounding_noise(weight_norm=norm)


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_prints_what_was_measured(
    as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = RoundingNoise(0.004, 0.005, 0.097, 0.006, 0.077, 0.0, 4096)
    asked: list[tuple[Any, ...]] = []

    def measure(bits: int, norm: float, n_lookups: int) -> RoundingNoise:
        asked.append((bits, norm, n_lookups))
        return measured

    monkeypatch.setattr(noise_module, "measure_rounding_noise", measure)
    monkeypatch.setattr(benchmark, "in_worker", lambda work, observer: work.run(observer))
    arguments = ["benchmark", "noise", "--bits", "6", "--norm", "22", "--lookups", "1024"]
    assert _run(arguments + ["--json"] * as_json) == 0
    assert asked == [(6, 22.0, 1024)]
    out = capsys.readouterr().out
    if as_json:
        assert RoundingNoise(**json.loads(out)) == measured
    else:
        assert "0.097 (standard error 0.006)" in out and "7.7% of 4,096 lookups" in out


def test_the_norm_of_a_layer_that_pools_is_that_of_all_positions() -> None:
    """Pooling 9 positions, and then their projection, is one product with 9 times as many rows."""
    shape = NetworkShape(pooling=(9,), last_query="first", max_tokens=9, lookup_bits=4)
    network = random_network(np.random.default_rng(0), shape)
    parts = [p for head in network.layers[1].heads for p in (head.query, head.key, head.value)]
    rows = [np.tile(p.weight, (9, 1)) for p in parts if p is not None and p.table.lsbs]
    widths = {p.table.bit_width for p in parts if p is not None and p.table.lsbs}
    assert rows and widths == {4}
    assert largest_norms(network)[4] == pytest.approx(
        max(np.linalg.norm(row, axis=0).max() for row in rows)
    )


def test_a_model_is_measured_behind_its_largest_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, accuracies were of the noise that was trained for, whatever the circuit's was."""
    network = IntegerModel.load(DEFAULT_MODEL).network
    (width,), (norm,) = largest_norms(network).keys(), largest_norms(network).values()
    assert (width, round(norm, 3)) == (4, 11.0)
    asked: list[tuple[Any, ...]] = []

    def measure(*arguments: Any) -> RoundingNoise:
        asked.append(arguments)
        return RoundingNoise(0.0, 0.005, 0.125, 0.006, 0.1, 0.0, 2048)

    monkeypatch.setattr(noise_module, "measure_rounding_noise", measure)
    (noise,) = measure_model_noise(network, 2**-20, 0.1)
    assert asked == [(4, norm, 2**-20, 2048)]
    assert noise == ModelNoise(4, norm, 0.1, 0.125, 0.006)
    assert noise.differs and "more than a fifth apart" in describe_noise(noise)
    for other in (replace(noise, std=0.115), replace(noise, trained_std=None)):
        assert not other.differs and "apart" not in describe_noise(other)
