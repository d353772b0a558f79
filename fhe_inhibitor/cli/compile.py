"""The command `fhe-inhibitor compile`: a model's circuits and report, in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fhe_inhibitor.cli.options import (
    JsonOption,
    ModelOption,
    PErrorOption,
    QuietOption,
    SplitOption,
    print_now,
)
from fhe_inhibitor.cli.worker import in_worker
from fhe_inhibitor.integer.model import DEFAULT_MODEL, IntegerModel
from fhe_inhibitor.system.extras import needs
from fhe_inhibitor.system.progress import Observer

if TYPE_CHECKING:
    from fhe_inhibitor.onnx.reader import ExportedModel


def compile(
    model: ModelOption = DEFAULT_MODEL,
    from_onnx: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Compile what export --quantized wrote instead."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write, new or empty.")] = Path(
        "build/circuits"
    ),
    measure: Annotated[
        bool,
        typer.Option(
            help="Time one lookup of each width and measure rounding noise; keys are dropped."
        ),
    ] = True,
    p_error: PErrorOption = None,
    split: SplitOption = 1,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write circuits for a server, specifications for its clients, and the per-layer report."""
    from fhe_inhibitor.cli.view import Display

    with Display(quiet) as display:
        work = CompileCircuits(model, from_onnx, out, measure, p_error, split)
        report = in_worker(work, display)
    print_now(report.json if as_json else report.markdown)


@dataclass(frozen=True)
class WrittenReport:
    """A report on circuits, as it is printed and written."""

    markdown: str
    json: str


@dataclass(frozen=True)
class CompileCircuits:
    """Writes circuits, client specifications and report of a model to a new or empty folder.

    from_onnx: a quantized graph to take the integers from, instead of a checkpoint. measured: make
    keys, which are dropped, time one lookup of each width, and measure the noise of rounding.
    p_error: of `compile.local.p_error`, the model's if None. split: for so many workers.
    """

    model: str
    from_onnx: Path | None
    out: Path
    measured: bool
    p_error: str | None
    split: int = 1

    def run(self, observer: Observer) -> WrittenReport:
        """Compile, and return the report. Raises InputError first if `out` isn't new or empty."""
        # Here, because these import Concrete, which the process that shows progress can spare.
        from compile.local.p_error import with_p_error
        from compile.local.prepared import compile_model
        from compile.module import check_new
        from compile.noise import measure_model_noise
        from compile.report import add_measurements, add_noise, describe, describe_noise
        from fhe_inhibitor.runtime.client import Client
        from fhe_inhibitor.runtime.server import Server

        check_new(self.out)  # before minutes are spent on what can't be written
        model: IntegerModel | ExportedModel
        if self.from_onnx is None:
            model = IntegerModel.load(self.model)
        else:
            with needs("onnx"):
                from fhe_inhibitor.onnx.reader import read_exported

            model = read_exported(self.from_onnx)
        model = with_p_error(model, self.p_error)
        compiled = compile_model(model, observer, split=self.split)
        compiled.save(self.out)
        report = describe(compiled)
        if self.measured:
            observer.begin("keygen")
            client, server = Client(self.out), Server(self.out)
            client.generate_keys()
            observer.begin("time lookups")
            keys = server.read_evaluation_keys(client.evaluation_keys())
            report = add_measurements(report, client, server, keys)
            observer.begin("measure rounding noise")
            noise = measure_model_noise(model.network, model.p_error, model.noise_std)
            report = add_noise(report, noise)
            for line in [describe_noise(measured) for measured in noise if measured.differs]:
                observer.note(line)
        written = WrittenReport(report.to_markdown(), report.to_json())
        (self.out / "report.md").write_text(written.markdown, encoding="utf-8")
        (self.out / "report.json").write_text(written.json, encoding="utf-8")
        return written
