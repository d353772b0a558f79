"""The ablation: what its trials change, a run at a tiny size, and the page."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from demos.ablation.measure import Laboratory
from demos.ablation.page import to_markdown
from demos.ablation.results import ALL_TOKENS, TEACHER, WORDS, KeptResults, Results, Row
from demos.ablation.trials import BASE, BASE_INTEGERS, NOISE, TOKENS, list_trials
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.model.configuration import InhibiDistilBertConfig
from fhe_inhibitor.system.machine import describe_machine
from fhe_inhibitor.training import distillation
from fhe_inhibitor.training.hyperparameters import SIZES, Recipe, Size
from fhe_inhibitor.training.material import make_material
from tests.fhe_inhibitor.training.test_recipe import write_texts
from tests.observers import Recorder
from tests.tiny_teacher import save_teacher, tiny_teacher

torch.set_num_threads(1)  # tensors here are too small to share


@pytest.mark.parametrize("name", ["nano", "small"])
def test_each_trial_is_another_student_that_can_be_made(name: str) -> None:
    trials = list_trials(SIZES[name])
    assert len({trial.name for trial in trials}) == len(trials)
    made = []
    for trial in trials:
        size = trial.size(SIZES[name], 20, 10)
        InhibiDistilBertConfig(vocab_size=1, **size.student)  # raises unless all of it fits
        steps = round(trial.steps * (10 if trial.integers else 20))
        assert size.distillation.steps == steps
        made.append((asdict(size), trial.texts, trial.seed))
    assert all(one not in made[:i] for i, one in enumerate(made))


def test_layers_are_added_before_the_last_one() -> None:
    deeper = next(trial for trial in list_trials(SIZES["nano"]) if trial.name == "3 layers")
    student = deeper.size(SIZES["nano"], 1, 1).student
    assert student["attention_window"] == [1, 1, 0]
    assert student["quantization"]["keys_per_sum"] == [0, 0, 4]
    assert student["n_layers"] == len(student["value_head_dim"]) == 3


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    teacher = save_teacher(tiny_teacher(initializer_range=0.3), tmp_path / "teacher")
    data = write_texts(tmp_path / "words")
    nano = SIZES["nano"]
    student = nano.student | {"dim": 6, "value_head_dim": [1, 2]}
    size = Size(student, replace(nano.distillation, batch_size=16), embedding_width=8)
    return Recipe(str(data), str(teacher), held_out=9, n_texts=120, n_phrases=3, size=size)


def test_a_laboratory_trains_each_student_once(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    material = make_material(recipe, tmp_path / "work")
    steps, first, again = (2, 2), Recorder(), Recorder()
    monkeypatch.setattr(distillation, "CHECKPOINT_STEPS", 1)
    trials = {trial.name: trial for trial in list_trials(recipe.size)}
    lab = Laboratory(recipe, material, tmp_path / "students", steps, 2, first)
    base = lab.measure(trials[BASE])
    assert base.units is not None and base.units > 1e9
    monkeypatch.setattr(Laboratory, "_units", lambda *_: 1e9)  # a second each
    integers = lab.measure(trials[BASE_INTEGERS])
    quieter = lab.measure(trials["trained without noise"])
    assert first.planned("steps") == 2 + 2 + 2  # the float student was there after the first
    assert integers.measured[12] != integers.exact[12]
    assert quieter.measured[12] != quieter.exact[12]  # noise is drawn, though it learned without
    assert not base.exact
    assert list(base.measured) == list(TOKENS)

    words, teacher = lab.measure_words(), lab.measure_teacher()
    # The longest text has 12 tokens: who reads 12 reads all, as the teacher's own row does.
    assert teacher.measured[24] == teacher.measured[ALL_TOKENS]
    assert teacher.measured[ALL_TOKENS]["validation"].divergence == pytest.approx(0, abs=1e-6)
    assert teacher.measured[8]["validation"].divergence > 0
    assert words.units == 0

    repeated = Laboratory(recipe, material, tmp_path / "students", steps, 2, again)
    assert repeated.measure(trials[BASE_INTEGERS]) == integers
    assert again.planned("steps") == 0

    page = to_markdown(results({TEACHER: teacher, BASE: base, BASE_INTEGERS: integers}))
    assert "| teacher, the tokens that the student reads |" in page
    assert f"{100 * integers.measured[12]['held_out'].accuracy.value:.1f}" in page
    assert "| its integers, rounded exactly |" in page
    assert "## Noise" not in page  # nothing was measured of it
    page = to_markdown(results({BASE_INTEGERS: integers, "trained without noise": quieter}))
    assert page.index("## Noise") < page.index("| trained without noise |")
    assert WORDS not in page


def results(rows: dict[str, Row]) -> Results:
    return Results(
        size="nano", tokens=12, float_steps=3, integer_steps=2, draws=2,
        machine=describe_machine(()), rows=rows,
    )  # fmt: skip


def test_results_are_kept_and_not_mixed_with_others(tmp_path: Path) -> None:
    path = tmp_path / "ablation.json"
    kept = KeptResults(path, results({}))
    kept.add("bag of words", Row(group="capacity", measured={}, units=0.0))
    assert "bag of words" in KeptResults(path, results({})).found.rows
    longer = results({}).model_copy(update={"float_steps": 4})
    with pytest.raises(InputError, match="made with float_steps 3, asked for is 4"):
        KeptResults(path, longer)
    path.write_text("{")
    with pytest.raises(InputError, match="can't be read as results of demos.ablation"):
        KeptResults(path, results({}))


def test_the_noise_of_all_trials_is_the_configuration_s() -> None:
    assert NOISE not in SIZES["nano"].student["quantization"]
    assert NOISE not in SIZES["small"].student["quantization"]
