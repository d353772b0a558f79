"""Students of few bits and with static norms, by the command line: made, measured, resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.experiments.plan import expand, read_plan
from fhe_inhibitor.experiments.record import Result
from fhe_inhibitor.experiments.run import run as run_experiment
from fhe_inhibitor.experiments.settings import Experiment, read_experiment
from fhe_inhibitor.model.fake_quantization import Grid, quantize
from fhe_inhibitor.model.int8_checkpoint import INT8_FILE, load_int8, save_int8
from fhe_inhibitor.model.modeling import InhibiDistilBertForSequenceClassification
from fhe_inhibitor.text.tasks import find_task
from fhe_inhibitor.training.rows import load_classifier
from tests.conftest import REPOSITORY
from tests.fhe_inhibitor.cli.test_main import run  # noqa: F401  (a fixture)
from tests.fhe_inhibitor.experiments.test_run import KILL, journal, write_task
from tests.observers import Recording
from tests.tiny_teacher import save_teacher, tiny_teacher

torch.set_num_threads(1)

pytest.importorskip("accelerate")

PHASE = {"min_steps": 30, "max_steps": 30, "batch_size": 16, "learning_rate": 0.003}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny teacher that knows its task, and an inhibitor student of it."""
    folder = tmp_path_factory.mktemp("converted")
    teacher = save_teacher(tiny_teacher(initializer_range=0.2, dropout=0.0), folder / "untuned")
    shared = {"task": "cola", "data": str(write_task(folder / "data")), "save_steps": 10}
    tuning = {**shared, "teacher": str(teacher), "phases": {"teacher": PHASE}}
    run_experiment(Experiment(recipe="teacher", **tuning), folder / "teacher")
    shared["teacher"] = str(folder / "teacher")
    of_student = {**shared, "recipe": "task-specific", "phases": {"task": PHASE}}
    run_experiment(Experiment(**of_student), folder / "student")
    return {**shared, "student": str(folder / "student")}


def make(base: dict[str, Any], recipe: str, **changes: Any) -> Experiment:
    phases = {"phases": {"retrain": PHASE}} if recipe == "retrained" else {}
    return Experiment(**{**base, **phases, "recipe": recipe, **changes})


def scores(result: Result) -> dict[str, float]:
    return {row.recipe: row.value for row in result.rows if row.metric == "score"}


def test_a_student_as_it_is_keeps_its_score(base: dict[str, Any], tmp_path: Path) -> None:
    before = Result.model_validate_json((Path(base["student"]) / "result.json").read_text())
    result = run_experiment(make(base, "converted"), tmp_path / "out")
    assert scores(result)["converted"] == scores(before)["task-specific"]
    assert result.rows[0].settings["attention_kind"] == "inhibitor_signed"
    assert not {"bits", "normalization"} & set(result.rows[0].settings)


@pytest.mark.parametrize("kind", ["inhibitor_signed", "dot_product"])
def test_few_bits_in_training_and_what_evaluate_makes_of_them(
    run,  # noqa: F811
    base: dict[str, Any],
    tmp_path: Path,
    kind: str,
) -> None:
    """Training brings the loss down; the folder gives the figures that its result states."""
    settings = {**base, "recipe": "retrained", "bits": 4, "log_steps": 5}
    if kind == "dot_product":  # the teacher's weights are its student
        del settings["student"]
    phases = {"retrain": {**PHASE, "learning_rate": 0.001}}
    settings |= {"attention_kind": kind, "phases": phases}
    (tmp_path / "e.yaml").write_text(json.dumps(settings))
    made = run("distill", "--config", tmp_path / "e.yaml", "--out", tmp_path / "out", "--json")
    assert made.code == 0
    rows = [row for row in json.loads(made.out)["rows"] if row["recipe"] == "retrained"]
    assert rows[0]["settings"]["bits"] == 4 and rows[0]["settings"]["attention_kind"] == kind
    losses = [row["loss"] for row in journal(tmp_path / "out")]
    assert losses[-1] < losses[0]
    evaluated = run(
        "evaluate", "--model", tmp_path / "out", "--task", "cola", "--json", "--data", base["data"]
    )
    measured = {row["metric"]: row["value"] for row in json.loads(evaluated.out)["rows"]}
    assert measured == {row["metric"]: row["value"] for row in rows}


def test_static_norms_are_made_and_trained(base: dict[str, Any], tmp_path: Path) -> None:
    result = run_experiment(make(base, "retrained", normalization="static"), tmp_path / "out")
    assert result.rows[0].settings["normalization"] == "static"
    model = InhibiDistilBertForSequenceClassification.from_pretrained(tmp_path / "out")
    converted = run_experiment(make(base, "converted", normalization="static"), tmp_path / "other")
    assert converted.rows and model.config.normalization == "static"
    other = load_file(tmp_path / "other" / "model.safetensors")
    moved = {n for n, w in model.state_dict().items() if not torch.equal(w, other[n])}
    name = "distilbert.transformer.layer.1.output_layer_norm.weight"
    assert name in moved and not any("embeddings." in n for n in moved)


