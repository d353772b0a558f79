"""The command `fhe-inhibitor app`: parses, prepares, serves the page."""

from __future__ import annotations

from typing import Annotated

import typer

from fhe_inhibitor.cli.options import (
    AcceptNewModelOption,
    CaOption,
    InsecureOption,
    ModelHereOrThereOption,
    PErrorOption,
    QuietOption,
    ServerOption,
    TokenFileOption,
    check_server_options,
    passphrase_in_environment,
    print_now,
)
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import DEFAULT_MODEL, IntegerModel
from fhe_inhibitor.integer.public import PublicModel
from fhe_inhibitor.remote.options import RemoteOptions
from fhe_inhibitor.runtime.protocol import LOOPBACK
from fhe_inhibitor.system.extras import needs


def app(
    model: ModelHereOrThereOption = None,
    p_error: PErrorOption = None,
    server: ServerOption = None,
    token_file: TokenFileOption = None,
    ca: CaOption = None,
    accept_new_model: AcceptNewModelOption = False,
    insecure: InsecureOption = False,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the page sees texts in the clear.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 7860,
    quiet: QuietOption = False,
) -> None:
    """Open a page in the browser that shows what becomes of a text, stage by stage."""
    check_server_options(server, token_file, ca, accept_new_model, insecure)
    with needs("app"):
        from fhe_inhibitor.app import serving
        from fhe_inhibitor.app.page import build_page, gradio

        gradio()
    from fhe_inhibitor.app.engine import Engine, Here, There
    from fhe_inhibitor.app.models import model_here, models_there
    from fhe_inhibitor.cli import remote
    from fhe_inhibitor.cli.view import Display

    source: Here | There
    public: PublicModel
    clear: IntegerModel | None
    if server is None:
        source = Here(model or DEFAULT_MODEL, p_error, passphrase_in_environment())
        public = clear = model_here(source)
    else:
        if p_error is not None:
            raise InputError("a server has chosen its circuits: drop --p-error")
        token = remote.read_token(token_file)
        options = RemoteOptions(
            model=model, ca=ca, insecure=insecure, accept_new_model=accept_new_model
        )
        source = There(server, token, remote.agree(server, token, options))
        public, clear = models_there(source)
    engine = Engine(source)
    try:
        with Display(quiet) as display:
            engine.prepare(display)
            if host not in LOOPBACK:
                display.note("others on the network can open the page, and read texts on their way")
        page = build_page(engine, public, clear)
        serving.serve(page, host, port, lambda url: print_now(f"Open {url}; Ctrl-C ends it."))
    finally:
        engine.close()
