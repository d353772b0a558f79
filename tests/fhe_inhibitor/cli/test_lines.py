"""`classify --jsonl`: a line for each text as soon as it is done, whatever the others do."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fhe_inhibitor.cli.lines import Lines, line_of
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.runtime.classifier import Outcome
from tests.fhe_inhibitor.cli.test_main import assert_refused, model, run

__all__ = ["model", "run"]  # fixtures

CLASSIFY = ("classify", "--mode", "disable", "--jsonl", "--model")


def lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_a_line_has_what_json_has(run, model: Path) -> None:  # noqa: F811
    outcome = run(*CLASSIFY, model, "a good film", "dull")
    whole = run(*CLASSIFY[:3], "--json", "--model", model, "a good film", "dull")
    assert (outcome.code, outcome.err) == (0, "")
    for index, (line, result) in enumerate(
        zip(lines(outcome.out), json.loads(whole.out)["results"], strict=True)
    ):
        assert line.pop("index") == index
        assert {**line, "seconds": 0} == {**result, "seconds": 0}


@pytest.mark.parametrize("place", ["-", "--file"])
def test_an_error_of_one_text_is_its_line(
    run,  # noqa: F811
    model: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    """Without --jsonl each of these stops everything."""
    content = b"a good film\n\n\xe2\x80\x8b\r\nfianc\xe9e\ndull\n"
    (tmp_path / "texts").write_bytes(content)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    source = ("-",) if place == "-" else ("--file", tmp_path / "texts")
    outcome = run(*CLASSIFY, model, *source)
    first, blank, bytes_, last = lines(outcome.out)
    assert [line["index"] for line in (first, blank, bytes_, last)] == [0, 1, 2, 3]
    assert (first["label"], last["text"]) == ("negative", "dull") and "label" in last
    assert blank == {
        "index": 1,
        "text": "\u200b",
        "error": "the text is empty: pass a sentence with at least one word",
        "exit_code": 2,
    }
    assert "not UTF-8" in bytes_["error"] and set(bytes_) == set(blank)
    assert (outcome.code, outcome.err) == (
        2,
        "note: 2 of 4 texts have no label; their lines say why\n",
    )
    assert_refused(run(*CLASSIFY[:3], "--model", model, "--file", tmp_path / "texts"))


def test_a_failure_at_run_time_stops_no_other(
    run,  # noqa: F811
    model: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The exit code is that of the first text without a label."""
    real, calls = IntegerModel.integer_logits, iter((None, RuntimeError("the circuit\nbroke")))

    def sometimes(self: IntegerModel, *arguments: Any) -> Any:
        if error := next(calls, None):
            raise error
        return real(self, *arguments)

    monkeypatch.setattr(IntegerModel, "integer_logits", sometimes)
    outcome = run(*CLASSIFY, model, "a good film", "bad", " ", "dull")
    found = lines(outcome.out)
    assert ["label" in line for line in found] == [True, False, False, True]
    assert (found[1]["error"], found[1]["exit_code"]) == ("the circuit broke", 1)
    assert (found[2]["exit_code"], outcome.code) == (2, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--json", "a film"), ["--jsonl prints lines alone", "drop --json"]),
        (("--benchmark", "a film"), ["drop --json, --benchmark"]),
        (("--tokens", "9", "a film"), ["9 tokens asked for", "1 to 4"]),
        ((), ["no text"]),
    ],
)
def test_what_is_wrong_with_the_command_is_no_line(
    run,  # noqa: F811
    model: Path,  # noqa: F811
    arguments: tuple[str, ...],
    words: list[str],
) -> None:
    assert_refused(run(*CLASSIFY, model, *arguments), *words)


class Slow(io.StringIO):
    """An output that counts how often it was flushed."""

    flushed = 0

    def flush(self) -> None:
        self.flushed += 1


def test_lines_are_flushed_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Slow()
    monkeypatch.setattr(sys, "stdout", out)
    with Lines() as shown:
        for index in range(3):
            shown.deliver({"index": index, "probability": float("nan")})
            assert out.flushed == index + 1
    assert [json.loads(line)["probability"] for line in out.getvalue().splitlines()] == [None] * 3


def test_lines_stay_on_stdout_while_a_terminal_shows_progress(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """rich would else show on stderr what is printed meanwhile."""
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes stderr for a terminal then
    with Lines() as shown:
        shown.begin("layer0")
        shown.deliver({"index": 0})
    out, err = capsys.readouterr()
    assert out == '{"index": 0}\n'
    assert "layer0" in err and "index" not in err


def test_an_error_without_words_has_its_kind() -> None:
    assert line_of(Outcome(0, "a", error=MemoryError()))["error"] == "MemoryError"
    assert line_of(Outcome(0, "a", error=InputError("no\nway")))["error"] == "no way"


def test_whoever_reads_one_line_gets_it_and_may_go(model: Path) -> None:  # noqa: F811
    """As `head -1` does: only a true process has a pipe."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fhe_inhibitor", *CLASSIFY, str(model), *["a film"] * 2_000],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    assert json.loads(process.stdout.readline())["index"] == 0
    process.stdout.close()
    assert process.stderr.read() == b"fhe-inhibitor: nobody reads the output any more\n"
    process.stderr.close()
    assert process.wait(60) == 141
