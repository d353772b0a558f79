"""The page on the command line, written by typer from the commands themselves at each build."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from fhe_inhibitor.cli.exit_codes import markdown_table

PAGE = "command_line.md"
INTRODUCTION = Path(__file__).with_name("command_line_introduction.md")
EXIT_CODES = "EXIT_CODES"  # where the table goes


def on_files(files: Files, config: Any) -> Files:
    """Add the page to those of the folder."""
    files.append(File.generated(config, PAGE, content=introduction() + commands()))
    return files


def introduction() -> str:
    """Return what stands before the reference, with the table of exit codes."""
    return INTRODUCTION.read_text("utf-8").replace(EXIT_CODES, markdown_table()) + "\n"


def commands() -> str:
    """Return the reference of all commands, their headings one level down."""
    typer = [sys.executable, "-m", "typer", "fhe_inhibitor.cli.main", "utils", "docs"]
    command = [*typer, "--name", "fhe-inhibitor"]
    page = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return "\n".join(f"#{line}" if line.startswith("#") else line for line in page.splitlines())
