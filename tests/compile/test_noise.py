"""Measured rounding noise is what training and simulation draw."""

from __future__ import annotations

import pytest

from compile.noise import measure_rounding_noise
from fhe_inhibitor.errors import InputError


@pytest.mark.fhe
def test_rounding_noise() -> None:
    noise = measure_rounding_noise(weight_norm=8, n_lookups=768)
    assert 0.07 < noise.std < 0.13
    assert abs(noise.mean) < 0.04
    assert noise.far_rate == 0
    assert noise.n_lookups == 768


def test_too_few_weights_are_refused() -> None:
    with pytest.raises(InputError, match="wanted a larger norm"):
        measure_rounding_noise(weight_norm=2)
