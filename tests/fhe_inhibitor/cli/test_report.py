"""`fhe-inhibitor report`: what is refused before anything is compiled, and the command it tells.

What it measures and writes is tested in `tests/compile/paper`, and encrypted in `test_json`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from fhe_inhibitor.cli.report import TEXT, _command
from fhe_inhibitor.integer.model import IntegerModel
from tests.compile.evaluation.records import header, text, write
from tests.fhe_inhibitor.cli.test_main import assert_refused, model, run

__all__ = ["model", "run"]  # fixtures


def test_what_is_wrong_is_said_before_anything_is_written(run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("report", "--model", model, "--out", out)
    other = write(tmp_path / "other.jsonl", header(), [text(0, 1, [0, 3])])
    assert_refused(run(*arguments, "--price", "cheap"), "--price 'cheap'", "0.05 EUR")
    assert_refused(run(*arguments, "--tokens", "99"), "99 tokens")
    assert_refused(run(*arguments, "--text", " "), "the text is empty")
    assert_refused(run(*arguments, "--evaluation", other), "pass another file", "--model")
    assert_refused(run(*arguments, "--p-error", "2^-30"), "2^-30", "2^-40")
    assert_refused(run(*arguments, "--evaluation", tmp_path / "none"), "can't be read")
    assert_refused(run("report", "--model", tmp_path / "none", "--out", out), "no model")
    assert not out.exists()
    (tmp_path / "file").write_text("")
    assert_refused(run(*arguments[:-1], tmp_path / "file" / "out"), "name another with --out")


@pytest.mark.parametrize("name", ["inhibidistilbert-nano-sst2"])
def test_the_usual_text_fills_the_longest_circuits(name: str) -> None:
    shipped = IntegerModel.load(name)
    assert len(shipped.tokenize(TEXT, shipped.max_tokens).ids) == shipped.max_tokens


def test_the_command_has_what_was_given_and_no_folders() -> None:
    given = {"--model": "tiny", "--price": "0.05 EUR", "--tokens": None, "--no-time-lookups": ""}
    assert _command(given) == (
        "fhe-inhibitor report --model tiny --price '0.05 EUR' --no-time-lookups"
    )
