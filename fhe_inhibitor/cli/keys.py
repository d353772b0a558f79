"""The commands `fhe-inhibitor keys ...`: they parse, call and print.

keys new       make keys for a server's model, before the first text does
keys list      which keys are there, here or on a server
keys remove    remove keys, here and on a server
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from fhe_inhibitor.cli.options import (
    PASSPHRASE_VARIABLE,
    AcceptNewModelOption,
    CaOption,
    InsecureOption,
    JsonOption,
    OfferedModelOption,
    QuietOption,
    TokenFileOption,
    check_server_options,
    print_json,
    print_now,
)
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.progress import printable

if TYPE_CHECKING:
    from fhe_inhibitor.runtime.keyring import KeysEntry

app = typer.Typer(no_args_is_help=True)


@app.callback()
def options() -> None:
    """Make, list and remove your keys: one set for each model of a server."""


@app.command()
def new(
    server: Annotated[str, typer.Option(metavar="URL", help="Whose model they are for.")],
    model: OfferedModelOption = None,
    passphrase: Annotated[
        bool,
        typer.Option(
            "--passphrase",
            help=f"Lock them with one, which is asked for, or in {PASSPHRASE_VARIABLE}.",
        ),
    ] = False,
    token_file: TokenFileOption = None,
    ca: CaOption = None,
    accept_new_model: AcceptNewModelOption = False,
    insecure: InsecureOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make keys; only the public ones among them will be sent."""
    from fhe_inhibitor.cli import remote
    from fhe_inhibitor.cli.view import Display
    from fhe_inhibitor.cli.worker import in_worker
    from fhe_inhibitor.remote.options import RemoteOptions

    token = remote.read_token(token_file)
    options = RemoteOptions(
        model=model, ca=ca, insecure=insecure, accept_new_model=accept_new_model
    )
    chosen = remote.agree_on_new(server, token, options, passphrase)
    with Display(quiet) as display:
        entry = in_worker(remote.MakeKeys(server, token, chosen), display, may_wait=True)
    print_now(f"made {entry.circuits_hash[:12]} for {printable(entry.model)}")


@app.command(name="list")
def list_keys(
    parameters: Annotated[
        bool, typer.Option("--parameters", help="Show their cryptographic parameters as well.")
    ] = False,
    server: Annotated[
        str | None,
        typer.Option(metavar="URL", help="List the evaluation keys that this server has instead."),
    ] = None,
    token_file: TokenFileOption = None,
    ca: CaOption = None,
    insecure: InsecureOption = False,
    as_json: JsonOption = False,
) -> None:
    """List your keys, the oldest first; with --server, those that it has under your token."""
    from fhe_inhibitor.cli.view import print_keys, print_keys_there
    from fhe_inhibitor.runtime.keyring import Keyring

    check_server_options(server, token_file, ca, insecure)
    keyring = Keyring()
    if server is not None:
        from fhe_inhibitor.cli import remote
        from fhe_inhibitor.remote.options import RemoteOptions

        if parameters:
            raise InputError("--parameters is of the keys here: drop it, or --server")
        options = RemoteOptions(ca=ca, insecure=insecure)
        there = remote.list_keys(server, remote.read_token(token_file), options, keyring)
        if as_json:
            print_json(there)
        else:
            print_keys_there(there, server)
        return
    entries = keyring.entries()
    rows = [
        {
            **entry.model_dump(mode="json"),
            "locked": keyring.is_locked(entry.circuits_hash),
            "bytes": keyring.path(entry.circuits_hash).stat().st_size,
        }
        for entry in entries
    ]
    if as_json:
        print_json(rows)
    else:
        print_keys(rows, keyring.folder)
        if parameters:
            _print_parameters(entries)


@app.command()
def remove(
    keys: Annotated[
        str,
        typer.Argument(
            metavar="HASH|NAME|SHA256",
            help="As `keys list` shows them. A SHA-256, or 8 of its digits or more, is of keys "
            "that are on the server alone.",
        ),
    ],
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Have this server forget them as well.")
    ] = None,
    token_file: TokenFileOption = None,
    ca: CaOption = None,
    insecure: InsecureOption = False,
) -> None:
    """Remove keys for good; results that are still on their way can't be read then."""
    from fhe_inhibitor.runtime.keyring import Keyring

    check_server_options(server, token_file, ca, insecure)
    keyring = Keyring()
    if server is not None:
        from fhe_inhibitor.cli import remote
        from fhe_inhibitor.remote.options import RemoteOptions

        options, token = RemoteOptions(ca=ca, insecure=insecure), remote.read_token(token_file)
        if not keyring.matching(keys):
            digest = remote.delete_lost_keys(server, token, options, keys)
            print_now(f"removed {digest[:12]} from {server}")
            return
    entry = keyring.find(keys)
    if server is not None:
        remote.delete_keys(server, token, options, entry)
    keyring.remove(entry)
    print_now(f"removed {entry.circuits_hash[:12]} for {printable(entry.model)}")


def _print_parameters(entries: Sequence[KeysEntry]) -> None:
    """Print a table of the parameters of each model's keys, where they are known."""
    from rich.table import Table
    from rich.text import Text

    from fhe_inhibitor.cli.view import PLAIN, Page
    from fhe_inhibitor.runtime.parameters import TABLE_HEAD, TABLE_NOTE, table_rows

    console = Page(**PLAIN)
    for entry in entries:
        name = f"{entry.circuits_hash[:12]}, {printable(entry.model)}"
        if entry.parameters is None:
            console.print(f"\n{name}: made by a version that wrote no parameters down")
            continue
        table = Table(*TABLE_HEAD, box=None, padding=(0, 2, 0, 0))
        for row in table_rows(entry.parameters):
            table.add_row(*map(Text, row))
        console.print(f"\n{name}:", table)
    if any(entry.parameters for entry in entries):
        console.print(f"\n{TABLE_NOTE}")
