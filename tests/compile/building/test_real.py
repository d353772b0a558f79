"""Builds at full size: the real teacher on each kind of texts, some hundred of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from compile.building.run import encrypt_student
from compile.building.student import make_student
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.training.own_texts import OwnRecipe
from tests.own_texts import KINDS, write_jsonl


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KINDS)
def test_a_student_of_few_texts_learns_what_they_are_about(tmp_path: Path, kind: str) -> None:
    data = write_jsonl(tmp_path / "texts.jsonl", KINDS[kind](600, 0))
    out, work = tmp_path / kind, tmp_path / "work"
    seconds = make_student(OwnRecipe(str(data)), out, work, Observer())
    built = encrypt_student(out, work, Observer(), n_encrypted=1, seconds=seconds)
    assert built.scores.integers.low > built.scores.most_frequent.high
    assert built.scores.integers.value > 0.8  # templates say what they are
    assert built.encrypted is not None and built.encrypted.accuracy.n == 1
