"""Small experiments: targets and measures against other ways to get them; runs, plan and page."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.experiments.one_layer_table import describe_one_layer
from fhe_inhibitor.experiments.plan import Entry, Plan, run_plan
from fhe_inhibitor.experiments.small import OneLayer, Vision, run_one_layer, run_vision
from fhe_inhibitor.experiments.small_tasks import (
    ctc_loss,
    edit_distance,
    find_small_task,
    mean_edits,
    read_letters,
)

SHORT = {"teacher_steps": 3, "student_steps": 3, "n_layers": 2}


def test_the_sum_of_the_marked_numbers_is_the_target() -> None:
    loaded = find_small_task("adding").load(None)
    numbers, marks = loaded.test.x[:50].unbind(dim=-1)
    assert (marks.sum(dim=1) == 2).all()
    expected = [sum(row[mark == 1].tolist()) for row, mark in zip(numbers, marks, strict=True)]
    np.testing.assert_allclose(loaded.test.y[:50], expected, atol=1e-6)
    always_one = torch.ones(len(loaded.test), 1)
    assert loaded.score(always_one, loaded.test.y) == pytest.approx(1 / 6, rel=0.1)


def test_letters_are_read_without_repeats_and_blanks() -> None:
    outputs = torch.nn.functional.one_hot(torch.tensor([[0, 2, 2, 0, 2, 1, 1, 0]]), 3).float()
    assert read_letters(outputs) == [[2, 2, 1]]
    assert mean_edits(outputs, torch.tensor([[2, 1, 0]])) == 1


def test_the_loss_of_ctc_is_that_of_all_alignments() -> None:
    outputs = torch.randn(1, 3, 3, generator=torch.manual_seed(0))
    wanted, total = [1, 2], 0.0
    for path in product(range(3), repeat=3):
        aligned = [x for i, x in enumerate(path) if x and (i == 0 or x != path[i - 1])]
        if aligned == wanted:
            total += float(outputs[0].softmax(dim=-1)[torch.arange(3), list(path)].prod())
    loss = ctc_loss(outputs, torch.tensor([[1, 2, 0]])).item()
    assert loss == pytest.approx(-np.log(total) / 2, rel=1e-5)  # torch divides by the letters


@pytest.mark.parametrize(
    ("found", "wanted", "edits"),
    [("", "abc", 3), ("abc", "", 3), ("abc", "abc", 0), ("ac", "abc", 1), ("flaw", "lawn", 2)],
)
def test_edit_distances_by_hand(found: str, wanted: str, edits: int) -> None:
    assert edit_distance([*map(ord, found)], [*map(ord, wanted)]) == edits


def test_reviews_are_read_from_a_folder(tmp_path: Path) -> None:
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / name).write_text("label\tsentence\n1\tfine, fine film\n0\tdull\n")
    loaded = find_small_task("imdb").load(str(tmp_path))
    assert loaded.train.x[:, :4].tolist() == [[2, 2, 4, 0], [3, 0, 0, 0]]
    mask = loaded.mask_of(loaded.train.x)
    assert mask is not None and mask.sum(dim=1).tolist() == [3, 1]
    assert loaded.train.y.tolist() == [1, 0]


def test_the_same_seed_gives_the_same_score(tmp_path: Path) -> None:
    experiment = OneLayer(task="digits", attention_kind="inhibitor", seed=3, steps=4)
    results = [run_one_layer(experiment, tmp_path / name) for name in ("a", "b")]
    assert results[0].rows == results[1].rows
    assert (results[0].n_train, results[0].n_test) == (1437, 360)
    kept = json.loads((tmp_path / "a" / "result.json").read_text())
    assert kept["rows"][0]["settings"] == {"attention_kind": "inhibitor"}


def test_a_vision_student_is_compared_with_its_teacher(tmp_path: Path) -> None:
    result = run_vision(Vision.model_validate(SHORT), tmp_path)
    assert [row.recipe for row in result.rows] == ["teacher", "distilled", "from labels"]
    assert set(result.seconds) == {"teacher", "distilled", "from labels"}


def test_a_plan_holds_small_experiments(tmp_path: Path) -> None:
    settings = {"task": "digits", "steps": 2}
    each = {"attention_kind": ["dot_product", "inhibitor"], "seed": [0, 1]}
    entry = Entry(name="one-layer", kind="one-layer", settings=settings, each=each)
    paths = run_plan(Plan(data="none", experiments=[entry]), tmp_path / "w", tmp_path / "r")
    assert [path.stem for path in paths] == [
        "dot_product-0", "dot_product-1", "inhibitor-0", "inhibitor-1",
    ]  # fmt: skip
    table = describe_one_layer([json.loads(path.read_text()) for path in paths])
    assert "| digits, in the place of MNIST | scikit-learn's digits; 1,437 to train on" in table
    assert table.count("2 seeds") == 2 and "98.2% | 97.9%" in table
    wrong = Entry(name="x", kind="magic")
    with pytest.raises(InputError, match="of kind 'magic'; wanted distillation, .*one-layer"):
        run_plan(Plan(experiments=[wrong]), tmp_path, tmp_path)
    unknown = Entry(name="x", kind="vision", settings={"depth": 3})
    with pytest.raises(InputError, match="setting 'depth'"):
        run_plan(Plan(experiments=[unknown]), tmp_path, tmp_path)


def test_the_table_says_which_means_differ() -> None:
    def result(task: str, kind: str, seed: int, value: float) -> dict[str, object]:
        row = {"task": task, "seed": seed, "value": value, "settings": {"attention_kind": kind}}
        return {"rows": [row], "source": "made", "n_train": 9, "n_test": 8}

    adding = [("dot_product", (0.001, 0.0011)), ("inhibitor", (0.002, 0.0021))]
    digits = [("dot_product", (0.9, 0.95)), ("inhibitor", (0.94, 0.91))]
    found = [
        result(task, kind, seed, value)
        for task, of_kind in (("digits", digits), ("adding", adding))
        for kind, values in of_kind
        for seed, value in enumerate(values)
    ]
    lines = describe_one_layer(found).splitlines()
    assert lines[-1] == "Different at 5%: adding (the dot product is better)."
    row = next(line for line in lines if line.startswith("| adding |"))
    assert "0.105% (0.041% to 0.169%; 2 seeds)" in row
    assert row.endswith("| 0.11% | 0.12% |")


def test_unknown_tasks_and_missing_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no task 'cifar'; wanted one of adding"):
        run_one_layer(OneLayer(task="cifar", attention_kind="inhibitor"), tmp_path)
    with pytest.raises(InputError, match="read from a folder"):
        run_one_layer(OneLayer(task="iam", attention_kind="inhibitor"), tmp_path)
