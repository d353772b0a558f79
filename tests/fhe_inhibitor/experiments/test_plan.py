"""Plans of experiments and the page of their results; the commands that make both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.experiments.plan import Entry, Plan, expand, read_plan, run_plan
from fhe_inhibitor.experiments.report import SECTIONS, table, write_report
from tests.fhe_inhibitor.cli.test_main import assert_refused, run  # noqa: F401  (a fixture)
from tests.fhe_inhibitor.experiments.test_run import write_task
from tests.observers import Recording
from tests.tiny_teacher import save_teacher, tiny_teacher

pytest.importorskip("accelerate")

SHORT = "{min_steps: 4, max_steps: 4, batch_size: 8}"


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """Two seeds of a task-agnostic run on a tiny task."""
    save_teacher(tiny_teacher(), tmp_path / "teacher")
    (tmp_path / "data").mkdir()
    write_task(tmp_path / "data" / "cola")
    path = tmp_path / "plan.yaml"
    path.write_text(
        f"""
data: {tmp_path / "data"}
experiments:
  - name: layers
    settings:
      recipe: task-agnostic
      teacher: {tmp_path / "teacher"}
      log_steps: 1
      phases: {{layers: {SHORT}, hidden: {SHORT}, task: {SHORT}}}
    each: {{task: [cola], seed: [0, 1]}}
