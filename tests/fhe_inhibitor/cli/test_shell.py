"""What people expect of a command line: completion, and an option that hides progress."""

from __future__ import annotations

import inspect
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from fhe_inhibitor.cli.main import app, main
from fhe_inhibitor.cli.view import Display

VARIABLE = "_FHE_INHIBITOR_COMPLETE"


def complete(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    """Return what a shell is told that the last word of a line may become."""
    monkeypatch.setenv(VARIABLE, "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    with pytest.raises(SystemExit) as exit_:
        main([])
    assert not exit_.value.code
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("fhe-inhibitor cla", ["classify"]),
        ("fhe-inhibitor keys ", ["new", "list", "remove"]),
        ("fhe-inhibitor classify --js", ["--json", "--jsonl"]),
        ("fhe-inhibitor classify --mode s", ["simulate"]),
        ("fhe-inhibitor serve --p-error 2^-4", ["2^-40"]),
        ("fhe-inhibitor compile --model inhibidistilbert-n", ["inhibidistilbert-nano-sst2"]),
    ],
)
def test_a_word_is_completed(
    line: str,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert complete(line, monkeypatch, capsys) == words


def test_the_values_that_are_completed_are_those_that_are_taken() -> None:
    from compile.local.p_error import P_ERRORS
    from compile.local.session import MODES
    from fhe_inhibitor.cli import options

    assert options.MODES == MODES
    assert tuple(P_ERRORS) == options.P_ERRORS


def test_bash_takes_the_script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: "bash")
    with pytest.raises(SystemExit) as exit_:
        main(["--show-completion"])
    assert not exit_.value.code
    script = capsys.readouterr().out
    assert f"{VARIABLE}=complete_bash" in script
    done = subprocess.run(
        ["bash", "-c", f"{script}\ncomplete -p fhe-inhibitor"],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
        check=True,
    )
    assert done.stdout.strip().endswith(" fhe-inhibitor") and not done.stderr


def commands() -> Iterator[tuple[str, Any]]:
    """Yield each command that does something, and its name."""
    waiting: list[tuple[str, Any]] = [("", typer.main.get_command(app))]
    while waiting:
        name, command = waiting.pop()
        children = getattr(command, "commands", {})
        waiting += [(f"{name} {child}".strip(), content) for child, content in children.items()]
        if not children:
            yield name, command


def test_every_command_with_progress_can_hide_it() -> None:
    found = {}
    for name, command in commands():
        shows = "as display" in inspect.getsource(inspect.unwrap(command.callback))
        found[name] = shows
        assert shows == any("--quiet" in parameter.opts for parameter in command.params), name
    assert found["classify"] and found["train"] and not found["keys list"]


@pytest.mark.parametrize("quiet", [False, True])
def test_quiet_hides_progress_and_no_notes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], quiet: bool
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes stderr for a terminal then
    with Display(quiet) as display:
        display.plan(2, "lookups")
        display.begin("layer0")
        display.finish(1)
        display.note("2 tokens are cut")
    out, err = capsys.readouterr()
    assert out == "" and "note: 2 tokens are cut" in err
    assert ("layer0" in err) != quiet
