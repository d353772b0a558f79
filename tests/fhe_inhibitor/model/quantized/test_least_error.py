"""The search for a step size, against one that tries every candidate on every value by itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fhe_inhibitor.model.fake_quantization import SHRINKS, Grid
from fhe_inhibitor.model.quantized.least_error import least_error
from fhe_inhibitor.model.quantized.steps import Step


def squared_error(values: list[float], size: float, zero: float, low: int, high: int) -> float:
    codes = [min(max(math.floor(x / size + zero + 0.5), low), high) for x in values]
    pairs = zip(codes, values, strict=True)
    return sum(((code - zero) * size - x) ** 2 for code, x in pairs)


@pytest.mark.parametrize(("low", "high"), [(-8, 7), (0, 15), (-3, 3)])
def test_the_best_candidate_is_that_of_brute_force(low: int, high: int) -> None:
    rng = np.random.default_rng(high)
    x = rng.normal(size=(50, 6)) * rng.uniform(0.1, 3, 6)
    sizes, zeros = rng.uniform(0.02, 2, (40, 6)), rng.uniform(-2, 9, (40, 6))
    best = least_error(*(torch.from_numpy(values) for values in (x, sizes, zeros)), low, high)
    for channel in range(6):
        errors = [
            squared_error(x[:, channel].tolist(), size, zero, low, high)
            for size, zero in zip(sizes[:, channel], zeros[:, channel], strict=True)
        ]
        assert best[channel] == int(np.argmin(errors))


def test_of_equal_candidates_the_first_is_taken() -> None:
    sizes = torch.tensor([[3.0], [1.0], [1.0]])
    assert least_error(torch.ones(4, 1), sizes, torch.zeros(3, 1), -1, 1).tolist() == [1]


@pytest.mark.parametrize("has_zero_point", [False, True])
def test_a_calibrated_step_is_nearly_the_best_there_is(has_zero_point: bool) -> None:
    """Brute force over a fine grid of sizes, and of zero points, gains less than a twentieth."""
    torch.manual_seed(0)
    sample = torch.randn(500, 1) * 0.3 + (2.0 if has_zero_point else 0.0)
    step = Step.signed(1, 4, has_zero_point)
    step.calibrate(sample)
    values, scale = sample[:, 0].tolist(), float(sample.abs().max())
    zeros = np.linspace(-60, 20, 161) if has_zero_point else [0.0]
    errors = [
        squared_error(values, size, zero, -8, 7)
        for size in np.linspace(0.01, 0.4, 40) * scale
        for zero in zeros
    ]
    own = squared_error(values, step.size.item(), step.shift.item(), -8, 7)
    assert own < 1.05 * min(errors)


def test_rows_of_a_weight_get_the_best_of_their_sizes() -> None:
    torch.manual_seed(0)
    rows = torch.randn(5, 40) * torch.tensor([[0.1], [1.0], [2.0], [5.0], [0.5]])
    grid = Grid.of_rows(4, 5)
    grid.fit_rows(rows)
    for row, size in zip(rows.tolist(), grid.size[:, 0].tolist(), strict=True):
        tried = [float(shrink) * max(map(abs, row)) / 7 for shrink in SHRINKS]
        errors = [squared_error(row, candidate, 0, -7, 7) for candidate in tried]
        assert size == pytest.approx(tried[int(np.argmin(errors))], rel=1e-6)