"""
    )
    return path


def test_a_plan_runs_once_and_its_page_is_made(plan: Path, tmp_path: Path) -> None:
    observer = Recording()
    folders = (tmp_path / "work", tmp_path / "results")
    paths = run_plan(read_plan(plan), *folders, observer=observer)
    assert observer.notes == ["layers cola-0", "layers cola-1"]
    assert observer.steps == 2 * ["layers, layer 0", "layers, layer 1", "hidden", "task"]
    assert [path.stem for path in paths] == ["cola-0", "cola-1"]
    assert not list((tmp_path / "work").rglob("model.safetensors"))
    again = Recording()
    run_plan(read_plan(plan), *folders, observer=again)
    assert not again.steps
    page = write_report(tmp_path / "results", tmp_path / "docs")
    assert page == (tmp_path / "docs" / "experiments.md").read_text()
    assert page.count("| 0 | ") == 2 and "experiments/layers-cola-1.png" in page
    assert (tmp_path / "docs" / "experiments" / "layers-cola-0.svg").exists()
    assert page.count("Not run yet.") == len(SECTIONS) - 1


def test_running_a_plan_prints_names_and_nothing_on_stdout(run, plan: Path, tmp_path: Path) -> None:  # noqa: F811
    folders = ("--work", tmp_path / "work", "--results", tmp_path / "results")
    outcome = run("experiments", "run", "--plan", plan, *folders)
    assert (outcome.code, outcome.out) == (0, "")
    notes = [line for line in outcome.err.splitlines() if line.startswith("note: ")]
    assert notes == ["note: layers cola-0", "note: layers cola-1"]


def row(recipe: str, task: str, seed: int, value: float, **settings: Any) -> dict[str, Any]:
    return {
        "recipe": recipe, "task": task, "seed": seed, "split": "validation", "metric": "score",
        "value": value, "settings": settings,
    }  # fmt: skip


def test_results_of_any_maker_make_a_table(tmp_path: Path) -> None:
    """Rows and nothing else: mean and spread over seeds, and the settings that differ."""
    rows = [
        row("ptq", "sst2", 0, 0.9, bits=8, noise=0), row("ptq", "sst2", 1, 0.88, bits=8, noise=0),
        row("ptq", "sst2", 0, 0.5, bits=4, noise=0),
    ]  # fmt: skip
    assert table(rows).splitlines() == [
        "| recipe | bits | sst2 |",
        "|---|---|---|",
        "| ptq | 8 | 89.00 ± 1.41 (2) |",
        "| ptq | 4 | 50.00 |",
    ]
    folder = tmp_path / "results" / "quantization"
    folder.mkdir(parents=True)
    (folder / "pilot.json").write_text(json.dumps({"rows": rows}))
    assert "| ptq | 8 | 89.00 ± 1.41 (2) |" in write_report(tmp_path / "results", tmp_path)


def test_recipes_are_compared_with_their_teacher(tmp_path: Path) -> None:
    rows = [row("aligned", "sst2", 0, 0.88), row("aligned", "rte", 0, 0.61)]
    rows += [row("task-specific", "sst2", 0, 0.88), row("task-specific", "rte", 0, 0.61)]
    rows += [row("task-specific", "sst2", 1, 0.90), row("task-specific", "rte", 1, 0.62)]
    rows += [row("teacher", "sst2", 0, 0.9), row("teacher", "rte", 0, 0.6)]
    rows += [
        row(recipe, "rte", 0, 0.1) | {"split": "held_out"} for recipe in ("teacher", "aligned")
    ]
    (tmp_path / "recipes").mkdir()
    costs = {"phase_s": {"layers": 90.0, "task": 30.0}, "peak_memory_bytes": 2_000_000_000}
    (tmp_path / "recipes" / "a.json").write_text(json.dumps({"rows": rows, **costs}))
    page = write_report(tmp_path, tmp_path)
    assert "- aligned: -0.50 points over sst2, rte" in page
    assert "- task-specific: +0.25 ± 1.06 (2) points over sst2, rte" in page
    assert page.index("| teacher |") < page.index("| aligned |")
    assert "| recipes a | layers 1.5, task 0.5 | 2.0 |" in page


def test_a_teacher_of_one_class_is_named_and_its_task_left_out_of_a_second_mean(
    tmp_path: Path,
) -> None:
    """Of WNLI's 71 texts, 40 have the most frequent label."""
    rows = [row("teacher", "wnli", 0, 40 / 71), row("teacher", "sst2", 0, 0.9)]
    rows += [row("aligned", "wnli", seed, 40 / 71 + 0.03) for seed in (0, 1)]
    rows += [row("aligned", "sst2", seed, 0.88 + seed / 100) for seed in (0, 1)]
    rows += [row("fine", "sst2", 0, 0.88), row("lost", "wnli", 0, 40 / 71)]
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "a.json").write_text(json.dumps({"rows": rows}))
    page = write_report(tmp_path, tmp_path)
    assert "The teacher of wnli has 56.34, no more than" in page
    between = " ± 0.71 (2)"  # of 0.88 and 0.89; half of it over both tasks
    assert f"- aligned: +0.75 ± 0.35 (2) points over wnli, sst2; -1.50{between} over sst2\n" in page
    assert "- fine: -2.00 points over sst2\n- lost: +0.00 points over wnli\n" in page
    assert "The teacher of sst2" not in page


def test_what_is_no_plan_or_result_is_refused(plan: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.yaml can't be read as YAML or JSON"):
        read_plan(tmp_path / "none.yaml")
    (tmp_path / "other.yaml").write_text("plan: 1")
    with pytest.raises(InputError, match="no plan of experiments"):
        read_plan(tmp_path / "other.yaml")
    with pytest.raises(InputError, match="the plan has no 'all'"):
        run_plan(read_plan(plan), tmp_path, tmp_path, ["all"])
    with pytest.raises(InputError, match="has no results"):
        write_report(tmp_path, tmp_path)
    (tmp_path / "layers").mkdir()
    (tmp_path / "layers" / "a.json").write_text("{}")
    with pytest.raises(InputError, match="no result of an experiment"):
        write_report(tmp_path, tmp_path)


@pytest.mark.parametrize("braces", ["{nosuch}", "{", "{0}", "{task.x}", "{task!z}", "{task:d}"])
def test_braces_that_cannot_be_filled_in_are_refused(braces: str) -> None:
    entry = Entry(name="a", settings={"recipe": "aligned", "task": "rte", "teacher": braces})
    with pytest.raises(InputError, match=r"can't be filled in .*\{task\}, .*\{work\}"):
        list(expand(Plan(experiments=[entry]), entry, Path("w")))


@pytest.mark.parametrize(
    "content", ["experiments: []", "experiments: [{name: a, each: {seed: []}}]"]
)
def test_a_plan_of_nothing_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match="no plan of experiments.*at least 1 item"):
        read_plan(path)


