"""Joined sentences: what is read and derived from; hidden states by length, plan and page."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.experiments.data import ExperimentData, join_sentences, load_data
from fhe_inhibitor.experiments.lengths import LengthsResult, errors_by_length, run_lengths
from fhe_inhibitor.experiments.lengths_table import describe_lengths
from fhe_inhibitor.experiments.plan import expand, read_plan, run_plan
from fhe_inhibitor.experiments.record import Result, check_folder
from fhe_inhibitor.experiments.report import write_report
from fhe_inhibitor.experiments.settings import Experiment, read_experiment
from fhe_inhibitor.model.from_distilbert import from_distilbert
from fhe_inhibitor.text.alteration import alter
from fhe_inhibitor.text.tasks import UNKNOWN, Example, find_task
from fhe_inhibitor.training.rows import TokenRow, encode_examples
from tests.conftest import REPOSITORY
from tests.fhe_inhibitor.experiments.test_run import write_task
from tests.observers import Recording, interrupt_at
from tests.tiny_teacher import save_teacher, tiny_teacher

torch.set_num_threads(1)  # tensors here are too small to share

pytest.importorskip("accelerate")

SENTENCES = [f"a {'very ' * (n % 10)}fine film ." for n in range(40)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of the kind `lengths`: a random teacher, sentences, both tasks."""
    root = tmp_path_factory.mktemp("lengths")
    save_teacher(tiny_teacher(initializer_range=0.2, dropout=0.0), root / "teacher")
    (root / "sentences.txt").write_text("\n".join(SENTENCES))
    (root / "data").mkdir()
    write_task(root / "data" / "sst2")
    (root / "data" / "rte").mkdir()
    pairs = [f"{n % 2}\t{'a fine film , ' * n}not dull\ta poor film" for n in range(1, 9)]
    for name in ("train.tsv", "dev.tsv"):
        text = "\n".join(["label\tsentence1\tsentence2", *pairs])
        (root / "data" / "rte" / name).write_text(text)
    return {
        "teacher": str(root / "teacher"), "text": str(root / "sentences.txt"),
        "data": str(root / "data"),
    }  # fmt: skip


def load(base: dict[str, Any], **changes: Any) -> ExperimentData:
    settings = {**base, "data": f"{base['data']}/sst2", "task": "sst2", "recipe": "task-agnostic"}
    experiment = Experiment.model_validate({**settings, **changes})
    return load_data(experiment, find_task("sst2"), tiny_teacher().tokenizer)


def test_each_sentence_is_in_one_example() -> None:
    examples = join_sentences(SENTENCES, 4, seed=1)
    words = [word for e in examples for text in e.texts for word in text.split()]
    assert Counter(words) == Counter(" ".join(SENTENCES).split())
    sizes = [sum(text.count(".") for text in example.texts) for example in examples]
    assert set(sizes) == {1, 2, 3, 4} and sum(sizes) == len(SENTENCES)
    assert all(len(e.texts) == min(n, 2) for e, n in zip(examples, sizes, strict=True))
    assert all(e.texts[-1] in SENTENCES and e.label != e.label for e in examples)
    assert str(examples) == str(join_sentences(SENTENCES, 4, seed=1))
    assert str(examples) != str(join_sentences(SENTENCES, 4, seed=2))


def test_a_phase_that_reads_text_gets_joined_sentences(base: dict[str, Any]) -> None:
    """The task's examples stay as they are, and without the setting so does the text."""
    one, many = load(base), load(base, joined=4)
    layers, _, task = one.experiment.changed_recipe().phases
    assert one.phase_rows(task) == many.phase_rows(task)
    single, joined = one.phase_rows(layers), many.phase_rows(layers)
    assert len(single) == 40 and len(joined) < 30
    assert {row.ids.count(3) for row in single} == {1}
    assert {row.ids.count(3) for row in joined} == {1, 2}
    tokens = [sum(len(row.ids) - 1 - row.ids.count(3) for row in rows) for rows in (single, joined)]
    assert tokens[0] == tokens[1]


