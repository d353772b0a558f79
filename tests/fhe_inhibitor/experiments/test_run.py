"""Distillation of a tiny teacher on made-up texts: what learns, what resumes, what is refused."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertForSequenceClassification, BertModel, DistilBertModel

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.experiments.record import Result, check_inputs
from fhe_inhibitor.experiments.run import run
from fhe_inhibitor.experiments.settings import Experiment, read_experiment
from fhe_inhibitor.model.from_distilbert import from_distilbert
from fhe_inhibitor.text.tasks import find_task, load_task
from fhe_inhibitor.training.phases import last_whole_checkpoint
from fhe_inhibitor.training.rows import encode_examples, measure_rows
from fhe_inhibitor.training.teacher import Teacher, load_teacher
from tests.conftest import REPOSITORY
from tests.observers import Recording, interrupt_at
from tests.tiny_teacher import save_teacher, tiny_teacher

torch.set_num_threads(1)  # tensors here are too small to share

pytest.importorskip("accelerate")

STARTS = ("a", "a very", "not a", "film ,", "very", "not")
ENDS = ("", ".", ", a film", "film", "film .", ", not dull", "and", "a a a")
WORDS = (("fine", 1), ("poor", 0), ("dullish", 0), ("very fine", 1))
PHASES: dict[str, dict[str, Any]] = {
    "layers": {"max_steps": 30, "min_steps": 30, "batch_size": 16, "learning_rate": 0.01},
    "hidden": {"max_steps": 30, "min_steps": 30, "batch_size": 16, "learning_rate": 0.005},
    "task": {"max_steps": 40, "min_steps": 40, "batch_size": 16, "learning_rate": 0.003},
}


OWN_LABELS = ("bad", "so-so", "good")


def write_task(folder: Path, words: Sequence[tuple[str, int]] = WORDS) -> Path:
    folder.mkdir()
    lines = [
        f"{label}\t{start} {word} {end}".strip()
        for start in STARTS
        for end in ENDS
        for word, label in words
    ]
    random.Random(0).shuffle(lines)
    for name, chosen in (("train", lines[:144]), ("dev", lines[144:])):
        text = "\n".join(["label\tsentence", *chosen]) + "\n"
        (folder / f"{name}.tsv").write_text(text)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a small task: SST-2's columns, and a random teacher with a classifier."""
    folder = tmp_path_factory.mktemp("distil")
    teacher = save_teacher(tiny_teacher(initializer_range=0.2, dropout=0.0), folder / "teacher")
    data = write_task(folder / "data")
    return {
        "task": "cola", "teacher": str(teacher), "data": str(data), "log_steps": 5,
        "save_steps": 10,
    }  # fmt: skip


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a task of one's own: three classes, and a random teacher of as many."""
    folder = tmp_path_factory.mktemp("own")
    weights = {"initializer_range": 0.2, "dropout": 0.0, "num_labels": len(OWN_LABELS)}
    teacher = save_teacher(tiny_teacher(**weights), folder / "teacher")
    data = write_task(folder / "data", (("fine", 2), ("poor", 0), ("dullish", 1), ("very fine", 2)))
    return {
        "labels": OWN_LABELS, "teacher": str(teacher), "data": str(data), "log_steps": 5,
        "save_steps": 10,
    }  # fmt: skip


def make(base: dict[str, Any], recipe: str, **changes: Any) -> Experiment:
    names = {"task-agnostic": PHASES, "teacher": {"teacher": PHASES["task"]}}
    phases = names.get(recipe, {"task": PHASES["task"]})
    if recipe == "aligned":
        phases = {**phases, "layers": PHASES["layers"]}
    return Experiment(**{**base, "recipe": recipe, "phases": phases, **changes})


