"""Options that several commands share, and how JSON is printed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

TOKEN_VARIABLE, PASSPHRASE_VARIABLE = "FHE_INHIBITOR_TOKEN", "FHE_INHIBITOR_PASSPHRASE"

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help=f"Holds the server's token; else {TOKEN_VARIABLE} does."),
]
CaOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Certificates to trust instead of the usual ones."),
]
AcceptNewModelOption = Annotated[
    bool,
    typer.Option("--accept-new-model", help="Take a model that isn't the one the server had."),
]
InsecureOption = Annotated[
    bool,
    typer.Option("--insecure", help="Send the token even where others can read it."),
]
ModelOption = Annotated[
    str,
    typer.Option("--model", metavar="NAME|DIR", help="A shipped checkpoint or a model folder."),
]
ModeOption = Annotated[
    str,
    typer.Option(
        metavar="disable|simulate|execute",
        help="The integer model without encryption, simulated encryption, or encryption.",
    ),
]
PErrorOption = Annotated[
    str | None,
    typer.Option(
        "--p-error",
        metavar="2^-20|2^-40|2^-64|2^-128",
        help="How likely one lookup errs, the model's own if not given; less is slower.",
    ),
]
LabelsOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,NAME,...", help="Of the classes 0, 1, ... in texts of your own, in --data."
    ),
]
TokensOption = Annotated[
    int | None,
    typer.Option(metavar="N", help="Read the N most important tokens; fewer are faster."),
]


def passphrase_in_environment() -> str | None:
    """Return the passphrase of the keys that the environment gives, if any.

    Without the end of a line, which comes with `"$(cat file; echo)"` and from no terminal.
    """
    return os.environ.get(PASSPHRASE_VARIABLE, "").rstrip("\r\n") or None


def print_json(content: dict[str, Any] | list[dict[str, Any]]) -> None:
    """Print what `--json` promises: JSON and nothing else. NaN and infinity, no JSON, are null."""
    print(json.dumps(_finite(content), indent=1, allow_nan=False))


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
