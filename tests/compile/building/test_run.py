"""The command itself: texts in, encrypted labels out; stopped and repeated; and what it refuses."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import normalizers
from transformers import DistilBertModel

from compile.building import student
from compile.building.page import FINISHED_FILE, PAGE_FILE, Built, to_markdown
from compile.building.student import claimed
from compile.local.session import Session
from fhe_inhibitor.cli.build import EncryptStudent
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.training.hyperparameters import SIZES
from tests.fhe_inhibitor.cli.test_main import assert_refused, run
from tests.observers import Recorder
from tests.own_texts import TINY, sentiments, topics, words_of, write_jsonl
from tests.tiny_teacher import save_teacher, tiny_teacher

__all__ = ["run"]  # a fixture

AMOUNTS = ("--texts", "150", "--steps", "6", "--epochs", "0.2")


def encoder(folder: Path, texts: list[tuple[str, str]]) -> Path:
    """Write a teacher without a classifier, which knows the words of the texts."""
    teacher = tiny_teacher(more_words=words_of(texts))
    teacher.tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer()
    return save_teacher(replace(teacher, model=DistilBertModel(teacher.model.config)), folder)


@pytest.mark.fhe
def test_texts_become_an_encrypted_classifier(
    run,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three classes; stopped before anything is compiled, then finished; then used."""
    monkeypatch.setitem(SIZES, "nano", TINY)
    texts = sentiments(70)
    data, out = write_jsonl(tmp_path / "texts.jsonl", texts), tmp_path / "model"
    command = ["build", "--data", data, "--out", out, "--teacher", encoder(tmp_path / "e", texts)]
    command += [*AMOUNTS, "--encrypted"]

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    def work_here(work: EncryptStudent, observer: Observer) -> Built:
        return pickle.loads(pickle.dumps(work)).run(observer)

    monkeypatch.setattr("fhe_inhibitor.cli.build.in_worker", stop)
    assert run(*command, "1").code == 130
    made = (out / "results.json").stat().st_mtime_ns
    monkeypatch.setattr("fhe_inhibitor.cli.build.in_worker", work_here)  # a process takes seconds
    outcome = run(*command, "1")
    assert outcome.code == 0, outcome.err
    assert (out / "results.json").stat().st_mtime_ns == made  # the student was not made again
    shown = " ".join(outcome.out.split())
    for words in ("negative", "neutral", "positive", "the same, encrypted", "evaluation keys"):
        assert words in shown
    assert "few texts to train on: negative" in shown
    built = Built.model_validate_json((out / FINISHED_FILE).read_text())
    assert built.encrypted is not None and built.encrypted.accuracy.n == 1
    assert (out / PAGE_FILE).read_text() == to_markdown(built)
    # Three ciphertexts come back, one a class: the report knows their size.
    report = json.loads((out / "report.json").read_text())
    assert built.circuits.response_bytes == report["lengths"][-1]["response_bytes"]
    assert built.circuits.response_bytes % 3 == 0

    # Circuits and keys are where a session looks for them.
    recorder = Recorder()
    with Session(out, observer=recorder) as session:
        result = session.classify("the plot is brilliant")
    assert not [step for step in recorder.steps if step.startswith(("compile", "keygen"))]
    assert result.label in ("negative", "neutral", "positive")
    assert len(result.logits) == len(result.clear_logits) == 3


TWICE = "".join(f"text {n}\t{label}\n" for n in range(20) for label in "ab")
UNUSABLE = {
    "": "has no first line",
    "a fine film\tgood\n": "needs a first line with the names of its columns",
    "text\tlabel\n": "has a header but no texts",
    "text\tlabel\n" + "a fine film\tgood\n" * 9: "1 class: good (1); wanted 2 to 10",
    "text\tlabel\n" + "".join(f"film {n}\t{n}\n" for n in range(11)): "11 classes: 0 (1)",
    "text\tlabel\n" + "".join(f"film {n}\ta\n" for n in range(20)) + "dull\trare\n": (
        "the class rare has 0 texts to train on and 1 to measure on"
    ),
    f"text\tlabel\n{TWICE}": "0 classes: no text is left",
}


def test_texts_that_cannot_be_used_are_refused_in_one_line(
    run,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    teacher = encoder(tmp_path / "encoder", [("text film dull 1", "")])
    capsys.readouterr()  # transformers tells that it saves the teacher
    path, out = tmp_path / "texts.tsv", tmp_path / "model"
    for content, message in UNUSABLE.items():
        path.write_text(content)
        assert_refused(run("build", "--data", path, "--out", out, "--teacher", teacher), message)
        assert not out.exists()


def test_folders_of_something_else_are_refused(run, tmp_path: Path) -> None:  # noqa: F811
    texts = topics(60)
    data, out = write_jsonl(tmp_path / "texts.jsonl", texts), tmp_path / "model"
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    outcome = run("build", "--data", data, "--out", out)
    assert_refused(outcome, "is not empty: name a new folder with --out")
    assert list(out.iterdir()) == [out / "thesis.tex"]
    for nameless in (".", "/", ""):
        assert_refused(run("build", "--data", data, "--out", nameless), "has no name for the model")
    build = ("build", "--data", data, "--out")
    assert_refused(run(*build, data), "Not a directory", "another one with --out")
    assert_refused(run(*build, tmp_path / ("x" * 300)), "name too long", "another one with --out")
    assert_refused(run(*build, tmp_path / "new", "--work", data), "another one with --work")
    assert_refused(run("build", "--data", tmp_path / "none.csv", "--out", tmp_path / "new"), "none")
    with (
        claimed(tmp_path / "work"),
        pytest.raises(InputError, match="another process builds"),
        claimed(tmp_path / "work"),
    ):
        pass
    assert student.CLAIM_FILE not in os.listdir(tmp_path / "work")
