"""What the documentation says exists: files, names, options; and the README stays short."""

from __future__ import annotations

import ast
import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

import fhe_inhibitor
from fhe_inhibitor.cli.main import app
from fhe_inhibitor.runtime.costs import StageCost

REPOSITORY = Path(__file__).resolve().parents[1]
README = REPOSITORY / "README.md"
MAX_WORDS = 900
GENERATED = {
    "ablation", "accuracy_and_time", "attention", "benchmarks", "decrypted_accuracy", "digits",
    "experiments", "neighbours", "piece_limits", "plaintext", "scaling", "scaling_measured",
    "scaling_simulated",
}  # fmt: skip
PAGES = [
    README,
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "CHANGELOG.md",
    REPOSITORY / "NOTICE",
    REPOSITORY / "demos" / "README.md",
    *sorted((REPOSITORY / "fhe_inhibitor" / "checkpoints").glob("*/README.md")),
    *(path for path in sorted((REPOSITORY / "docs").glob("*.md")) if path.stem not in GENERATED),
]
FOLDERS = "circuits|compile|demos|docs|fhe_inhibitor|tests|training|experiments"
CODE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SIX_QUESTIONS = (
    "equation as a circuit", "verified before", "secret key written", "HTTP request",
    "student trained", "kind of attention",
)  # fmt: skip


def page_id(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def python_blocks(path: Path) -> list[str]:
    return [
        code for language, code in CODE.findall(path.read_text("utf-8")) if language == "python"
    ]


def names_in(module: str) -> set[str]:
    """What can be taken from a module of ours, read from its source: importing takes seconds."""
    place = REPOSITORY.joinpath(*module.split("."))
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    found = {path.stem for path in place.glob("*")} if place.is_dir() else set()
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {ast.unparse(target) for target in node.targets}
    return found | set(fhe_inhibitor.__all__ if module == "fhe_inhibitor" else ())


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_files_that_are_named_exist(page: Path) -> None:
    """In `code`, as a whole path; a room of fhe_inhibitor may stand without that name."""
    named = re.findall(rf"`((?:{FOLDERS})/[\w./-]*)`", page.read_text("utf-8"))
    roots = (REPOSITORY, REPOSITORY / "fhe_inhibitor")
    missing = [name for name in named if not any((root / name).exists() for root in roots)]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+?)(?:#[\w-]+)?\)", page.read_text("utf-8"))
    local = [target for target in targets if "://" not in target]
    assert not [target for target in local if not (page.parent / target).exists()]


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_modules_and_functions_that_are_named_exist(page: Path) -> None:
    """Dotted names in `code`, such as `fhe_inhibitor.integer.evaluation.evaluate(...)`."""
    text = page.read_text("utf-8")
    for name in re.findall(r"`((?:circuits|compile|fhe_inhibitor)(?:\.\w+)+)", text):
        module, _, attribute = name.rpartition(".")
        assert attribute in names_in(module), name


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_and_options_that_are_named_exist(page: Path) -> None:
    command: Any = typer.main.get_command(app)
    for line in re.findall(r"fhe-inhibitor ([a-z][^`#\n]*)", page.read_text("utf-8")):
        words = line.split(" -- ")[0].split()  # what follows is for another program, or a text
        found = command
        while words and hasattr(found, "commands") and words[0] in found.commands:
            found = found.commands[words.pop(0)]
        if found is command:
            continue  # prose, or several commands in braces
        options = {name for parameter in found.params for name in parameter.opts}
        options |= {name for parameter in found.params for name in parameter.secondary_opts}
        unknown = {word for word in words if word.startswith("--")} - options
        assert not unknown, line


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_python_is_python_and_its_imports_exist(page: Path) -> None:
    for code in python_blocks(page):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("fhe_inhibitor"):
                assert {alias.name for alias in node.names} <= names_in(str(node.module))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_targets_of_make_that_are_named_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text("utf-8"), re.M))
    assert set(re.findall(r"(?:^    |`)make ([a-z-]+)", page.read_text("utf-8"), re.M)) <= targets


@pytest.mark.packaging
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    subprocess.run([*build, "--site-dir", str(tmp_path)], cwd=REPOSITORY, check=True)
    commands = (tmp_path / "command_line.html").read_text("utf-8")
    assert "fhe-inhibitor classify" in commands and "--tokens" in commands
    assert "classify_many" in (tmp_path / "python.html").read_text("utf-8")


def test_the_readme_is_short() -> None:
    assert len(README.read_text("utf-8").split()) <= MAX_WORDS


def test_the_readme_s_python_is_ten_lines_of_the_public_face() -> None:
    (code,) = python_blocks(README)
    imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]
    assert [node.module for node in imports] == ["fhe_inhibitor"]
    assert len(code.splitlines()) <= 10


def test_the_readme_s_python_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the clear; encrypted it would take a minute. So the names of a stage are checked apart."""
    (code,) = python_blocks(README)
    session = fhe_inhibitor.Session
    monkeypatch.setattr(fhe_inhibitor, "Session", lambda model: session(model, mode="disable"))
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("positive 0.9")
    fields = {field.name for field in dataclasses.fields(StageCost)}
    read = {
        node.attr
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "stage"
    }
    assert read and read <= fields


def test_six_questions_have_a_file_each() -> None:
    rows = re.findall(
        r"^\| (.*?\?) \| `(.*?)` \|$", (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8"), re.M
    )
    assert len(rows) == len(SIX_QUESTIONS)
    for (question, file), words in zip(rows, SIX_QUESTIONS, strict=True):
        assert words in question
        assert (REPOSITORY / file).is_file()
