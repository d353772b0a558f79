"""The command `fhe-inhibitor cost`: what a model costs encrypted, before it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fhe_inhibitor.cli.compile import WrittenReport
from fhe_inhibitor.cli.options import JsonOption, PErrorOption, QuietOption, SplitOption, print_now
from fhe_inhibitor.cli.worker import in_worker
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import DEFAULT_MODEL, IntegerModel
from fhe_inhibitor.system.extras import needs
from fhe_inhibitor.system.progress import Observer

if TYPE_CHECKING:
    from circuits.network import Network


def cost(
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME|DIR", help="A shipped checkpoint or a model folder."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR", help="A config.json of a model that isn't trained yet, instead."
        ),
    ] = None,
    tokens: Annotated[
        list[int] | None,
        typer.Option(metavar="N", help="A sequence length; repeat it. Else the model's own."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A report.json of `compile` on the machine to predict seconds of."
        ),
    ] = None,
    p_error: PErrorOption = None,
    split: SplitOption = 1,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Predict lookups, complexity, seconds and sizes for each length, without compiling the model.

    Lookups and complexity are those that `compile` finds.
    """
    from fhe_inhibitor.cli.view import Display

    if model is not None and config is not None:
        raise InputError("--model and --config are two models; name one")
    work = EstimateCost(model or DEFAULT_MODEL, config, tuple(tokens or ()), report, p_error, split)
    with Display(quiet) as display:
        written = in_worker(work, display)
    print_now(written.json if as_json else written.markdown)


@dataclass(frozen=True)
class CostedModel:
    """What is asked for: a network, its lengths, and the most tokens that its tables allow.

    hash: of the model, None for one that isn't trained.
    """

    network: Network
    buckets: tuple[int, ...]
    max_tokens: int
    p_error: float
    hash: str | None = None


@dataclass(frozen=True)
class EstimateCost:
    """Estimates what a model's circuits would cost.

    model: a name or folder, unless `config` has one that isn't trained. tokens: sequence lengths,
    the model's own if empty. report: of `compile`, to take the machine's speed from, or None.
    split: for so many workers.
    """

    model: str
    config: Path | None
    tokens: tuple[int, ...]
    report: Path | None
    p_error: str | None
    split: int = 1

    def run(self, observer: Observer) -> WrittenReport:
        """Return the report."""
        from compile.cost.blocks import choose_blocks
        from compile.cost.report import estimate
        from compile.cost.speed import USUAL, read_speed
        from compile.local.p_error import with_p_error

        speed = USUAL if self.report is None else read_speed(self.report)
        observer.begin("load")
        asked = with_p_error(load_costed(self.model, self.config), self.p_error)
        too_long = [n for n in self.tokens if not 1 <= n <= asked.max_tokens]
        if too_long:
            raise InputError(
                f"--tokens {too_long[0]}: this model reads 1 to {asked.max_tokens} tokens"
            )
        observer.begin("choose parameters")
        lengths = self.tokens or asked.buckets
        how = asked.network, lengths, asked.p_error
        report = estimate(*how, speed, choose_blocks(*how, self.split, speed))
        return WrittenReport(report.to_markdown(), report.to_json())


def load_costed(name: str, config: Path | None) -> CostedModel:
    """Return a model by name or folder, or the one that a config.json describes."""
    if config is None:
        model = IntegerModel.load(name)
        how = model.network, model.buckets, model.max_tokens, model.p_error
        return CostedModel(*how, model.hash)
    with needs("train"):
        from fhe_inhibitor.model.untrained import read_config, untrained_network
    read = read_config(config)
    network = untrained_network(read)
    return CostedModel(network, tuple(read.buckets), read.n_tokens, read.p_error)
