"""What the decrypted logits of an evaluation say, in figures; see `analyse`.

The decrypted logits are compared with three others of the same texts: those of the integer model,
exact; the same with the noise of encrypted rounding drawn, several times; and the float student's.
A label is the largest logit, the first of equal ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import special, stats

from compile.evaluation.records import Evaluation, Header, TextRecord
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.files import Record
from fhe_inhibitor.system.statistics import Share, Summary, share, summarize

DECRYPTED, INTEGERS, DRAWN, FLOAT = "decrypted", "integers", "noise drawn", "float student"
REST = "rest"
N_BINS = 10  # of confidence
MIN_DRAWS = 3  # whose range says something
CALIBRATED_DRAWS = 2000


class Logits(NamedTuple):
    """Logits of the same texts.

    labels: int `[n]`, the true ones. decrypted, clear: int `[n, n_labels]`. drawn: int
    `[n, n_draws, n_labels]`. student: float `[n, n_labels]`, in real units; None without one.
    """

    labels: np.ndarray
    decrypted: np.ndarray
    clear: np.ndarray
    drawn: np.ndarray
    student: np.ndarray | None


class Changes(Record):
    """Labels that encryption changed, against exact integers.

    right_to_wrong, wrong_to_right, other: how many; p_value: of McNemar's exact test, how likely
    the first two are as unlike by chance; None if both are 0. of_draws: changed labels of each draw
    of noise.
    """

    right_to_wrong: int
    wrong_to_right: int
    other: int
    p_value: float | None
    of_draws: tuple[int, ...]

    @property
    def total(self) -> int:
        """All changed labels."""
        return self.right_to_wrong + self.wrong_to_right + self.other


class MarginBin(Record):
    """Texts whose margin is low .. high: the exact integers' largest logit less the next one.

    changed: the share whose decrypted label is another one. expected: the mean share over draws of
    noise, None without draws.
    """

    low: int
    high: int
    changed: Share
    expected: float | None


class Spread(Record):
    """Differences in integer steps. low, high: 5% and 95% quantiles. largest: absolute."""

    n: int
    mean: float
    std: float
    low: float
    high: float
    largest: int


class Differences(Record):
    """Logits of one label less the exact ones.

    stds_of_draws: of each draw of noise by itself. inside: the share of texts whose decrypted logit
    lies between the least and the largest of all draws but one; inside_of_draws: the same of that
    one draw, the mean over which one it is. If encryption is as noisy as the draws, both are equal
    but for chance. None for fewer than 3 draws.
    """

    label: str
    decrypted: Spread
    drawn: Spread | None
    stds_of_draws: tuple[float, ...]
    inside: Share | None
    inside_of_draws: float | None


class ConfidenceBin(Record):
    """Texts whose label has a probability of low to high; confidence: its mean."""

    low: float
    high: float
    confidence: float
    right: Share


class Calibration(Record):
    """How well probabilities tell how often the label is right.

    error: expected calibration error, the mean over texts of |share right - confidence| of their
    bin. by_chance: what it would be, on average, if the probabilities were true: few texts in a bin
    make it larger than 0.
    """

    error: float
    by_chance: float
    bins: tuple[ConfidenceBin, ...]


class LengthTimes(Record):
    """Seconds of the texts that went through the circuits of one length, of timed sittings.

    stages: by name, in their order; what is in none is "rest". means: the same, mean seconds.
    """

    n_positions: int
    seconds: Summary
    stages: dict[str, Summary]
    means: dict[str, float]


class Times(Record):
    """Times of all timed texts. per_hour: texts, one after the other."""

    n_texts: int
    per_hour: float
    lengths: tuple[LengthTimes, ...]


class Analysis(Record):
    """All figures of one evaluation. accuracy, calibration: by what gave the logits."""

    n_texts: int
    accuracy: dict[str, Share]
    accuracy_of_draws: tuple[float, ...]
    changes: Changes
    margins: tuple[MarginBin, ...]
    differences: tuple[Differences, ...]
    calibration: dict[str, Calibration]
    times: Times | None


def analyse(header: Header, found: Evaluation) -> Analysis:
    """Return the figures of an evaluation. Raises InputError if it holds no decrypted logits."""
    logits = stack(header, found)
    n, right = len(logits.labels), logits.labels
    draws = logits.drawn.argmax(axis=-1) == right[:, None]  # [n, n_draws]
    accuracy = {
        DECRYPTED: _accuracy(logits.decrypted, right),
        INTEGERS: _accuracy(logits.clear, right),
    }
    if draws.size:
        accuracy[DRAWN] = share(float(draws.sum(axis=0).mean()), n)
    if logits.student is not None:
        accuracy[FLOAT] = _accuracy(logits.student, right)
    return Analysis(
        n_texts=n,
        accuracy=accuracy,
        accuracy_of_draws=tuple(draws.mean(axis=0).tolist()),
        changes=count_changes(logits),
        margins=tuple(changes_by_margin(logits)),
        differences=tuple(compare_logits(logits, header.labels)),
        calibration={
            name: calibrate(special.softmax(scale * values, axis=-1), right)
            for name, values, scale in (
                (DECRYPTED, logits.decrypted, header.logit_scale),
                (INTEGERS, logits.clear, header.logit_scale),
                (FLOAT, logits.student, 1.0),
            )
            if values is not None
        },
        times=measure_times(timed_records(found)),
    )


def stack(header: Header, found: Evaluation) -> Logits:
    """Return the logits of all texts of a file.

    Raises InputError if none was decrypted, and for long texts, whose labels need offsets.
    """
    if header.max_pieces is not None:
        raise InputError(
            f"the evaluation of {header.data} is of long texts, which no page shows: the command "
            "that made it prints their figures"
        )
    records = sorted_records(found)
    if not records or header.mode == "disable":
        raise InputError(
            f"nothing was decrypted of {header.data}: run evaluate --mode execute with --out first"
        )
    shape = (len(records), header.n_draws, len(header.labels))
    drawn = np.array([record.drawn_logits for record in records], np.int64).reshape(shape)
    students = [record.float_logits for record in records]
    return Logits(
        np.array([record.label for record in records]),
        np.array([record.logits for record in records]),
        np.array([record.clear_logits for record in records]),
        drawn,
        None if header.float_sha256 is None else np.array(students, np.float64),
    )


def sorted_records(found: Evaluation) -> list[TextRecord]:
    """Return the texts by index."""
    return [record for _, record in sorted(found.texts.items())]


def timed_records(found: Evaluation) -> list[TextRecord]:
    """Return the texts of timed sittings, by index."""
    return [r for r in sorted_records(found) if found.sittings[r.sitting].timed]


def count_changes(logits: Logits) -> Changes:
    """Count the labels that encryption changed.

    >>> exact, other = np.array([[1, 0], [0, 1]]), np.array([[0, 1], [0, 1]])
    >>> count_changes(Logits(np.array([1, 1]), other, exact, other[:, None], None)).wrong_to_right
    1
    """
    before, after = logits.clear.argmax(axis=-1), logits.decrypted.argmax(axis=-1)
    changed = before != after
    lost = int((changed & (before == logits.labels)).sum())
    won = int((changed & (after == logits.labels)).sum())
    drawn = logits.drawn.argmax(axis=-1) != before[:, None]
    return Changes(
        right_to_wrong=lost,
        wrong_to_right=won,
        other=int(changed.sum()) - lost - won,
        p_value=float(stats.binomtest(lost, lost + won).pvalue) if lost + won else None,
        of_draws=tuple(drawn.sum(axis=0).tolist()),
    )


def changes_by_margin(logits: Logits) -> Iterator[MarginBin]:
    """Yield the changed labels by margin: 0, 1, 2 to 3, 4 to 7, ...; no bin without texts."""
    two_largest = np.sort(logits.clear, axis=-1)[:, -2:]
    margin = two_largest[:, 1] - two_largest[:, 0]
    before = logits.clear.argmax(axis=-1)
    changed = logits.decrypted.argmax(axis=-1) != before
    drawn = logits.drawn.argmax(axis=-1) != before[:, None]
    low, high = 0, 0
    while low <= margin.max():
        inside = (low <= margin) & (margin <= high)
        if inside.any():
            expected = float(drawn[inside].mean()) if drawn.size else None
            changes = share(int(changed[inside].sum()), int(inside.sum()))
            yield MarginBin(low=low, high=high, changed=changes, expected=expected)
        low, high = high + 1, 2 * high + 1


def compare_logits(logits: Logits, labels: Sequence[str]) -> Iterator[Differences]:
    """Yield how far each label's logits are from the exact ones, decrypted and with drawn noise."""
    decrypted, drawn = logits.decrypted - logits.clear, logits.drawn - logits.clear[:, None]
    for index, label in enumerate(labels):
        of_draws = drawn[:, :, index]  # [n, n_draws]
        yield Differences(
            label=label,
            decrypted=_spread(decrypted[:, index]),
            drawn=_spread(of_draws.ravel()) if of_draws.size else None,
            stds_of_draws=tuple(of_draws.std(axis=0).tolist()),
            **_inside(decrypted[:, index], of_draws),
        )