@pytest.mark.slow
def test_a_bert_teaches_a_student_by_the_same_command(base: dict[str, Any], tmp_path: Path) -> None:
    """It keeps its own classifier, or is fine-tuned first if it has none; the head is BERT's."""
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(
        vocab_size=15, intermediate_size=64, initializer_range=0.2, hidden_dropout_prob=0.0, **shape
    )
    torch.manual_seed(0)
    tokenizer = tiny_teacher().tokenizer
    for name, model in (
        ("tuned", BertForSequenceClassification(config)),
        ("headless", BertModel(config)),
    ):
        save_teacher(Teacher(model.eval(), tokenizer), tmp_path / name)
    made = {"teacher": PHASES["task"], "layers": PHASES["layers"], "task": PHASES["task"]}
    scores = {}
    for name in ("tuned", "headless"):
        bert = make(base, "aligned", teacher=str(tmp_path / name), phases=made)
        result = run(bert, tmp_path / f"{name} student")
        scores[name] = {row.recipe: row.value for row in result.rows if row.metric == "score"}
        student = json.loads((tmp_path / f"{name} student" / "config.json").read_text())
        assert student["head_activation"] == "tanh" and student["n_layers"] == 2
        assert student["attention_kind"] == "inhibitor_signed"
        assert ("teacher" in result.phase_s) == (name == "headless")
    given = load_teacher(tmp_path / "tuned")
    task = find_task("cola")
    rows = encode_examples(given.tokenizer, load_task(task, Path(base["data"]))["validation"])
    own = measure_rows(given.model, task, rows)["score"]
    assert scores["tuned"]["teacher"] == pytest.approx(own)
    assert scores["headless"]["teacher"] > 0.6 and scores["headless"]["aligned"] > 0.4, scores


