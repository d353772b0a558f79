"""What people reported of such tools: inputs and environments that once led astray, each one line.

To test_main this adds the reports of other programs' users, tried on this one.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from fhe_inhibitor.cli.distill import silence_transformers
from fhe_inhibitor.cli.main import main
from fhe_inhibitor.cli.options import PASSPHRASE_VARIABLE, passphrase_in_environment
from fhe_inhibitor.cli.remote import read_token
from tests.fhe_inhibitor.cli.test_main import TSV, assert_refused, model, run
from tests.tiny_teacher import save_teacher, tiny_teacher

__all__ = ["model", "run"]  # fixtures

CLASSIFY = ("classify", "--mode", "disable")


def texts_of(outcome) -> list[str]:
    assert outcome.code == 0, outcome.err
    return [result["text"] for result in json.loads(outcome.out)["results"]]


class TestFloatModels:
    """`evaluate --task` of folders whose parts don't fit: never a figure."""

    @pytest.fixture
    def evaluate(self, run, tmp_path: Path):  # noqa: F811
        silence_transformers()  # the tests write models
        (tmp_path / "dev.tsv").write_text("sentence\tlabel\na fine film\t1\na dull film\t1\n")

        def evaluate(folder: Path):
            data = ("--task", "sst2", "--data", tmp_path / "dev.tsv", "--json")
            return run("evaluate", "--model", folder, *data)

        return evaluate

    def test_without_a_tokenizer(self, evaluate, tmp_path: Path) -> None:
        tiny_teacher().model.save_pretrained(tmp_path / "m")
        assert_refused(evaluate(tmp_path / "m"), "no tokenizer", "tokenizer.json")

    def test_labels_in_another_order(self, evaluate, tmp_path: Path) -> None:
        teacher = tiny_teacher(id2label={0: "POSITIVE", 1: "NEGATIVE"})
        folder = save_teacher(teacher, tmp_path / "m")
        assert_refused(evaluate(folder), "POSITIVE, NEGATIVE", "wanted negative, positive")

    def test_half_precision(self, evaluate, tmp_path: Path) -> None:
        teacher = tiny_teacher()
        teacher.model.half()
        outcome = evaluate(save_teacher(teacher, tmp_path / "m"))
        assert outcome.code == 0 and 0 <= json.loads(outcome.out)["rows"][0]["value"] <= 1

    def test_a_mistyped_folder(self, evaluate, tmp_path: Path) -> None:
        assert_refused(evaluate(tmp_path / "nosuch"), "no such folder")


def test_a_mistyped_folder_of_data(run, tmp_path: Path) -> None:  # noqa: F811
    out = ("--out", tmp_path / "o", "--work", tmp_path / "w")
    for name in (tmp_path / "nosuch", "./nosuch"):
        assert_refused(run("train", "--data", name, *out), "is no folder here: pass one")


@pytest.mark.parametrize("text", ["-5 out of 10", "--great film"])
def test_a_text_that_begins_with_a_dash(run, model: Path, text: str) -> None:  # noqa: F811
    assert_refused(run(*CLASSIFY, "--model", model, text), "a dash goes after `--`")
    assert texts_of(run(*CLASSIFY, "--model", model, "--json", "--", text)) == [text]
    assert "--`" not in run("evaluate", text).err


@pytest.mark.parametrize("arguments", [["-"], ["--file", "-"], ["--file", "-", "first"]])
def test_texts_from_stdin(
    run,  # noqa: F811
    model: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a film\r\n\ndull\n")))
    first = ["first"] if "first" in arguments else []
    outcome = run(*CLASSIFY, "--model", model, "--json", *arguments)
    assert texts_of(outcome) == [*first, "a film", "dull"]


def test_an_output_that_lacks_a_character(
    model: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", output)
    with pytest.raises(SystemExit) as exit_:
        main([*CLASSIFY, "--model", str(model), "great \N{GRINNING FACE}"])
    output.flush()
    assert not exit_.value.code
    assert b"great \\U0001f600" in output.buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("z.txt", "a fine film\n\u200b\ndull\n".encode(), ["z.txt, line 2", "no visible"]),
        ("z.txt", b"PK\x03\x04\x14\x00", ["z.txt is a zip archive", "unpack it"]),
        ("z.txt", b"\x1f\x8b\x08\x00", ["z.txt is gzipped", ".gz"]),
        ("z.txt", b"PAR1\x15\x04", ["z.txt is a Parquet file"]),
    ],
)
def test_a_file_of_texts(
    run,  # noqa: F811
    model: Path,  # noqa: F811
    tmp_path: Path,
    name: str,
    content: bytes,
    words: list[str],
) -> None:
    (tmp_path / name).write_bytes(content)
    assert_refused(run(*CLASSIFY, "--model", model, "--file", tmp_path / name), *words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (TSV + "\u200b\t1\n", ["line 4", "empty"]),
        (TSV + "a film\t\u0661\n", ["line 4", "label '\u0661'"]),
        (TSV + "a film\t1_0\n", ["line 4", "label '1_0'"]),
        (TSV + "a film\t+1\n", ["line 4", "label '+1'"]),
        ("sentence\tlabel\tlabel\na film\t0\t1\n", ["line 1", "two columns 'label'"]),
    ],
)
def test_a_tsv(
    run,  # noqa: F811
    model: Path,  # noqa: F811
    tmp_path: Path,
    content: str,
    words: list[str],
) -> None:
    (tmp_path / "dev.tsv").write_text(content)
    outcome = run("evaluate", "--model", model, "--data", tmp_path / "dev.tsv")
    assert_refused(outcome, "dev.tsv", *words)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_files_as_powershell_writes_them(
    run,  # noqa: F811
    model: Path,  # noqa: F811
    tmp_path: Path,
    encoding: str,
) -> None:
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "dev.tsv").write_text(mark + TSV, encoding)
    (tmp_path / "token").write_text(f"{mark}fhei_x\r\n", encoding)
    assert run("evaluate", "--model", model, "--data", tmp_path / "dev.tsv").code == 0
    assert read_token(tmp_path / "token") == "fhei_x"


@pytest.mark.parametrize(
    ("value", "wanted"), [("secret\n", "secret"), ("se cret \r\n", "se cret "), ("\n", None)]
)
def test_a_passphrase_has_no_end_of_line(
    monkeypatch: pytest.MonkeyPatch, value: str, wanted: str | None
) -> None:
    monkeypatch.setenv(PASSPHRASE_VARIABLE, value)
    assert passphrase_in_environment() == wanted


def test_threads_that_crash_concrete(
    run,  # noqa: F811
    model: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "0")
    assert_refused(run("classify", "--model", model, "a film"), "OMP_NUM_THREADS is '0'")
