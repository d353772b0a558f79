"""The command `fhe-inhibitor doctor`: what is in the way of encrypted classification."""

from __future__ import annotations

from typing import Annotated

import typer

from fhe_inhibitor.cli.exit_codes import ExitCode
from fhe_inhibitor.cli.options import (
    AcceptNewModelOption,
    CaOption,
    InsecureOption,
    JsonOption,
    OfferedModelOption,
    QuietOption,
    TokenFileOption,
    check_server_options,
    print_json,
)


def doctor(
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Ask this server as well, if it serves us.")
    ] = None,
    model: OfferedModelOption = None,
    token_file: TokenFileOption = None,
    ca: CaOption = None,
    accept_new_model: AcceptNewModelOption = False,
    insecure: InsecureOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check versions, processor, memory, cache and keys, and that Concrete runs; with remedies."""
    from compile.local.diagnosis import diagnose
    from fhe_inhibitor.cli import remote
    from fhe_inhibitor.cli.view import Display, print_findings
    from fhe_inhibitor.remote.options import RemoteOptions

    check_server_options(server, token_file, ca, accept_new_model, insecure)
    remote.silence_retries()
    token = remote.read_token(token_file)
    options = RemoteOptions(
        model=model, ca=ca, insecure=insecure, accept_new_model=accept_new_model
    )
    with Display(quiet) as display:
        findings = list(diagnose(server, token, options, display))
    failed = any(finding.state == "failure" for finding in findings)
    if as_json:
        print_json({"ok": not failed, "findings": [finding.model_dump() for finding in findings]})
    else:
        print_findings(findings)
    raise typer.Exit(ExitCode.FAILED if failed else ExitCode.DONE)