def _inside(decrypted: np.ndarray, drawn: np.ndarray) -> dict[str, Any]:
    """Count values `[n]` within the range of all draws `[n, n_draws]` but one, and those draws."""
    n, n_draws = drawn.shape
    if n_draws < MIN_DRAWS:
        return {"inside": None, "inside_of_draws": None}
    counts, of_draws = [], []
    for left_out in range(n_draws):
        others = np.delete(drawn, left_out, axis=1)
        low, high = others.min(axis=1), others.max(axis=1)
        counts.append(np.sum((low <= decrypted) & (decrypted <= high)))
        of_draws.append(np.mean((low <= drawn[:, left_out]) & (drawn[:, left_out] <= high)))
    return {
        "inside": share(float(np.mean(counts)), n),
        "inside_of_draws": float(np.mean(of_draws)),
    }


def calibrate(probabilities: np.ndarray, labels: np.ndarray) -> Calibration:
    """Return the calibration of probabilities `[n, n_labels]`, over bins of equal width.

    They reach from 1 / n_labels, below which no largest probability is, to 1.
    """
    n, n_labels = probabilities.shape
    confidence = probabilities.max(axis=-1)
    right = probabilities.argmax(axis=-1) == labels
    edges = np.linspace(1 / n_labels, 1, N_BINS + 1)
    chosen = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, N_BINS - 1)
    in_bin = (chosen[:, None] == np.arange(N_BINS)).astype(float)  # [n, N_BINS]
    drawn = np.random.default_rng(0).random((CALIBRATED_DRAWS, n)) < confidence
    surplus = (drawn - confidence) @ in_bin  # right answers beyond the expected, of each bin
    return Calibration(
        error=float(np.abs((right - confidence) @ in_bin).sum() / n),
        by_chance=float(np.abs(surplus).sum(axis=-1).mean() / n),
        bins=tuple(
            ConfidenceBin(
                low=edges[index],
                high=edges[index + 1],
                confidence=float(confidence[inside].mean()),
                right=share(int(right[inside].sum()), int(inside.sum())),
            )
            for index in range(N_BINS)
            for inside in [chosen == index]
            if inside.any()
        ),
    )


