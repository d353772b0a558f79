"""The commands `fhe-inhibitor benchmark ...`: they parse, call and print.

benchmark attention    one encrypted head, inhibitor against dot product
benchmark plaintext    the same in the clear
benchmark report       one page from the results of both
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fhe_inhibitor.errors import InputError

app = typer.Typer(no_args_is_help=True)


@app.callback()
def options() -> None:
    """Measure one attention head as sequences grow, encrypted and in the clear."""


@app.command()
def attention() -> None:
    """Time encrypted heads of both mechanisms, in turn, at growing lengths."""
    raise NotImplementedError


@app.command()
def plaintext(
    lengths: Annotated[
        str, typer.Option(metavar="N,N,...", help="Sequence lengths, multiples of 32 to 1024.")
    ] = "32,64,128,256,512,1024",
    kernels: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Kernels to compare; all if not given.")
    ] = None,
    repetitions: Annotated[int, typer.Option(help="Timings of each kernel and length.")] = 101,
    seed: Annotated[int, typer.Option(help="Of the operands and the order of kernels.")] = 0,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the results.")] = Path(
        "build/benchmarks"
    ),
) -> None:
    """Time int16 heads in the clear, one thread: JSON, CSV, Markdown and a plot."""
    from fhe_inhibitor.measurements import make_folder
    from fhe_inhibitor.plaintext_benchmark import DEFAULT_KERNELS, benchmark_plaintext
    from fhe_inhibitor.plaintext_report import plaintext_markdown, write_plaintext

    names = DEFAULT_KERNELS if kernels is None else [name for name in kernels.split(",") if name]
    numbers = _numbers(lengths, "--lengths")
    make_folder(out)
    results = benchmark_plaintext(
        numbers, names, repetitions, seed, lambda line: print(line, file=sys.stderr)
    )
    write_plaintext(results, out)
    print(plaintext_markdown(results))


def _numbers(text: str, option: str) -> list[int]:
    """Return the integers of a comma-separated list."""
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise InputError(f"{option} {text}: pass integers with commas, such as 32,64") from None