def test_a_start_is_derived_from_what_the_first_phase_reads(base: dict[str, Any]) -> None:
    one, many = load(base), load(base, joined=4)
    layers, _, task = one.experiment.changed_recipe().phases
    assert one.derivation_ids((layers, task), 5) == one.calibration_ids(5)
    assert many.derivation_ids((task, layers), 5) == one.calibration_ids(5)
    assert many.derivation_ids((), 5) == one.calibration_ids(5)
    assert many.derivation_ids((layers,), 5) == [row.ids for row in many.phase_rows(layers)[:5]]


def test_texts_and_pairs_may_be_mixed() -> None:
    tokenizer = tiny_teacher().tokenizer
    mixed = [Example(("a film",), 1), Example(("fine", "poor"), UNKNOWN), Example(("dull",), 0)]
    alone = [encode_examples(tokenizer, [example])[0] for example in mixed]
    together = encode_examples(tokenizer, mixed)
    assert [row.ids for row in together] == [row.ids for row in alone]
    assert [row.label for row in together][::2] == [1, 0]
    assert encode_examples(tokenizer, []) == []
    altered = alter(mixed, 9, seed=0)
    assert [len(example.texts) for example in altered] == 9 * [1] + 9 * [2] + 9 * [1]


def test_joined_sentences_need_a_file() -> None:
    changes = {"recipe": "task-agnostic", "task": "rte", "joined": 3}
    with pytest.raises(InputError, match="setting 'joined': 3 joined sentences need a file of"):
        read_experiment(None, changes)
    with pytest.raises(InputError, match="setting 'joined': input should be greater than 0"):
        read_experiment(None, {**changes, "text": "a", "joined": 0})


def test_results_and_folders_of_before_are_still_read(tmp_path: Path) -> None:
    """They lack the newer settings, which were then as their defaults are."""
    path = REPOSITORY / "docs" / "experiments" / "layers" / "0.json"
    experiment = Result.model_validate_json(path.read_text()).experiment
    assert experiment.joined == 1
    older = experiment.model_dump(mode="json", exclude={"joined"})
    (tmp_path / "experiment.json").write_text(json.dumps(older))
    check_folder(tmp_path, experiment)
    with pytest.raises(InputError, match="another experiment: joined was 1, now 2"):
        check_folder(tmp_path, experiment.model_copy(update={"joined": 2}))


@torch.no_grad()
def test_the_error_of_each_length_is_that_of_a_loop() -> None:
    teacher = tiny_teacher(initializer_range=0.2, dropout=0.0)
    reference = from_distilbert(teacher.model).eval()
    student = from_distilbert(teacher.model, "inhibitor_signed").eval()
    rows = [TokenRow([2, *[5 + i % 9 for i in range(n)], 3], 0) for n in (3, 30, 5, 40)]
    found = {
        (value["more_than"], value["layer"]): value
        for value in errors_by_length(student, reference, rows)
    }
    assert set(found) == {(least, layer) for least in (0, 24) for layer in (0, 1)}
    for (least, layer), value in found.items():
        here = [row for row in rows if least == (24 if len(row.ids) > 24 else 0)]
        assert value["n_texts"] == len(here) == 2
        error = square = 0.0
        for row in here:
            own, wanted = (
                model(torch.tensor([row.ids]), output_hidden_states=True).hidden_states[layer + 1]
                for model in (student, reference)
            )
            error += float((own - wanted).square().mean())
            square += float(wanted.square().mean())
        assert value["error"] == pytest.approx(error / square, rel=1e-4)
    assert {value["error"] for value in errors_by_length(reference, reference, rows)} == {0}


def test_a_plan_compares_both_students_and_goes_on(base: dict[str, Any], tmp_path: Path) -> None:
    entry = {"name": "lengths", "kind": "lengths", "settings": {**base, "joined": 3, "steps": 2}}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"experiments": [entry]}))
    plan, folders = read_plan(tmp_path / "plan.yaml"), (tmp_path / "work", tmp_path / "results")
    stopped, observer = 0, Recording()
    try:
        run_plan(plan, *folders, observer=interrupt_at("layers, layer 1", 1))
    except KeyboardInterrupt:
        stopped = 1
    (path,) = run_plan(plan, *folders, observer=observer)
    steps = ["layers, layer 0", "layers, layer 1"]
    assert stopped and observer.steps == ["layers, layer 1", *steps]
    assert [p.name for p in (tmp_path / "work" / "lengths" / "only").iterdir()] == ["result.json"]
    result = LengthsResult.model_validate_json(path.read_text())
    found = {(r.recipe, r.task, r.settings["more_than"], r.settings["layer"]) for r in result.rows}
    assert found == {
        (student, task, least, layer)
        for student in ("single", "joined")
        for task, least in (("sst2", 0), ("rte", 0), ("rte", 24))
        for layer in (0, 1)
    }
    assert result.n_tokens["joined"] > result.n_tokens["single"] > result.n_tokens["sst2"]
    single, joined = ([r.value for r in result.rows if r.recipe == n] for n in ("single", "joined"))
    assert single != joined and all(0 < value < 10 for value in single + joined)
    page = write_report(folders[1], tmp_path / "docs")
    section = page[page.index("Hidden states by length of text") :]
    assert "2 steps of each layer" in section and section.count("| rte | ") == 2


