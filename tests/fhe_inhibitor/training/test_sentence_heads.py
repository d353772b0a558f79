"""Heads on features: what is learned, and integers that do the same."""

from __future__ import annotations

import numpy as np
import pytest

from circuits.lookups import exact_lookup
from fhe_inhibitor.training import sentence_heads
from fhe_inhibitor.training.sentence_heads import (
    Codes,
    Examples,
    FloatHead,
    count_words,
    fit_hidden,
    fit_linear,
    predict,
    quantize_hidden,
    quantize_linear,
)

CODES = Codes(step=0.8 / 31, largest=31)


def on_a_sphere(n: int, label_of: object, seed: int = 0) -> Examples:
    """Points of length 1 in 6 dimensions, labelled by a function of them."""
    points = np.random.default_rng(seed).normal(size=(n, 6))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return Examples(points, label_of(points).astype(int))  # type: ignore[operator]


def by_plane(x: np.ndarray) -> np.ndarray:
    return x[:, 0] + 0.5 * x[:, 1] > 0.1


def by_band(x: np.ndarray) -> np.ndarray:
    return np.abs(x[:, 0]) > 0.35


def test_a_plane_is_found_and_kept_as_integers() -> None:
    train, held_out = on_a_sphere(600, by_plane), on_a_sphere(300, by_plane, seed=1)
    head = fit_linear(train, held_out)
    assert held_out.accuracy(head.predict(held_out.features)) > 0.95
    direction = head.weight / np.linalg.norm(head.weight)
    assert direction @ np.array([1, 0.5, 0, 0, 0, 0]) / np.sqrt(1.25) > 0.99
    integers = quantize_linear(head, CODES)
    assert abs(integers.weight).max() == 127
    labels = predict(integers, CODES, held_out.features, exact_lookup)
    assert (labels == head.predict(held_out.features)).mean() > 0.98


def test_hidden_units_find_what_no_plane_can(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = {"BATCH_SIZE": 64, "LEARNING_RATE": 3e-2, "WEIGHT_DECAYS": (0.01,), "DROPOUT": 0.0}
    for name, value in fast.items():
        monkeypatch.setattr(sentence_heads, name, value)
    train, held_out = on_a_sphere(800, by_band), on_a_sphere(300, by_band, seed=1)
    linear = fit_linear(train, held_out)
    assert held_out.accuracy(linear.predict(held_out.features)) < 0.75
    head = fit_hidden(train, held_out, units=8)
    assert held_out.accuracy(head.predict(held_out.features)) > 0.85
    integers = quantize_hidden(head, CODES, train)
    labels = predict(integers, CODES, held_out.features, exact_lookup)
    assert (labels == head.predict(held_out.features)).mean() > 0.95
    assert integers.count_lookups() == {6: 8}
    integers.prove()  # raises if a table could be left
    with pytest.raises(OverflowError, match="its table covers"):
        predict(integers, Codes(CODES.step, 31 * 9), 9 * held_out.features, exact_lookup)


def test_the_strongest_penalty_wins_a_tie() -> None:
    held_out = on_a_sphere(50, by_plane)
    heads = [FloatHead(np.ones(6), 0.0, chosen) for chosen in (0.01, 0.1)]
    assert sentence_heads._best(heads, held_out).chosen == 0.01


def test_codes_of_length_1_keep_their_norm() -> None:
    points = on_a_sphere(500, by_plane).features
    longest = np.linalg.norm(CODES(points), axis=1).max()
    assert 1 / CODES.step - 3 < longest <= CODES.max_norm(6)
    assert CODES.range == (-31, 31) and Codes(1.0, 1, signed=False).range == (0, 1)


def test_words_are_found_once_each() -> None:
    words = count_words(["a good film", "It 's good ."])
    assert [*words.get_feature_names_out()] == ["'s", ".", "It", "a", "film", "good"]
    found = words.transform(["good good film", "dreck"])
    assert found.toarray().tolist() == [[0, 0, 0, 0, 1, 1], [0] * 6]