def test_distill_and_evaluate_from_the_command_line(run, plan: Path, tmp_path: Path) -> None:  # noqa: F811
    settings = tmp_path / "e.yaml"
    settings.write_text(
        f"recipe: task-agnostic\nphases: {{layers: {SHORT}, hidden: {SHORT}, task: {SHORT}}}\n"
    )
    arguments = ("--task", "cola", "--teacher", tmp_path / "teacher", "--config", settings)
    data = tmp_path / "data" / "cola"
    outcome = run("distill", "--out", tmp_path / "s", "--data", data, *arguments, "--json")
    assert outcome.code == 0
    scores = [r["value"] for r in json.loads(outcome.out)["rows"] if r["metric"] == "score"]
    evaluated = ("evaluate", "--model", tmp_path / "s", "--task", "cola", "--json", "--data")
    for given in (data, data / "dev.tsv"):
        rows = json.loads(run(*evaluated, given).out)["rows"]
        assert [r["value"] for r in rows if r["metric"] == "score"] == scores
    assert "matthews" in run(*evaluated[:-2], "--data", data).out


def test_own_labels_go_through_distill_and_evaluate(run, plan: Path, tmp_path: Path) -> None:  # noqa: F811
    labels = ("--labels", "dull, fine")
    settings, teacher = tmp_path / "e.yaml", tmp_path / "teacher"
    settings.write_text(f"recipe: teacher\nphases: {{teacher: {SHORT}}}\n")
    arguments = (*labels, "--teacher", teacher, "--config", settings, "--json")
    data = tmp_path / "data" / "cola"
    outcome = run("distill", "--out", tmp_path / "s", "--data", data, *arguments)
    assert outcome.code == 0
    scores = [r["value"] for r in json.loads(outcome.out)["rows"] if r["metric"] == "score"]
    evaluated = ("evaluate", "--model", tmp_path / "s", "--json", "--data")
    for given in (data, data / "dev.tsv"):
        done = json.loads(run(*evaluated, given, *labels).out)
        assert done["task"] == "own"
        assert [r["value"] for r in done["rows"] if r["metric"] == "score"] == scores
    assert_refused(run(*evaluated, data, "--labels", "fine,dull"), "labels of", "are dull, fine")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("distill", "--recipe", "magic", "--task", "cola"), "no recipe 'magic'"),
        (("distill", "--recipe", "aligned", "--task", "sst3"), "no task 'sst3'"),
        (("distill", "--recipe", "aligned"), "setting 'task': field required"),
        (("distill", "--config", "none.yaml"), "none.yaml can't be read as YAML or JSON"),
        (
            ("distill", "--recipe", "aligned", "--task", "cola", "--teacher", "/no/such"),
            "no model could be loaded from '/no/such'",
        ),
        (("evaluate", "--task", "cola", "--model", "/no/such", "--data", "DATA"), "no model could"),
        (("distill", "--recipe", "aligned", "--labels", "a,b"), "pass their folder as --data"),
        (("evaluate", "--task", "cola", "--labels", "a,b"), "drop --labels, or --task"),
        (("evaluate", "--labels", "a", "--data", "DATA"), "labels 'a' name no classes"),
        (("evaluate", "--labels", "a,b", "--tokens", "8"), "--labels measures a float model"),
        (("evaluate",), "no data: pass --data FILE.tsv"),
        (("experiments", "run", "--plan", "none.yaml"), "can't be read as YAML or JSON"),
    ],
)
def test_bad_input_is_one_line(
    run,  # noqa: F811
    tmp_path: Path,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    data = str(write_task(tmp_path / "data"))
    given = [data if argument == "DATA" else argument for argument in arguments]
    if arguments[0] == "distill":
        given += ["--out", str(tmp_path / "student")]
    assert_refused(run(*given), said)
