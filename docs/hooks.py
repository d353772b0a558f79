"""The page on the command line, written by typer from the commands themselves at each build."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from mkdocs.structure.files import File, Files

PAGE = "command_line.md"
INTRODUCTION = """# Command line

Exit codes: 0; 1 for a failure at run time; 2 for bad input or a missing extra; 130 after Ctrl-C.
An error is one line on stderr. `FHE_INHIBITOR_TRACEBACK=1` shows where it came from. With `--json`
a command prints JSON to stdout and nothing else.

"""


def on_files(files: Files, config: Any) -> Files:
    """Add the page to those of the folder."""
    files.append(File.generated(config, PAGE, content=INTRODUCTION + commands()))
    return files


def commands() -> str:
    """Return the reference of all commands, their headings one level down."""
    typer = [sys.executable, "-m", "typer", "fhe_inhibitor.cli.main", "utils", "docs"]
    command = [*typer, "--name", "fhe-inhibitor"]
    page = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return "\n".join(f"#{line}" if line.startswith("#") else line for line in page.splitlines())
