"""`evaluate --out` and `evaluate-report`: options, files, and one clear line for what is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compile.evaluation.records import read_evaluation
from tests.compile.evaluation.records import header, text, write
from tests.fhe_inhibitor.cli.test_main import assert_refused, model, run
from tests.tiny_model import write_tiny_model

__all__ = ["model", "run"]  # fixtures

TSV = "sentence\tlabel\na good film\t1\nit 's dull\t0\nbad\t0\n"
INVALID = TSV + "no cells\n"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "dev.tsv"
    path.write_text(TSV)
    return path


def test_a_file_is_made_and_gone_on_with(
    run, model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    out = tmp_path / "file.jsonl"
    arguments = ("evaluate", "--data", data, "--model", model, "--out", out)
    first = run(*arguments, "--limit", "1", "--json")
    answer = json.loads(first.out)
    assert (first.code, answer["accuracy"]["n_texts"], answer["out"]) == (0, 1, str(out))
    assert answer["accuracy"]["n_draws"] == 16
    answer = json.loads(run(*arguments, "--json").out)
    assert answer["accuracy"]["n_texts"] == 3
    of, found = read_evaluation(out)
    assert (of.mode, of.n_texts, list(found.texts)) == ("disable", 3, [0, 1, 2])
    assert str(out) in run(*arguments).out
    assert_refused(run(*arguments, "--draws", "2"), "n_draws 16, now 2", "--out")
    assert_refused(run(*arguments, "--tokens", "2"), "max_tokens 4, now 2")
    other = write_tiny_model(tmp_path / "other", seed=1)
    assert_refused(run(*arguments, "--model", other), "model_hash", str(out))
    assert_refused(run(*arguments[:-1], data), "no file of an evaluation", "left as it is")
    assert data.read_text() == TSV


def test_bad_options_are_refused(run, model: Path, data: Path, tmp_path: Path) -> None:
    arguments = ("evaluate", "--data", data, "--model", model)
    assert_refused(run(*arguments, "--timed"), "--timed", "--out FILE.jsonl")
    out = ("--out", tmp_path / "no" / "file")
    assert_refused(run(*arguments, "--timed", *out), "--timed")
    assert_refused(run(*arguments, *out), "name another file with --out")
    assert_refused(run("evaluate", "--task", "sst2", *out), "drop", "--out")


def test_lines_that_cannot_be_read_are_no_texts(run, model: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "dev.tsv", tmp_path / "file.jsonl"
    data.write_text(INVALID)
    arguments = ("evaluate", "--data", data, "--model", model, "--out", out, "--json")
    assert_refused(run(*arguments), "line 5")
    answer = json.loads(run(*arguments, "--skip-invalid").out)
    assert (answer["accuracy"]["n_texts"], len(answer["left_out"])) == (3, 1)
    assert read_evaluation(out)[0].n_texts == 3


def test_the_report_names_its_page(run, tmp_path: Path) -> None:
    file = write(tmp_path / "file.jsonl", header(), [text(0, 1, [0, 3]), text(1, 0, [4, 0])])
    done = run("evaluate-report", file, "--out", tmp_path / "docs")
    page = tmp_path / "docs" / "decrypted_accuracy.md"
    assert (done.code, done.out) == (0, f"{page}\n")
    assert "100.0%" in page.read_text()
    assert_refused(run("evaluate-report", tmp_path / "missing"), "can't be read")
    assert_refused(run("evaluate-report", page, "--out", tmp_path), "no file of an evaluation")


@pytest.mark.fhe
@pytest.mark.slow
def test_ctrl_c_keeps_what_was_decrypted(run, model: Path, tmp_path: Path) -> None:
    """Of the whole command: stdout is JSON alone, and a second call goes on."""
    data, out = tmp_path / "dev.tsv", tmp_path / "file.jsonl"
    data.write_text("sentence\tlabel\n" + "a good film\t1\n" * 500)
    arguments = ["evaluate", "--data", data, "--model", model, "--mode", "execute", "--out", out]
    process = subprocess.Popen(
        [sys.executable, "-m", "fhe_inhibitor", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (out.exists() and out.read_bytes().count(b"\n") > 3) and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 130, err
    assert "interrupted; what was finished is kept" in err
    kept = read_evaluation(out)[1].texts
    assert 2 <= len(kept) < 500
    more = len(kept) + 2
    done = run(*arguments, "--limit", more, "--json")
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert answer["agreement"]["n_texts"] == more
    assert answer["seconds_per_text"] is None
    again = read_evaluation(out)[1]
    assert len(again.texts) == more and len(again.sittings) == 2
    assert {index: again.texts[index] for index in kept} == kept