def journal(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def agnostic(base: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished task-agnostic run."""
    out = tmp_path_factory.mktemp("agnostic") / "student"
    run(make(base, "task-agnostic"), out)
    return out


def test_a_student_has_its_task_s_labels(agnostic: Path) -> None:
    """Its teacher called them LABEL_0 and LABEL_1."""
    config = json.loads((agnostic / "config.json").read_text())
    assert config["id2label"] == {"0": "unacceptable", "1": "acceptable"}


def test_a_general_student_learns_any_task(
    agnostic: Path, own: dict[str, Any], tmp_path: Path
) -> None:
    """Its encoder does; whoever doesn't learn the task last wants a student of the same task."""
    settings = make(own, "task-agnostic", student=str(agnostic)).model_dump()
    settings["phases"] = {**settings["phases"], "layers": {"max_steps": 0}}
    result = run(Experiment(**settings), tmp_path / "student")
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    assert config["id2label"] == {str(index): name for index, name in enumerate(OWN_LABELS)}
    weights = load_file(tmp_path / "student" / "model.safetensors")
    assert len(weights["classifier.weight"]) == len(OWN_LABELS)
    assert {row.task for row in result.rows} == {"own"}
    with pytest.raises(InputError, match="has 2 outputs; wanted 3"):
        run(make(own, "task-specific", student=str(agnostic)), tmp_path / "other")


def test_own_labels_give_a_student_of_as_many(own: dict[str, Any], tmp_path: Path) -> None:
    run(make(own, "teacher"), tmp_path / "teacher")
    tuned = make(own, "aligned", teacher=str(tmp_path / "teacher"))
    result = run(tuned, tmp_path / "student")
    for folder in ("teacher", "student"):
        config = json.loads((tmp_path / folder / "config.json").read_text())
        assert config["id2label"] == {str(index): name for index, name in enumerate(OWN_LABELS)}
    scores = {row.recipe: row.value for row in result.rows if row.metric == "accuracy"}
    # Half of the texts are of the most frequent class.
    assert scores["teacher"] > 0.8 and scores["aligned"] > 0.7, scores
    assert {row.task for row in result.rows} == {"own"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": "cola"}, "the task cola has labels of its own"),
        ({"labels": ["good"]}, "labels 'good' name no classes"),
        ({"labels": ["good", "good"]}, "each once"),
        ({"labels": ["good", " "]}, "name no classes"),
        ({"labels": ["bad", "good"]}, "has 3 outputs; wanted 2: bad, good"),
        ({"labels": [*OWN_LABELS, "superb"]}, "has 3 outputs; wanted 4"),
        ({"data": None}, "pass their folder as --data"),
        ({"labels": None, "task": "own"}, "no task 'own'"),
    ],
)
def test_own_labels_that_fit_nothing_are_refused(
    own: dict[str, Any], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        run(make({**own, **changes}, "aligned"), tmp_path / "student")
    assert not (tmp_path / "student").exists()


def test_a_class_without_a_name_is_named_with_its_line(
    own: dict[str, Any], base: dict[str, Any], tmp_path: Path
) -> None:
    experiment = make(own, "aligned", labels=("bad", "good"), teacher=base["teacher"])
    with pytest.raises(InputError, match=r"line \d+: label '2'; wanted an integer from 0 to 1"):
        run(experiment, tmp_path / "student")


def test_the_loss_of_each_layer_falls(agnostic: Path) -> None:
    rows = journal(agnostic)
    for layer in range(2):
        here = [row for row in rows if row["phase"] == "layers" and row["layer"] == layer]
        errors = [row["held_out"] for row in here]
        assert [row["step"] for row in here] == [0, 5, 10, 15, 20, 25, 30]
        assert errors[-1] < 0.8 * errors[0] and here[-1]["loss"] < here[1]["loss"]
    hidden = [row for row in rows if row["phase"] == "hidden"]
    for name in ("hidden.0", "hidden.1"):
        assert hidden[-1][name] < hidden[0][name]


def test_a_run_leaves_a_model_that_transformers_loads_and_its_figures(agnostic: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    assert not (agnostic / "work").exists()
    result = Result.model_validate_json((agnostic / "result.json").read_text())
    assert {(row.recipe, row.metric) for row in result.rows} == {
        ("task-agnostic", "matthews"),
        ("task-agnostic", "score"),
    }
    assert len(result.initial) == 2 and set(result.phase_s) == {"layers", "hidden", "task"}
    assert result.rows[0].value > 0.5
    model = AutoModelForSequenceClassification.from_pretrained(agnostic)
    tokenizer = AutoTokenizer.from_pretrained(agnostic)
    ids = tokenizer("a fine film", return_tensors="pt")["input_ids"]
    assert model(ids).logits.argmax() == 1


@pytest.mark.parametrize("learn", [True, False])
def test_the_first_phase_trains_nothing_but_what_it_says(
    base: dict[str, Any], tmp_path: Path, learn: bool
) -> None:
    """Q, K, V and the thresholds of both layers move; nothing else does, by not one bit."""
    nothing = {name: {"max_steps": 0, "min_steps": 0} for name in ("hidden", "task")}
    phases = {**nothing, "layers": PHASES["layers"]}
    experiment = make(
        base, "task-agnostic", phases=phases, initial="default", learn_thresholds=learn
    )
    run(experiment, tmp_path / "student")
    after = load_file(tmp_path / "student" / "model.safetensors")
    teacher = tiny_teacher(initializer_range=0.2, dropout=0.0)
    before = from_distilbert(teacher.model, "inhibitor_signed").state_dict()
    moved = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    parts = ["q_lin.weight", "q_lin.bias", "k_lin.weight", "k_lin.bias", "v_lin.weight"]
    parts += ["v_lin.bias", *(["gamma", "shift", "eta"] if learn else [])]
    assert moved == {
        f"distilbert.transformer.layer.{layer}.attention.{part}"
        for layer in range(2)
        for part in parts
    }


def test_later_phases_keep_the_embeddings(base: dict[str, Any], agnostic: Path) -> None:
    before = load_file(Path(base["teacher"]) / "model.safetensors")
    after = load_file(agnostic / "model.safetensors")
    for name, weight in before.items():
        assert torch.equal(weight, after[name]) == ("embeddings." in name), name


KILL = """
import os, signal, sys
from pathlib import Path
from tests.fhe_inhibitor.experiments.test_run import Experiment, Recording, run
experiment = Experiment.model_validate_json(sys.argv[1])
def stop(step, n):
    if (step, n) == (sys.argv[3], 25):
        os.kill(os.getpid(), signal.SIGKILL)
run(experiment, sys.argv[2], Recording(stop))
"""


@pytest.mark.parametrize("step", [pytest.param("layers, layer 1", marks=pytest.mark.slow), "task"])
def test_a_killed_run_ends_like_one_that_was_not(
    base: dict[str, Any], agnostic: Path, tmp_path: Path, step: str
) -> None:
    out, phase = tmp_path / "student", step.partition(",")[0]
    experiment = make(base, "task-agnostic")
    killed = subprocess.run(
        [sys.executable, "-c", KILL, experiment.model_dump_json(), str(out), step],
        cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL
    assert not (out / "result.json").exists()
    folder = out / "work" / phase / ("layer-1" if phase == "layers" else "")
    broken = folder / "checkpoint-30"  # as if the power had failed while it was written
    broken.mkdir()
    (broken / "model.safetensors").write_bytes(b"half")
    observer = Recording()
    run(experiment, out, observer)
    n_steps = PHASES[phase]["max_steps"] - 20  # the last whole checkpoint
    assert observer.steps[0] == step
    assert observer.planned[step] == observer.finished[step] == n_steps
    expected = load_file(agnostic / "model.safetensors")
    for name, weight in load_file(out / "model.safetensors").items():
        assert torch.equal(weight, expected[name]), name
    assert journal(out) == journal(agnostic)


def test_a_finished_run_is_only_read(
    base: dict[str, Any], agnostic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a finished run loads no model")

    monkeypatch.setattr(torch.nn.Module, "__init__", refuse)
    before = contents(agnostic)
    observer = Recording()
    result = run(make(base, "task-agnostic"), agnostic, observer)
    assert result.rows and not observer.steps
    assert contents(agnostic) == before


@pytest.mark.parametrize("recipe", ["task-specific", "aligned"])
@pytest.mark.parametrize("kind", ["inhibitor_signed", "dot_product"])
def test_other_recipes_learn_the_task(
    base: dict[str, Any], tmp_path: Path, recipe: str, kind: str
) -> None:
    """With a teacher that is fine-tuned first, which their results name beside the student."""
    teacher = make(base, "teacher")
    run(teacher, tmp_path / "teacher")
    tuned = str(tmp_path / "teacher")
    result = run(make(base, recipe, teacher=tuned, attention_kind=kind), tmp_path / "student")
    scores = {row.recipe: row.value for row in result.rows if row.metric == "score"}
    assert scores[recipe] > 0.5
    assert set(scores) == {recipe, "teacher"}


def test_a_teacher_s_rows_have_the_seed_that_it_was_fine_tuned_with(
    base: dict[str, Any], tmp_path: Path
) -> None:
    """A report keeps one row of each seed. A teacher that came fine-tuned is the same for all."""
    teacher = tiny_teacher()
    headless = replace(teacher, model=DistilBertModel(teacher.model.config))
    save_teacher(headless, tmp_path / "untuned")
    folders = {"tuned": base["teacher"], "untuned": str(tmp_path / "untuned")}
    phases = {"teacher": {"max_steps": 2, "min_steps": 2}}
    for recipe, given, seeds in (
        ("teacher", "tuned", {"teacher": 3}),
        ("converted", "tuned", {"converted": 3, "teacher": 0}),
        ("converted", "untuned", {"converted": 3, "teacher": 3}),
    ):
        experiment = make(base, recipe, teacher=folders[given], seed=3, phases=phases)
        result = run(experiment, tmp_path / f"{recipe} of {given}")
        assert {row.recipe: row.seed for row in result.rows} == seeds


def test_early_stopping_ends_a_phase_and_keeps_its_best(
    base: dict[str, Any], tmp_path: Path
) -> None:
    phases = {"task": {**PHASES["task"], "min_steps": 400, "max_steps": 400, "hard": 1.0}}
    experiment = make(base, "task-specific", phases=phases, held_out=20, patience=2)
    result = run(experiment, tmp_path / "student")
    losses = {r["step"]: r["eval_loss"] for r in journal(tmp_path / "student") if "eval_loss" in r}
    assert max(losses) < 400
    best = min(losses, key=losses.__getitem__)
    assert max(losses) - best == 2 * experiment.save_steps
    scores = {r["step"]: r["eval_score"] for r in journal(tmp_path / "student") if "eval_loss" in r}
    measured = {(row.recipe, row.split): row.value for row in result.rows if row.metric == "score"}
    assert measured["task-specific", "held_out"] == pytest.approx(scores[best], rel=1e-5)
    assert {row.split for row in result.rows} == {"validation", "held_out"}


def test_broken_checkpoints_are_passed_over(tmp_path: Path) -> None:
    assert last_whole_checkpoint(tmp_path) is None
    for step, content in ((10, '{"global_step": 10}'), (20, '{"global_st')):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(content)
    assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert not (tmp_path / "checkpoint-20").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": "sst3"}, "no task 'sst3'"),
        ({"recipe": "magic"}, "no recipe 'magic'; wanted one of teacher, task-agnostic"),
        ({"teacher": "/nowhere"}, "no model could be loaded from '/nowhere'"),
        ({"data": "/nowhere"}, "/nowhere is no folder"),
        ({"task": "rte"}, "not a TSV of the task rte"),
        ({"task": "mnli"}, "has 2 outputs; wanted 3"),
        ({"student": "/nowhere"}, "no model could be loaded from '/nowhere'"),
        ({"text": "/nowhere"}, "/nowhere is not a file"),
        ({"phases": {"warmup": {}}}, "there is no 'warmup'"),
        ({"phases": {"task": {"speed": 3}}}, "setting 'speed'"),
    ],
)
def test_bad_settings_are_refused(
    base: dict[str, Any], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        run(make({**base, **changes}, changes.get("recipe", "task-agnostic"),
                 **({"phases": changes["phases"]} if "phases" in changes else {})),
            tmp_path / "student")  # fmt: skip
    assert not (tmp_path / "student").exists()  # the next call may be right


def test_a_folder_of_another_experiment_is_refused(base: dict[str, Any], agnostic: Path) -> None:
    with pytest.raises(InputError, match="another experiment: seed was 0, now 1"):
        run(make(base, "task-agnostic", seed=1), agnostic)
    with pytest.raises(InputError, match="not empty and holds no experiment"):
        run(make(base, "task-agnostic"), agnostic.parent)


@pytest.mark.parametrize("changed", ["teacher", "student", "text"])
def test_checkpoints_of_another_model_are_refused(
    base: dict[str, Any], tmp_path: Path, changed: str
) -> None:
    """The same settings, but under the teacher's name, or another's, now lies another one."""
    teacher = tiny_teacher()
    save_teacher(teacher, tmp_path / "teacher")
    student = Teacher(from_distilbert(teacher.model, "inhibitor_signed"), teacher.tokenizer)
    save_teacher(student, tmp_path / "student")
    (tmp_path / "text").write_text("a fine film\na poor film\n" * 20)
    inputs = {name: str(tmp_path / name) for name in ("teacher", "student", "text")}
    experiment = make(base, "task-agnostic", **inputs)
    with pytest.raises(KeyboardInterrupt):
        run(experiment, tmp_path / "out", interrupt_at("layers, layer 0", 1))
    if changed == "text":
        (tmp_path / "text").write_text("a fine film\na dull film\n" * 20)
    else:
        other = tiny_teacher(seed=1)
        kind = "inhibitor_signed" if changed == "student" else "dot_product"
        model = from_distilbert(other.model, kind)
        save_teacher(Teacher(model, other.tokenizer), tmp_path / changed)
    with pytest.raises(InputError, match=f"of another model: its {changed} changed"):
        run(experiment, tmp_path / "out")


def test_an_older_folder_is_not_compared_by_what_it_lacks(tmp_path: Path) -> None:
    """It has the sums of teacher and data; from now on it has those of the text as well."""
    (tmp_path / "work").mkdir()
    model = torch.nn.Linear(2, 2)
    texts: dict[str, list[Any]] = {"data": [("a", 1)], "text": ["b"]}
    check_inputs(tmp_path, {"teacher": model}, {"data": texts["data"]})
    check_inputs(tmp_path, {"teacher": model}, texts)
    with pytest.raises(InputError, match="its text changed"):
        check_inputs(tmp_path, {"teacher": model}, {**texts, "text": ["c"]})
    with pytest.raises(InputError, match="its teacher changed"):
        check_inputs(tmp_path, {"teacher": torch.nn.Linear(2, 2)}, texts)


def test_a_student_of_another_shape_is_refused(base: dict[str, Any], tmp_path: Path) -> None:
    other = tiny_teacher(dim=16, hidden_dim=16, n_layers=1)
    student = from_distilbert(other.model, "inhibitor_signed")
    student.save_pretrained(tmp_path / "other")
    other.tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="has dim 16, the teacher 32"):
        run(make(base, "task-agnostic", student=str(tmp_path / "other")), tmp_path / "student")


def test_settings_come_from_yaml_and_options(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text("recipe: aligned\ntask: rte\nseed: 3\nphases:\n  task: {epochs: 2}\n")
    experiment = read_experiment(path, {"seed": 4, "teacher": None})
    assert (experiment.task, experiment.seed, experiment.teacher) == ("rte", 4, "minilm")
    path.write_text(json.dumps({"recipe": "aligned", "task": "rte"}))
    assert read_experiment(path, {}).task == "rte"
    path.write_text("- rte")
    with pytest.raises(InputError, match="holds no settings"):
        read_experiment(path, {})
    path.write_text("recipe: aligned\ntask: rte\nsped: 3\n")
    with pytest.raises(InputError, match="setting 'sped'"):
        read_experiment(path, {})
    with pytest.raises(InputError, match="setting 'task': field required"):
        read_experiment(None, {"recipe": "aligned"})
