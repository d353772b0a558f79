"""Pairs of texts to compare: what they are, a plan that is interrupted, what is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.experiments.matching import (
    EXCHANGED_LETTERS,
    Exchanged,
    MatchingResult,
    make_pairs,
)
from fhe_inhibitor.experiments.plan import read_plan, run_plan
from fhe_inhibitor.experiments.report import write_report
from fhe_inhibitor.model.from_distilbert import from_distilbert
from tests.observers import Recording, interrupt_at
from tests.tiny_teacher import save_teacher, tiny_teacher

torch.set_num_threads(1)  # tensors here are too small to share

pytest.importorskip("accelerate")

SUBJECTS = ("the film", "this movie", "her story", "his acting", "our ending", "that music")
SENTENCES = [
    f"{subject} about {n} people with hope{n} is never dull{n}"
    for n in range(10)
    for subject in SUBJECTS
]
N_PAIRS = len(SENTENCES) // 3


@pytest.mark.parametrize("exchanged", ["word", "sentence"])
def test_every_other_pair_has_something_exchanged(exchanged: Exchanged) -> None:
    pairs = make_pairs(SENTENCES, exchanged, N_PAIRS, seed=0)
    assert [pair.label for pair in pairs] == [0, 1] * (N_PAIRS // 2)
    read: list[str] = []
    for pair in pairs:
        first, second = pair.texts
        both = [text for text in SENTENCES if text in first]
        assert first in (" ".join(both), " ".join(both[::-1]))
        assert (second in both) == (pair.label == 0)
        read += both
    assert max(Counter(read).values()) == 1
    assert pairs == make_pairs(SENTENCES, exchanged, N_PAIRS, seed=0)
    assert pairs != make_pairs(SENTENCES, exchanged, N_PAIRS, seed=1)


def test_one_longer_word_is_exchanged_for_one_that_the_first_text_lacks() -> None:
    for pair in make_pairs(SENTENCES, "word", N_PAIRS, seed=0)[1::2]:
        first, words = pair.texts[0], pair.texts[1].split()
        (new,) = (word for word in words if word not in first.split())
        assert len(new) >= EXCHANGED_LETTERS
        place = words.index(new)
        (own,) = (
            text.split()
            for text in SENTENCES
            if text in first
            and [w for w in text.split() if w not in words] == [text.split()[place]]
        )
        assert len(own[place]) >= EXCHANGED_LETTERS
        assert own[:place] + own[place + 1 :] == words[:place] + words[place + 1 :]


def test_sentences_that_are_too_few_or_the_same_are_refused() -> None:
    short = [f"a b c d e f g {n}" for n in range(30)]
    message = "20 pairs take 60 different sentences of 8 to 20 words; the text has "
    with pytest.raises(InputError, match=message + "59"):
        make_pairs(SENTENCES[1:], "word", 20, seed=0)
    with pytest.raises(InputError, match=message + "60"):  # but some have no word to exchange
        make_pairs([*SENTENCES[:30], *short], "word", 20, seed=0)
    with pytest.raises(InputError, match=message + "2"):
        make_pairs([*SENTENCES[:1], *SENTENCES[:1], SENTENCES[1], "too short"], "word", 20, seed=0)


def test_a_plan_lets_all_learn_and_goes_on(tmp_path: Path) -> None:
    words = {word for text in SENTENCES for word in text.split()}
    teacher = tiny_teacher(more_words=sorted(words), initializer_range=0.2, dropout=0.0)
    save_teacher(teacher, tmp_path / "teacher")
    student = from_distilbert(teacher.model, "inhibitor_signed")
    student.save_pretrained(tmp_path / "student")
    teacher.tokenizer.save_pretrained(tmp_path / "student")
    (tmp_path / "sentences.txt").write_text("\n".join(SENTENCES))
    settings: dict[str, Any] = {
        "teacher": str(tmp_path / "teacher"), "student": str(tmp_path / "student"),
        "text": str(tmp_path / "sentences.txt"), "n_pairs": 12, "n_measured": 6, "steps": 3,
        "layer_steps": 1, "aligned_steps": 2,
        "learning_rate": 0.01,
    }  # fmt: skip
    entry = {"name": "matching", "kind": "matching", "settings": settings}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"experiments": [entry]}))
    plan, folders = read_plan(tmp_path / "plan.yaml"), (tmp_path / "work", tmp_path / "results")
    observer = Recording()
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, *folders, observer=interrupt_at("task", 1))
    (path,) = run_plan(plan, *folders, observer=observer)
    assert observer.steps == ["task", "layers, layer 0", "layers, layer 1", "task"]
    assert [p.name for p in (tmp_path / "work" / "matching" / "only").iterdir()] == ["result.json"]
    result = MatchingResult.model_validate_json(path.read_text())
    learners = ["teacher", "task-agnostic", "aligned"]
    assert [row.recipe for row in result.rows if row.metric == "score"] == learners
    assert {row.task for row in result.rows} == {"one word exchanged"}
    assert all(row.value * 6 == pytest.approx(round(row.value * 6)) for row in result.rows)
    assert list(result.seconds) == learners
    page = write_report(folders[1], tmp_path / "docs")
    section = page[page.index("Comparing two texts") :]
    assert "| recipe | one word exchanged |" in section
    assert all(section.count(f"| {learner} | ") == 1 for learner in learners)
