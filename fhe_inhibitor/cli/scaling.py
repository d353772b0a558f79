"""The command `fhe-inhibitor benchmark scaling`: one sentence over many cores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fhe_inhibitor.cli.cost import load_costed
from fhe_inhibitor.cli.options import (
    JsonOption,
    ModelOption,
    QuietOption,
    SplitOption,
    numbers,
    print_json,
    print_now,
)
from fhe_inhibitor.cli.worker import in_worker
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import DEFAULT_MODEL, IntegerModel
from fhe_inhibitor.system.extras import needs
from fhe_inhibitor.system.progress import Observer

if TYPE_CHECKING:
    from compile.scaling.results import SimulatedResults

RESULTS = Path("build/benchmarks")


def scaling(
    model: ModelOption = DEFAULT_MODEL,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR",
            help="With --simulate, a config.json of a model that isn't trained yet, instead.",
        ),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Length of the sentence; else the model's own.")
    ] = None,
    split: SplitOption = 1,
    threads: Annotated[
        str | None,
        typer.Option(metavar="N,N,...", help="Threads to measure; 1, 2, 4, ... all if not given."),
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(metavar="N,N,...", help="Measure so many Dask workers of one thread, too."),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(metavar="N", help="Run the first N layers only, with the whole model's keys."),
    ] = None,
    repetitions: Annotated[int, typer.Option(help="Runs of each number of threads.")] = 3,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Simulate machines that aren't here instead.")
    ] = False,
    machines: Annotated[
        str, typer.Option(metavar="N,N,...", help="With --simulate, how many machines.")
    ] = "1,4,16,64",
    cores: Annotated[
        str, typer.Option(metavar="N,N,...", help="With --simulate, cores of each.")
    ] = "1,16,64,192",
    network: Annotated[
        str, typer.Option(metavar="N,N,...", help="With --simulate, Gbit/s of each, both ways.")
    ] = "1,10,100",
    measured: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --simulate, a scaling_measured.json whose seconds on one thread to take; "
            "the cost model's if not given.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the results.")] = RESULTS,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Time one encrypted sentence on 1, 2, ... threads, or simulate it on many machines."""
    with needs("benchmark"):
        from compile.scaling import report
    from fhe_inhibitor.cli.view import Display
    from fhe_inhibitor.system.files import make_folder

    if simulate:
        if layers is not None or threads is not None or workers is not None:
            raise InputError(
                "--simulate runs whole sentences on no thread: drop --threads, --workers, --layers"
            )
        work = SimulateScaling(
            model,
            config,
            tokens,
            split,
            _positive(machines, "--machines"),
            _positive(cores, "--cores"),
            tuple(float(rate) for rate in _positive(network, "--network")),
            measured,
        )
        make_folder(out)
        with Display(quiet) as display:
            simulated = in_worker(work, display)
        report.write_simulated(simulated, out)
        if as_json:
            print_json(simulated.model_dump(mode="json"))
        else:
            print_now(report.simulated_markdown(simulated))
        return
    if config is not None or measured is not None:
        raise InputError("--config and --measured are of --simulate: add it, or drop them")
    from compile.scaling.run import all_threads, measure_scaling
    from fhe_inhibitor.system.child import silence_dependencies

    silence_dependencies()
    loaded = IntegerModel.load(model)
    asked = all_threads() if threads is None else _positive(threads, "--threads")
    members = () if workers is None else _positive(workers, "--workers")
    if members:
        with needs("cluster"):
            import distributed  # noqa: F401
    with Display(quiet) as display:
        results = measure_scaling(
            loaded, tokens or loaded.default_tokens, asked, split, layers, repetitions, out,
            display, members,
        )  # fmt: skip
    report.write_scaling(results, out)
    if as_json:
        print_json(results.model_dump(mode="json"))
    else:
        print_now(report.scaling_markdown(results))


@dataclass(frozen=True)
class SimulateScaling:
    """Simulates one sentence of a model on each fleet.

    config: of a model that isn't trained, instead of `model`. measured: a file of results whose
    seconds to take, or None.
    """

    model: str
    config: Path | None
    tokens: int | None
    split: int
    machines: tuple[int, ...]
    cores: tuple[int, ...]
    gbit_per_s: tuple[float, ...]
    measured: Path | None

    def run(self, observer: Observer) -> SimulatedResults:
        """Return what was simulated."""
        # Here, because it loads Concrete's compiler.
        from compile.scaling.results import MEASURED_BY, ScalingResults
        from compile.scaling.simulation import Fleet, simulate_fleet
        from fhe_inhibitor.system.files import read_results

        found = None
        if self.measured is not None:
            found = read_results(self.measured, ScalingResults, MEASURED_BY)
        observer.begin("load")
        costed = load_costed(self.model, self.config)
        n = self.tokens or costed.buckets[-1]
        if not 1 <= n <= costed.max_tokens:
            raise InputError(f"--tokens {n}: this model reads 1 to {costed.max_tokens} tokens")
        name = Path(self.model).name if self.config is None else str(self.config)
        fleet = Fleet(self.machines, self.cores, self.gbit_per_s)
        how = costed.network, n, costed.p_error, self.split
        return simulate_fleet(name, *how, fleet, observer, found, costed.hash)


def _positive(text: str, option: str) -> tuple[int, ...]:
    """Return the positive integers of a comma-separated list."""
    found = numbers(text, option)
    if min(found, default=0) < 1:
        raise InputError(f"{option} {text}: pass positive integers with commas, such as 1,2,4")
    return found
