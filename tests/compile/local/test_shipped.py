"""The shipped nano model, encrypted from text to label: what a reader's first command runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from circuits.counts import count_lookups
from circuits.lookups import noisy_lookup
from compile.local.session import Session
from fhe_inhibitor.integer.model import IntegerModel

N = 8
# (text, label, integer logits) at 8 tokens.
TEXTS = (
    ("a gripping , funny film", "positive", [-29, 29]),
    ("a dull , tedious mess", "negative", [24, -24]),
)
# Integer steps that encrypted rounding may move a logit: the largest of 400 draws of the noise
# that the model was trained for is 4, and with half as much noise again 4.
BOUND = 8


@pytest.fixture(scope="module")
def nano() -> IntegerModel:
    """The shipped model, with circuits for 8 tokens alone."""
    return replace(IntegerModel.load(), buckets=(N,), default_tokens=N)


def test_the_integer_model_and_its_noise_are_inside_the_bound(nano: IntegerModel) -> None:
    rng = np.random.default_rng(0)
    for text, label, logits in TEXTS:
        x, padding = nano.encode(nano.tokenize(text))
        assert nano.integer_logits(x, padding).tolist() == logits
        assert nano.labels[int(np.argmax(logits))] == label
        lookup = noisy_lookup(rng, nano.noise_std)
        drawn = [nano.integer_logits(x, padding, lookup) for _ in range(100)]
        largest = np.abs(np.subtract(drawn, logits)).max()
        assert 0 < largest < BOUND < np.ptp(logits) / 2


@pytest.mark.end_to_end
def test_text_in_label_and_logits_out(nano: IntegerModel) -> None:
    session = Session(nano)
    for result, (text, label, logits) in zip(
        session.classify_many([text for text, *_ in TEXTS]), TEXTS, strict=True
    ):
        assert (result.text, result.n_positions) == (text, N)
        assert np.abs(np.subtract(result.logits, logits)).max() <= BOUND
        assert result.label == label
        assert result.probability == pytest.approx(
            nano.probabilities(np.array(result.logits)).max()
        )
        assert result.probability > 0.98
        counted = sum(sum(stage.lookups.values()) for stage in result.stages)
        assert counted == sum(map(Counter.total, count_lookups(nano.network, N).values()))
    # Keys and ciphertexts were real: a request of a few kilobytes, keys of tens of megabytes.
    assert 1_000 < result.request_bytes < 100_000
    assert session.cost().evaluation_keys_bytes > 10_000_000
