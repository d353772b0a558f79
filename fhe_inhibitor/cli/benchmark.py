"""The commands `fhe-inhibitor benchmark ...`: they parse, call and print.

benchmark attention    one encrypted head, inhibitor against dot product
benchmark plaintext    the same in the clear
benchmark scaling      one sentence over many cores, measured or simulated
benchmark report       pages from their results
benchmark noise        the noise of encrypted rounding
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from fhe_inhibitor.cli.options import (
    InsecureClusterOption,
    JsonOption,
    QuietOption,
    SharedOption,
    cluster_asked,
    numbers,
    print_json,
    print_now,
)
from fhe_inhibitor.cli.scaling import scaling
from fhe_inhibitor.cli.worker import in_worker
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.extras import needs
from fhe_inhibitor.system.progress import Observer

RESULTS = Path("build/benchmarks")
QUICK_LENGTH, QUICK_REPETITIONS, QUICK_BUDGET_S = 4, 3, 280.0

app = typer.Typer(no_args_is_help=True)

OutOption = Annotated[Path, typer.Option(metavar="DIR", help="Folder of the results.")]


@app.callback()
def options() -> None:
    """Measure one attention head as sequences grow, and one sentence over many cores."""


app.command()(scaling)


@app.command()
def attention(
    lengths: Annotated[
        str, typer.Option(metavar="N,N,...", help="Sequence lengths, 2 tokens or more.")
    ] = "2,4,8,16",
    head_dim: Annotated[int, typer.Option(help="Width of the head; 64 is DistilBERT's.")] = 2,
    bits: Annotated[int, typer.Option(help="Of the operands q, k, v: 2 to 8.")] = 4,
    circuits: Annotated[
        str, typer.Option(metavar="NAME,...", help="Circuits; inhibitor_signed is one more.")
    ] = "inhibitor_exact,inhibitor_rounded,dot_product_exact,dot_product_rounded",
    seeds: Annotated[
        str, typer.Option(metavar="N,N,...", help="Of the inputs; repetitions take them in turn.")
    ] = "0,1,2,3,4",
    repetitions: Annotated[int, typer.Option(help="Calls of each circuit at each length.")] = 10,
    point_s: Annotated[
        float, typer.Option(help="After two calls, repeat until a circuit ran this long.")
    ] = 60.0,
    mode: Annotated[
        str, typer.Option(metavar="execute|simulate", help="Encrypted, or counts and quality only.")
    ] = "execute",
    budget_s: Annotated[
        float | None, typer.Option(help="Begin nothing that would end after this time.")
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(help="Lengths to 4, three calls of each; 280 s if no budget is set."),
    ] = False,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="tls://HOST:PORT",
            help="Have the workers of this Dask scheduler run the heads.",
        ),
    ] = None,
    split: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="With --scheduler, cut each head into N blocks of queries, which run at once.",
        ),
    ] = 1,
    insecure_cluster: InsecureClusterOption = False,
    shared: SharedOption = None,
    out: OutOption = RESULTS,
    quiet: QuietOption = False,
) -> None:
    """Time encrypted heads of both mechanisms, in turn, at growing lengths."""
    with needs("benchmark"):
        from compile.benchmark.report import attention_markdown, write_attention
        from compile.benchmark.results import AttentionOptions
        from compile.benchmark.run import benchmark_attention
    from fhe_inhibitor.cli.view import Display
    from fhe_inhibitor.system.child import silence_dependencies

    silence_dependencies()
    if mode not in ("execute", "simulate"):
        raise InputError(f"mode {mode!r}; wanted execute or simulate")
    cluster = cluster_asked(scheduler, insecure_cluster, shared)
    parameters = AttentionOptions(
        lengths=tuple(n for n in numbers(lengths, "--lengths") if not quick or n <= QUICK_LENGTH),
        head_dim=head_dim,
        bits=bits,
        circuits=tuple(name for name in circuits.split(",") if name),
        seeds=numbers(seeds, "--seeds"),
        repetitions=min(repetitions, QUICK_REPETITIONS) if quick else repetitions,
        point_s=point_s,
        mode="execute" if mode == "execute" else "simulate",
        split=split,
    )
    if quick and budget_s is None:
        budget_s = QUICK_BUDGET_S
    with Display(quiet) as display:
        results = benchmark_attention(parameters, out, budget_s, display, cluster)
    write_attention(results, out)
    print_now(attention_markdown(results))


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
    ablate: Annotated[
        bool, typer.Option(help="Also compile without VNNI and without AVX-512, to compare.")
    ] = True,
    out: OutOption = RESULTS,
    quiet: QuietOption = False,
) -> None:
    """Time int16 heads in the clear, one thread: JSON, CSV, Markdown and a plot."""
    with needs("benchmark"):
        from fhe_inhibitor.benchmark.report import plaintext_markdown, write_plaintext
        from fhe_inhibitor.benchmark.run import (
            DEFAULT_KERNELS,
            add_ablations,
            benchmark_plaintext,
        )
    from fhe_inhibitor.cli.view import Display
    from fhe_inhibitor.system.files import make_folder

    names = DEFAULT_KERNELS if kernels is None else [name for name in kernels.split(",") if name]
    asked = numbers(lengths, "--lengths")
    make_folder(out)
    with Display(quiet) as display:
        results = benchmark_plaintext(asked, names, repetitions, seed, display)
        if ablate:
            display.begin("ablations")
            results = add_ablations(results)
    write_plaintext(results, out)
    print_now(plaintext_markdown(results))


@app.command()
def report(
    results: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Folder with attention.json, plaintext.json, scaling_measured.json, "
            "scaling_simulated.json.",
        ),
    ] = RESULTS,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of page and plots.")] = Path(
        "docs"
    ),
) -> None:
    """Write benchmarks.md and scaling.md, with plots and tables, from what was measured."""
    with needs("benchmark"):
        from compile.benchmark.page import has_results, write_page
        from compile.scaling import report as scaling_report
    from fhe_inhibitor.system.child import silence_dependencies
    from fhe_inhibitor.system.files import make_folder

    silence_dependencies()
    make_folder(out)
    has_scaling = scaling_report.has_results(results)
    if has_results(results) or not has_scaling:
        print_now(write_page(results, out))
    if has_scaling:
        print_now(scaling_report.write_page(results, out))


@app.command()
def noise(
    bits: Annotated[int, typer.Option(min=1, max=8, help="Width of the rounded lookups.")] = 5,
    norm: Annotated[float, typer.Option(help="2-norm of the weights before a lookup.")] = 8.0,
    lookups: Annotated[int, typer.Option(min=1, help="How many to run, 256 at a time.")] = 4096,
    as_json: JsonOption = False,
) -> None:
    """Measure the noise of encrypted rounding, in rounding steps: what training draws."""
    found = in_worker(MeasureNoise(bits, norm, lookups), Observer())
    if as_json:
        print_json(found)
        return
    std, mean = (
        f"{found[name]:.3f} (standard error {found[f'{name}_error']:.3f})"
        for name in ("std", "mean")
    )
    print_now(f"standard deviation   {std}")
    print_now(f"mean                 {mean}")
    print_now(f"the entry beside     {found['flip_rate']:.1%} of {found['n_lookups']:,} lookups")
    print_now(f"another wrong entry  {found['far_rate']:.1%}")


@dataclass(frozen=True)
class MeasureNoise:
    """Measures the noise of encrypted rounding; see `noise`."""

    bits: int
    norm: float
    lookups: int

    def run(self, observer: Observer) -> dict[str, Any]:
        """Return what was measured, by the names of `RoundingNoise`."""
        # Here, because a process that has run a circuit can't say by its exit status what failed.
        from compile.noise import measure_rounding_noise

        return asdict(measure_rounding_noise(self.bits, self.norm, n_lookups=self.lookups))
