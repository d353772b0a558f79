"""Measured rounding noise is what training and simulation draw."""

from __future__ import annotations

import pytest

from compile.benchmark.noise import measure_rounding_noise
from fhe_inhibitor.errors import InputError


@pytest.mark.fhe
def test_rounding_noise() -> None:
    noise = measure_rounding_noise(weight_norm=8, n_lookups=2048)
    # Five standard errors, 0.0063 of the mean and 0.0079 of the deviation, around what is drawn.
    assert 0.06 < noise.std < 0.14
    assert abs(noise.mean) < 0.032
    assert noise.far_rate == 0
    assert noise.n_lookups == 2048


def test_too_few_weights_are_refused() -> None:
    with pytest.raises(InputError, match="wanted a larger norm"):
        measure_rounding_noise(weight_norm=2)
