"""The commands `fhe-inhibitor benchmark ...`: they parse, call and print.

    benchmark attention    one encrypted head, inhibitor against dot product
    benchmark plaintext    the same in the clear
    benchmark report       one page from the results of both
"""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True)


@app.callback()
def options() -> None:
    """Measure one attention head as sequences grow, encrypted and in the clear."""


@app.command()
def attention() -> None:
    """Time encrypted heads of both mechanisms, in turn, at growing lengths."""
    raise NotImplementedError
