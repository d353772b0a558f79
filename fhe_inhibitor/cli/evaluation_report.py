"""The command `fhe-inhibitor evaluate-report`: a page of what `evaluate --out` kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fhe_inhibitor.cli.options import print_now
from fhe_inhibitor.system.extras import needs


def evaluate_report(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE.jsonl...", help="What evaluate --out kept.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of page and plots.")] = Path(
        "docs"
    ),
) -> None:
    """Write decrypted_accuracy.md, with plots and every logit as JSON, from evaluations."""
    with needs("benchmark"):
        from compile.evaluation.page import write_page
    from fhe_inhibitor.system.files import make_folder

    make_folder(out)
    print_now(write_page(files, out))
