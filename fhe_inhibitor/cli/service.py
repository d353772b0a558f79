"""The commands of a server's operator: `fhe-inhibitor serve` and `fhe-inhibitor tokens ...`.

tokens new      make a token for a user
tokens list     whose tokens the server takes
tokens revoke   take back all tokens of a user
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from fhe_inhibitor.cli.options import (
    InsecureClusterOption,
    JsonOption,
    PErrorOption,
    QuietOption,
    SchedulerOption,
    SharedOption,
    SplitOption,
    print_json,
    print_now,
)
from fhe_inhibitor.cli.worker import in_worker
from fhe_inhibitor.integer.model import DEFAULT_MODEL, IntegerModel
from fhe_inhibitor.system.extras import needs
from fhe_inhibitor.system.files import writing
from fhe_inhibitor.system.progress import Observer

tokens = typer.Typer(no_args_is_help=True)

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
    p_error: PErrorOption = None,
    long: Annotated[
        bool, typer.Option("--long", help="Serve circuits that classify long documents too.")
    ] = False,
    scheduler: SchedulerOption = None,
    insecure_cluster: InsecureClusterOption = False,
    shared: SharedOption = None,
    split: SplitOption = 1,
    config: ConfigOption = None,
    quiet: QuietOption = False,
) -> None:
    """Run a server that classifies encrypted text for clients elsewhere."""
    from fhe_inhibitor.cli.view import Display

    with needs("server"):
        from fhe_inhibitor.service.process import make_data_folder
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
        scheduler=scheduler,
        insecure_cluster=insecure_cluster or None,
        cluster_shared=shared,
    )
    make_data_folder(settings.data_dir)  # refused before models are compiled, which takes long
    with Display(quiet) as display:
        work = PrepareModels(tuple(models or [DEFAULT_MODEL]), p_error, long, split)
        folders = in_worker(work, display)
    serve_models(settings, folders)


@tokens.callback()
def options() -> None:
    """Make, list and revoke the tokens of a server's users."""


@tokens.command()
def new(
    user: Annotated[str, typer.Argument(metavar="USER", help="Whose keys and jobs it opens.")],
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a token for a user and print it; the server keeps its hash alone."""
    with needs("server"):
        from fhe_inhibitor.service.access import new_token

    path = _tokens_file(config, data)
    with writing(f"the file of tokens {path}", "name another folder with --data"):
        made = new_token(path, user)
    print_now(made)  # not above: a pipe that closes is no fault of the file


@tokens.command(name="list")
def list_tokens(
    data: DataOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """List the users with a token, and the first digits of each token's SHA-256."""
    with needs("server"):
        from fhe_inhibitor.service import access

    rows = access.list_tokens(_tokens_file(config, data))
    if as_json:
        print_json([{"user": user, "sha256": digest} for user, digest in rows])
    elif rows:
        print_now("\n".join(f"{digest[:12]}  {user}" for user, digest in rows))


@tokens.command()
def revoke(
    user: Annotated[str, typer.Argument(metavar="USER", help="Who is not to be served any more.")],
    data: DataOption = None,
    config: ConfigOption = None,
) -> None:
    """Take back all tokens of a user; a running server refuses them from then on."""
    with needs("server"):
        from fhe_inhibitor.service import access

    path = _tokens_file(config, data)
    with writing(f"the file of tokens {path}", "name another folder with --data"):
        n_tokens = access.revoke(path, user)
    print_now(f"revoked {n_tokens} token{'s' * (n_tokens > 1)} of {user}")


def _tokens_file(config: Path | None, data: Path | None) -> Path:
    from fhe_inhibitor.service.settings import load_settings

    return load_settings(config, data_dir=data).tokens


@dataclass(frozen=True)
class PrepareModels:
    """Compiles models' circuits unless the cache has them.

    p_error: of `compile.local.p_error`, each model's own if None. documents: circuits that classify
    long documents too. split: for so many workers.
    """

    models: tuple[str, ...]
    p_error: str | None
    documents: bool = False
    split: int = 1

    def run(self, observer: Observer) -> list[Path]:
        """Return the folders of the circuits."""
        from compile.local.p_error import with_p_error
        from compile.local.prepared import prepare_circuits

        # All are loaded before one is compiled.
        models = [with_p_error(IntegerModel.load(x), self.p_error) for x in self.models]
        return [
            prepare_circuits(model, observer=observer, documents=self.documents, split=self.split)
            for model in models
        ]
