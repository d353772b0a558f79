"""What the page on the command line gets at each build: the reference that typer writes."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

PAGE = "command_line.md"


def on_page_markdown(markdown: str, *, page: Page, config: Any, files: Files) -> str:
    """Add the reference of all commands to the page on them."""
    return f"{markdown}\n{commands()}" if page.file.src_path == PAGE else markdown


def commands() -> str:
    """Return the reference of all commands, their headings one level down."""
    typer = [sys.executable, "-m", "typer", "fhe_inhibitor.cli.main", "utils", "docs"]
    command = [*typer, "--name", "fhe-inhibitor"]
    page = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return "\n".join(f"#{line}" if line.startswith("#") else line for line in page.splitlines())
