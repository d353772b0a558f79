"""The commands `fhe-inhibitor experiments ...`: they parse, call and print.

experiments run       everything of a plan that has no result yet
experiments report    one page from the results
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fhe_inhibitor.cli.options import QuietOption, print_now
from fhe_inhibitor.system.extras import needs

app = typer.Typer(no_args_is_help=True)

RESULTS = Path("docs/experiments")
PLAN = Path("demos/experiments.yaml")


@app.callback()
def options() -> None:
    """Run experiments from a plan and write the page of their results."""


@app.command()
def run(
    plan: Annotated[
        Path, typer.Option(metavar="FILE", help="YAML, see demos/experiments.yaml.")
    ] = PLAN,
    work: Annotated[
        Path, typer.Option(metavar="DIR", help="Models, and state to go on from.")
    ] = Path("build/experiments"),
    results: Annotated[Path, typer.Option(metavar="DIR", help="Results as JSON.")] = RESULTS,
    only: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="These entries of the plan.")
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Run what has no result yet; an interrupted experiment goes on where it stopped."""
    from fhe_inhibitor.cli.distill import silence_transformers
    from fhe_inhibitor.cli.view import Display

    with needs("train"):
        from fhe_inhibitor.experiments.plan import read_plan, run_plan

    silence_transformers()
    names = only.split(",") if only else None
    with Display(quiet) as display:
        run_plan(read_plan(plan), work, results, names, display)


@app.command()
def report(
    results: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the results.")] = RESULTS,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the page.")] = Path("docs"),
) -> None:
    """Write experiments.md, with its plots and tables."""
    with needs("train"):
        from fhe_inhibitor.experiments.report import write_report

    print_now(write_report(results, out))
