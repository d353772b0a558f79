"""Accuracies that `train` wrote beside a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compile.paper.collect import collect
from compile.paper.page import to_markdown
from compile.paper.trained import read_trained
from fhe_inhibitor.integer.model import CHECKPOINTS, DEFAULT_MODEL
from tests.compile.paper.stored import inputs

NANO = CHECKPOINTS / DEFAULT_MODEL


def test_the_shipped_model_has_its_own_its_baselines_and_its_teacher() -> None:
    stored = json.loads((NANO / "results.json").read_text())
    trained = read_trained(NANO, 12)
    assert trained is not None and trained.command == "fhe-inhibitor train --seed 1"
    found = {(row.name, row.data): row.accuracy for row in trained.rows}
    assert len(found) == len(trained.rows) == 8
    for kind, words in (("inhibitor", "this student"), ("dot_product", "dot-product student")):
        for split, data in (("validation", "validation set"), ("held_out", "held out from train")):
            (accuracy,) = (
                a for (name, d), a in found.items() if name.startswith(words) and d == data
            )
            own = stored[kind]["12"][split]
            assert accuracy.value == pytest.approx(own["value"]) and accuracy.n == own["n_texts"]
    teacher = found["teacher, all tokens, float", "validation set"]
    assert teacher.value == pytest.approx(stored["teacher"]["validation"])
    assert teacher.low < teacher.value < teacher.high


def test_they_stand_on_the_page_with_the_command_of_training() -> None:
    page = to_markdown(collect(inputs(trained=read_trained(NANO, 12))))
    assert "| bag of words of the same tokens, no lookup | 84.1% (81.5% to 86.3%) | 872 |" in page
    assert "`fhe-inhibitor train --seed 1`; AMD EPYC" in page


@pytest.mark.parametrize("content", [None, "{}", "[", '{"inhibitor": {}, "teacher": {}}'])
def test_other_models_have_none(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    assert read_trained(tmp_path, 12) is None
    assert read_trained(NANO, 11) is None
