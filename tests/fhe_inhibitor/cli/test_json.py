"""What `--json` promises, for each command that has it: JSON on stdout and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from compile.paper.records import PaperReport
from compile.paper.suite import Results
from fhe_inhibitor.cli.main import app, main
from fhe_inhibitor.cli.options import print_json
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.runtime.keyring import Keyring
from tests.rounding import max_difference
from tests.tiny_model import SMALL_SHAPE, write_tiny_model
from tests.tiny_teacher import save_teacher, tiny_teacher

TSV = "sentence\tlabel\na fine film\t1\na dull film\t0\n"
# Arguments beside --json; {model}, {small}, {float}, {data} and {out} are filled in.
ARGUMENTS = {
    "classify": ["--mode", "disable", "--model", "{model}", "a good film"],
    "evaluate": ["--model", "{model}", "--data", "{data}/dev.tsv"],
    "compile": ["--model", "{small}", "--out", "{out}", "--no-measure"],
    "cost": ["--model", "{model}", "--tokens", "3"],
    "distill": ["--recipe", "teacher", "--task", "sst2", "--data", "{data}", "--teacher", "{float}"]
    + ["--config", "{data}/short.yaml", "--out", "{out}"],
    "keys list": [],
    "tokens list": ["--data", "{data}"],
    "benchmark noise": ["--bits", "3", "--norm", "3", "--lookups", "64"],
    "calibrate": ["--model", "{model}", "--data", "{data}/long.tsv"],
    "long-documents": ["--model", "{model}", "--data", "{data}/long.tsv", "--draws", "1"],
    "doctor": [],
    "benchmark scaling": ["--model", "{small}", "--tokens", "2", "--threads", "1"]
    + ["--repetitions", "1", "--out", "{out}"],
    "report": ["--model", "{small}", "--out", "{out}", "--repeat", "1", "--text", "a good film"]
    + ["--no-time-lookups"],
}
KEYS = {
    "classify": "results",
    "evaluate": "accuracy",
    "compile": "lengths",
    "cost": "lengths",
    "distill": "rows",
    "benchmark noise": "std",
    "benchmark scaling": "points",
    "calibrate": "neutral_logits",
    "long-documents": "rows",
    "doctor": "findings",
    "report": "sections",
}
ENCRYPTED = ("compile", "benchmark noise", "benchmark scaling", "doctor", "report")  # need Concrete


def commands_with_json() -> Iterator[str]:
    """Yield the name of each command that has the option, groups in front."""
    waiting: list[tuple[str, Any]] = [("", typer.main.get_command(app))]
    while waiting:
        name, command = waiting.pop()
        for child, content in getattr(command, "commands", {}).items():
            waiting.append((f"{name} {child}".strip(), content))
        if any("--json" in parameter.opts for parameter in command.params):
            yield name


def test_every_command_with_the_option_is_tested_here() -> None:
    assert set(commands_with_json()) == set(ARGUMENTS)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(name, marks=[pytest.mark.fhe] if name in ENCRYPTED else [])
        for name in ARGUMENTS
    ],
)
def test_stdout_is_json_and_nothing_else(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    """Of the whole process: what native code prints would come between, too."""
    monkeypatch.setenv("FHE_INHIBITOR_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data"
    data.mkdir()
    for name in ("train.tsv", "dev.tsv"):
        (data / name).write_text(TSV)
    (data / "long.tsv").write_text(TSV + "a good film . " * 9 + "\t1\n")
    (data / "short.yaml").write_text(
        "held_out: 0\nphases: {teacher: {min_steps: 1, max_steps: 1}}\n"
    )
    places = {
        "model": write_tiny_model(tmp_path / "tiny"),
        "small": write_tiny_model(tmp_path / "small", buckets=(2,), shape=SMALL_SHAPE),
        "float": save_teacher(tiny_teacher(), tmp_path / "float"),
        "data": data,
        "out": tmp_path / "out",
    }
    arguments = [argument.format(**places) for argument in ARGUMENTS[command]]
    with pytest.raises(SystemExit) as exit_:
        main([*command.split(), *arguments, "--json"])
    out, err = capfd.readouterr()
    assert exit_.value.code == 0, err
    answer = json.loads(out)
    if command == "tokens list":
        assert answer == []
    elif command == "keys list":
        assert answer == [
            entry.model_dump(mode="json") | {"locked": False, "bytes": size}
            for entry in Keyring().entries()
            for size in [Keyring().path(entry.circuits_hash).stat().st_size]
        ]
    else:
        assert KEYS[command] in answer
    if command == "report":
        assert_report(answer, places["out"], IntegerModel.load(places["small"]))


def assert_report(answer: dict[str, Any], out: Path, model: IntegerModel) -> None:
    """What was encrypted is what the integer model says, and all files are there."""
    report = PaperReport.model_validate(answer)
    assert report == PaperReport.model_validate_json((out / "report.json").read_text())
    (run,) = report.measured.sentences
    largest = np.abs(np.subtract(run.logits, run.clear_logits)).max()
    assert largest <= max_difference(model, "a good film") and run.worker_core_s > 0 < run.compute_s
    assert min(report.measured.client_peak_bytes, report.measured.worker_peak_bytes) > 5e7
    assert report.measured.n_positions == 2 and run.request_bytes < run.response_bytes
    suite = Results.model_validate_json((out / "suite/single/results-1.json").read_text())
    assert suite.timing["Encrypted computation"] == f"{run.compute_s:.4f}s"
    names = {path.name for path in out.iterdir()}
    assert {"report.md", "report.html", "stages.pdf", "stages.png", "peers.pdf"} <= names


def test_what_json_has_no_word_for_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [float("nan"), 1.5], "b": {"c": float("inf")}, "d": (1, None)})
    assert json.loads(capsys.readouterr().out) == {
        "a": [None, 1.5],
        "b": {"c": None},
        "d": [1, None],
    }


def test_keys_are_listed_with_their_parameters_where_those_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An older version wrote none down."""
    monkeypatch.setenv("FHE_INHIBITOR_KEYS", str(tmp_path))
    parameters = dict(key=0, dimension=2048, polynomial_size=2048, log2_std=-49.95, margin=0.0)
    for digest, known in (("ab", {"parameters": [{**parameters, "encrypts": "x"}]}), ("cd", {})):
        path = Keyring().path(digest * 32)
        path.parent.mkdir()
        path.write_bytes(b"")
        about = {
            "circuits_hash": digest * 32,
            "model": "tiny",
            "evaluation_keys": "0" * 64,
            "created": 0,
        }
        path.with_name("about.json").write_text(json.dumps({**about, **known}))
    with pytest.raises(SystemExit):
        main(["keys", "list", "--parameters"])
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        "abababababab, tiny: key dimension polynomial size log2 std security encrypts",
        "0 2048 2048 -49.95 128 bits +0.00 x",
        "cdcdcdcdcdcd, tiny: made by a version that wrote no parameters down",
    ):
        assert words in shown