@pytest.mark.slow
def test_a_killed_run_ends_like_one_that_was_not(base: dict[str, Any], tmp_path: Path) -> None:
    experiment = make(base, "retrained", bits=4, normalization="static")
    run_experiment(experiment, tmp_path / "whole")
    out = tmp_path / "killed"
    arguments = [sys.executable, "-c", KILL, experiment.model_dump_json(), str(out), "retrain"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(arguments, cwd=REPOSITORY, env=environment)
    assert killed.returncode == -signal.SIGKILL
    observer = Recording()
    run_experiment(experiment, out, observer)
    assert observer.planned == observer.finished == {"retrain": 10}  # 20 of 30 were kept
    expected = load_file(tmp_path / "whole" / INT8_FILE)
    for name, weight in load_file(out / INT8_FILE).items():
        assert torch.equal(weight, expected[name]), name


@pytest.mark.parametrize("n_bits", [4, 8])
def test_an_int8_file_holds_the_student(base: dict[str, Any], tmp_path: Path, n_bits: int) -> None:
    """Weights are int8, in a quarter of the bytes, and the logits stay what they were."""
    model: Any = load_classifier(base["student"], find_task("cola"))[0]
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(5, model.config.vocab_size, (8, 10), generator=random)
    quantize(model, n_bits, ids.tolist())
    with torch.no_grad():
        for grid in (m for m in model.modules() if isinstance(m, Grid)):
            grid.change += 0.01 * torch.randn(grid.change.shape, generator=random)
        save_int8(model, tmp_path)
        loaded = load_int8(tmp_path)
        assert torch.allclose(loaded(ids).logits, model(ids).logits, atol=1e-5)
    of_dtype = {False: 0, True: 0}
    for tensor in load_file(tmp_path / INT8_FILE).values():
        of_dtype[tensor.dtype == torch.int8] += tensor.numel()
    n_matrices = sum(w.numel() for w in model.parameters() if w.ndim == 2 and w.shape[1] > 1)
    assert of_dtype[True] >= 0.99 * n_matrices


def test_no_int8_file_of_a_float_student_or_of_pieces(base: dict[str, Any], tmp_path: Path) -> None:
    model = load_classifier(base["student"], find_task("cola"))[0]
    with pytest.raises(InputError, match="only a fake-quantized student"):
        save_int8(model, tmp_path)
    quantize(model, 8, [[5, 6, 7]])
    save_int8(model, tmp_path)
    whole = (tmp_path / INT8_FILE).read_bytes()
    flipped = whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]
    for damaged in (whole[:1000], flipped):
        (tmp_path / INT8_FILE).write_bytes(damaged)
        with pytest.raises(InputError, match="^no model could be loaded"):
            load_classifier(str(tmp_path), find_task("cola"))


def test_the_shipped_student_of_full_depth_reads() -> None:
    model, tokenizer = load_classifier("inhibidistilbert-6-384-sst2-int8", find_task("sst2"))
    texts = ["a warm , funny and moving film .", "a dull , lifeless and badly acted mess ."]
    with torch.inference_mode():
        logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    assert logits.argmax(dim=-1).tolist() == [1, 0]


def test_a_quantized_student_is_no_start_of_another(base: dict[str, Any], tmp_path: Path) -> None:
    run_experiment(make(base, "converted", bits=8), tmp_path / "eight")
    load_classifier(str(tmp_path / "eight"), find_task("cola"))
    again = make(base, "converted", bits=4, student=str(tmp_path / "eight"))
    with pytest.raises(InputError, match="quantized already"):
        run_experiment(again, tmp_path / "four")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bits": 5}, "setting 'bits': input should be 4, 6 or 8"),
        ({"normalization": "batch"}, "setting 'normalization': input should be 'layer_norm' or"),
        ({"recipe": "teacher", "bits": 8}, "the recipe teacher makes no student"),
    ],
)
def test_bad_settings_are_refused(
    base: dict[str, Any], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        run_experiment(
            read_experiment(None, {**base, "recipe": "converted", **changes}), tmp_path / "out"
        )


def test_the_plan_names_each_student_once(tmp_path: Path) -> None:
    """Of both sections: floats, bits and norms of both kinds, with the folders they start from."""
    plan = read_plan(REPOSITORY / "demos" / "experiments.yaml")
    runs = [
        (entry.name, variant, experiment)
        for entry in plan.experiments
        for variant, experiment in expand(plan, entry, tmp_path)
    ]
    kept = {
        str(tmp_path / entry.name / variant)
        for entry in plan.experiments
        if entry.keep
        for variant, _ in expand(plan, entry, tmp_path)
    }
    for section, n_runs in (("quantization", 16), ("static-normalisation", 4)):
        here = [(variant, one) for name, variant, one in runs if name == section]
        assert len({variant for variant, _ in here}) == len(here) == n_runs
        for _, one in here:
            assert one.teacher in kept
            assert one.student in kept if one.attention_kind != "dot_product" else not one.student
