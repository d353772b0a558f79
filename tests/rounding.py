"""What approximate rounding allows the logits of a text, by interval arithmetic."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from circuits.intervals import Interval, interval, interval_lookup
from circuits.network import run
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.runtime.classifier import Classification


def piece_bounds(model: IntegerModel, x: npt.ArrayLike, padding: npt.ArrayLike) -> Interval:
    """Return the bounds of the logits of token values (n, dim) and their padding (n,)."""
    bounds = run(model.network, interval(x), interval(padding), interval_lookup)
    assert isinstance(bounds, Interval)
    return bounds


def max_difference(model: IntegerModel, text: str) -> int:
    """Return how far an encrypted logit of a text may lie from the integer one."""
    x, padding = model.encode(model.tokenize(text))
    bounds, clear = piece_bounds(model, x, padding), model.integer_logits(x, padding)
    return int(np.maximum(bounds.high - clear, clear - bounds.low).max())


def assert_within_rounding(model: IntegerModel, result: Classification) -> None:
    """No encrypted logit lies outside the bounds; the label is that of the largest."""
    x, padding = model.encode(model.tokenize(result.text))
    bounds = piece_bounds(model, x, padding)
    assert result.logits is not None
    assert (bounds.low <= result.logits).all() and (result.logits <= bounds.high).all()
    assert result.label == model.labels[int(np.argmax(result.logits))]
