"""The commands of a server's operator: `fhe-inhibitor serve` and `fhe-inhibitor token`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from fhe_inhibitor.cli.worker import in_worker
from fhe_inhibitor.integer.model import DEFAULT_MODEL, IntegerModel
from fhe_inhibitor.system.extras import needs
from fhe_inhibitor.system.progress import Observer

ConfigOption = Annotated[
    Path | None, typer.Option(metavar="FILE.toml", help="Settings; the environment goes before.")
]
DataOption = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder of keys, jobs and tokens.")
]


def serve(
    models: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="NAME|DIR", help="A model to serve; may be repeated."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    data: DataOption = None,
    workers: Annotated[int | None, typer.Option(help="Processes that compute.")] = None,
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE.pem", help="Certificate, for HTTPS.")
    ] = None,
    certificate_key: Annotated[
        Path | None, typer.Option(metavar="FILE.pem", help="Its private key.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Run a server that classifies encrypted text for clients elsewhere."""
    from fhe_inhibitor.cli.view import Display

    with needs("server"):
        from fhe_inhibitor.service.process import serve as serve_models
        from fhe_inhibitor.service.settings import load_settings

    settings = load_settings(
        config,
        host=host,
        port=port,
        data_dir=data,
        workers=workers,
        certificate=certificate,
        certificate_key=certificate_key,
    )
    with Display() as display:
        folders = in_worker(PrepareModels(tuple(models or [DEFAULT_MODEL])), display)
    serve_models(settings, folders)


def token(
    user: Annotated[str, typer.Argument(metavar="USER", help="Whose keys and jobs it opens.")],
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a token for a user and print it; the server keeps its hash alone."""
    with needs("server"):
        from fhe_inhibitor.service.access import new_token
        from fhe_inhibitor.service.settings import load_settings

    print(new_token(load_settings(config, data_dir=data).tokens, user))


@dataclass(frozen=True)
class PrepareModels:
    """Compiles models' circuits unless the cache has them."""

    models: tuple[str, ...]

    def run(self, observer: Observer) -> list[Path]:
        """Return the folders of the circuits."""
        from compile.local.prepared import prepare_circuits

        return [prepare_circuits(IntegerModel.load(x), observer=observer) for x in self.models]
