"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
