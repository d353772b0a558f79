"""How one encrypted head slows down as sequences grow, inhibitor against dot product.

    python -m demos.timing_scaling 2 4 --out build/timing_scaling

The rounded circuits alone, a few calls each; `fhe-inhibitor benchmark attention` has all options.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compile.benchmark.report import attention_markdown, write_attention
from compile.benchmark.results import AttentionOptions
from compile.benchmark.run import benchmark_attention
from fhe_inhibitor.system.progress import Observer


class Printed(Observer):
    """Shows each step as it begins."""

    def begin(self, step: str) -> None:
        print(step, flush=True)


def main(
    lengths: Annotated[list[int] | None, typer.Argument(metavar="N...")] = None,
    out: Annotated[Path, typer.Option(help="Where JSON, tables and plots go.")] = Path(
        "build/timing_scaling"
    ),
) -> None:
    """Measure, then show ratios, times, lookups and qualities."""
    parameters = AttentionOptions(
        lengths=tuple(lengths or (2, 4, 8)),
        head_dim=2,
        bits=4,
        circuits=("inhibitor_rounded", "dot_product_rounded"),
        seeds=(0, 1, 2),
        repetitions=3,
        point_s=60.0,
        mode="execute",
    )
    results = benchmark_attention(parameters, out, None, Printed())
    write_attention(results, out)
    print(attention_markdown(results))


if __name__ == "__main__":
    typer.run(main)