def measure_times(records: Sequence[TextRecord]) -> Times | None:
    """Return the times of texts, by the length of their circuits; None for no texts."""
    if not records:
        return None
    lengths = sorted({record.n_positions for record in records})
    total = sum(record.seconds for record in records)
    return Times(
        n_texts=len(records),
        per_hour=3600 * len(records) / total,
        lengths=tuple(_of_length([r for r in records if r.n_positions == n]) for n in lengths),
    )


def _of_length(records: Sequence[TextRecord]) -> LengthTimes:
    by_stage: dict[str, list[float]] = {}
    for record in records:
        rest = record.seconds - sum(record.stages.values())
        for name, seconds in (*record.stages.items(), (REST, max(rest, 0.0))):
            by_stage.setdefault(name, []).append(seconds)
    return LengthTimes(
        n_positions=records[0].n_positions,
        seconds=summarize([record.seconds for record in records]),
        stages={name: summarize(seconds) for name, seconds in by_stage.items()},
        means={name: sum(seconds) / len(records) for name, seconds in by_stage.items()},
    )


def _accuracy(logits: np.ndarray, labels: np.ndarray) -> Share:
    return share(int((logits.argmax(axis=-1) == labels).sum()), len(labels))


def _spread(differences: np.ndarray) -> Spread:
    low, high = np.quantile(differences, [0.05, 0.95])
    return Spread(
        n=len(differences),
        mean=float(differences.mean()),
        std=float(differences.std()),
        low=float(low),
        high=float(high),
        largest=int(np.abs(differences).max()),
    )