def test_the_table_has_both_layers_and_says_what_the_ends_are() -> None:
    def row(student: str, least: int, most: int, layer: int, value: float) -> dict[str, Any]:
        place = {"layer": layer, "more_than": least, "up_to": most, "n_texts": 7}
        return {"recipe": student, "task": "rte", "seed": 0, "value": value, "settings": place}

    def result(seed: float) -> dict[str, Any]:
        rows = [
            row(student, least, most, layer, layer / 4 + (least > 0) / 8 + seed + joined / 16)
            for joined, student in enumerate(("single", "joined"))
            for least, most in ((0, 24), (24, 48))
            for layer in (0, 1, 2)
        ]
        n_tokens = {"sst2": 9.0, "rte": 30.5, "single": 12.0, "joined": 40.0}
        return {"rows": rows, "experiment": {"steps": 5, "joined": 3}, "n_tokens": n_tokens}

    said, *lines = describe_lengths([result(0.0), result(0.25)]).split("\n\n")
    assert said.endswith("40 in the joined ones, 9 in sst2 and 30.5 in rte.")
    table = lines[0].splitlines()
    assert table[0].endswith("| last layer, single sentences | last layer, joined sentences |")
    assert table[2:] == [
        "| rte | 1 to 24 | 7 | 0.125 | 0.188 | 0.625 | 0.688 |",
        "| rte | 25 to 48 | 7 | 0.250 | 0.312 | 0.750 | 0.812 |",
    ]
    assert lines[1].startswith("With 1 to 24 tokens of rte, the error of the last layer is 62%")
    assert "With 25 to 48 tokens of rte, the error of the last layer is 75%" in lines[1]


def test_tasks_are_compared_at_equal_length() -> None:
    """Of two lengths that both have, rte is further off at one, and of joined sentences at none."""
    errors = {
        ("sst2", 0): (0.2, 0.3), ("sst2", 24): (0.3, 0.3),
        ("rte", 0): (0.3, 0.2), ("rte", 24): (0.2, 0.3), ("rte", 48): (0.9, 0.9),
    }  # fmt: skip
    rows = [
        {
            "recipe": student, "task": task, "value": value,
            "settings": {"layer": 0, "more_than": least, "up_to": 2 * least or 24, "n_texts": 3},
        }
        for (task, least), values in errors.items()
        for student, value in zip(("single", "joined"), values, strict=True)
    ]  # fmt: skip
    n_tokens = {"sst2": 9.0, "rte": 30.5, "single": 12.0, "joined": 40.0}
    result = {"rows": rows, "experiment": {"steps": 5, "joined": 3}, "n_tokens": n_tokens}
    assert (
        "rte has the larger error than sst2 in 1 of 2 rows after single sentences and in 0 after"
        in describe_lengths([result])
    )


def test_data_that_is_missing_is_refused(base: dict[str, Any], tmp_path: Path) -> None:
    plan = read_plan(REPOSITORY / "demos" / "experiments.yaml")
    (entry,) = (entry for entry in plan.experiments if entry.name == "lengths")
    ((_, experiment),) = expand(plan, entry, tmp_path)
    wrong = experiment.model_copy(update={"teacher": base["teacher"], "data": "/nowhere"})
    with pytest.raises(InputError, match="/nowhere/sst2 is no folder"):
        run_lengths(wrong, tmp_path / "out")
    assert not (tmp_path / "out").exists()
