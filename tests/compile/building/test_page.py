"""What a build tells of its results: intervals, and warnings where figures say little."""

from __future__ import annotations

import re
from typing import Any

import pytest

from compile.building.page import Built, Circuits, Encrypted, Scores, to_markdown, warnings
from fhe_inhibitor.system.statistics import share
from fhe_inhibitor.training.own_texts import Prepared


def built(**changes: Any) -> Built:
    """Results of 1,000 texts that there is nothing to warn of."""
    scores = {
        "most_frequent": share(400, 1000),
        "teacher": share(900, 1000),
        "bag_of_words": share(800, 1000),
        "float_student": share(860, 1000),
        "integers": share(850.5, 1000),
    }
    prepared = {
        "labels": ("a", "b", "c"),
        "train": (1600, 1400, 1000),
        "validation": (400, 350, 250),
        "left_out": {},
        "n_cut": 0,
        "n_texts": 80_000,
        "steps": 2500,
        "epochs": 3,
    }
    return Built(
        model="m",
        prepared=Prepared(**{k: changes.pop(k, v) for k, v in prepared.items()}),
        scores=Scores(**{k: changes.pop(k, v) for k, v in scores.items()}),
        tokens=12,
        by_tokens={8: 0.8, 12: 0.85},
        encrypted=changes.pop("encrypted", None),
        circuits=Circuits(lookups=1948, request_bytes=8300, response_bytes=66_100),
        model_bytes=1_000_000,
        seconds={"corpus": 60.0, "circuits": 60.0},
        **changes,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": (1600, 1400, 49)}, r"few texts to train on: c \(49\)"),
        ({"integers": share(85, 100)}, "measured on 100 texts.* from 77% to 91%"),
        ({"validation": (500, 500, 0)}, "no text to measure on is of c"),
        ({"integers": share(420, 1000)}, "student is not proved to be better .*40.0%"),
        ({"teacher": share(390, 1000)}, "teacher is not proved to be better"),
        ({"bag_of_words": share(851, 1000)}, "bag of words, .* is as good .85.1%"),
    ],
)
def test_each_doubt_is_told(changes: dict[str, Any], message: str) -> None:
    assert list(warnings(built())) == []
    told = list(warnings(built(**changes)))
    assert [bool(re.search(message, line)) for line in told].count(True) == 1
    # A student as bad as the baseline is also worse than the bag of words.
    assert len(told) == (2 if "student" in message else 1)


def test_the_page_has_each_accuracy_with_its_interval() -> None:
    encrypted = Encrypted(
        accuracy=share(17, 20),
        integers=share(18, 20),
        n_equal=19,
        seconds=20.25,
        evaluation_keys_bytes=47_300_000,
    )
    page = to_markdown(built(encrypted=encrypted, bag_of_words=None))
    for words in (
        "| c | 1,000 | 250 |",
        "| always the most frequent class | 40.0% | 37.0% to 43.1% | 1,000 |",
        "| the same, encrypted | 85.0% | 64.0% to 94.8% | 20 |",
        "19 of 20 labels equal",
        "1,948 lookups, request 8.3 kB, response 66.1 kB",
        "8: 80.0%, 12: 85.0%",
        "took 2.0 minutes",
    ):
        assert words in page
    assert "bag of words" not in page and "Warning" not in page
