"""GLUE's metrics by name, from a model's outputs: what each task's published figures are in.

All lie in [-1, 1]; papers write them times 100. A task with two metrics has their mean as its
score, as on GLUE's own board.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from fhe_inhibitor.errors import InputError


def pearson(values: np.ndarray, labels: np.ndarray) -> float:
    """Return the linear correlation, 0 for values that are all the same."""
    return float(stats.pearsonr(values, labels).statistic) if np.ptp(values) else 0.0


def spearman(values: np.ndarray, labels: np.ndarray) -> float:
    """Return the correlation of ranks, 0 for values that are all the same."""
    return float(stats.spearmanr(values, labels).statistic) if np.ptp(values) else 0.0


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": lambda chosen, labels: float(accuracy_score(labels, chosen)),
    "matthews": lambda chosen, labels: float(matthews_corrcoef(labels, chosen)),
    "f1": lambda chosen, labels: float(f1_score(labels, chosen)),  # of class 1
    "pearson": pearson,
    "spearman": spearman,
}
OF_VALUES = ("pearson", "spearman")


def compute_metrics(
    names: Sequence[str], logits: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """Return the metrics of logits `[n, n_labels]`, and their mean as "score".

    Of a regression `[n, 1]` the outputs themselves are compared, else the largest logit's class.
    Raises InputError for logits that aren't finite.

    >>> compute_metrics(["accuracy", "f1"], np.array([[0, 1], [0, 1], [2, 1]]), np.array([1, 0, 0]))
    {'accuracy': 0.6666666666666666, 'f1': 0.6666666666666666, 'score': 0.6666666666666666}
    """
    if not np.isfinite(logits).all():
        raise InputError(
            "the model's outputs are NaN or infinite, so nothing is measured: its training diverged"
        )
    values = logits[:, 0] if names[0] in OF_VALUES else logits.argmax(axis=-1)
    measured = {name: METRICS[name](values, labels) for name in names}
    return measured | {"score": float(np.mean(list(measured.values())))}
