"""The command `fhe-inhibitor`: parses, calls, prints. Each command is a few calls in Python too.

Imports that take seconds happen inside the commands, so that `--help` and errors are instant.
`exit_codes` has the exit codes. An error is one line on stderr; FHE_INHIBITOR_TRACEBACK=1 shows
where it came from.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from io import TextIOWrapper
from typing import Annotated, NoReturn

import typer

from fhe_inhibitor.cli import (
    benchmark,
    build,
    classify,
    cluster,
    compile,
    cost,
    distill,
    doctor,
    documents,
    evaluate,
    evaluation_report,
    experiments,
    export,
    keys,
    page,
    report,
    service,
    train,
)
from fhe_inhibitor.cli.exit_codes import ExitCode
from fhe_inhibitor.cli.options import print_now
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.child import TRACEBACK, ChildError
from fhe_inhibitor.system.progress import printable
from fhe_inhibitor.system.signals import Ended, exit_code_of, raise_on_signals

app = typer.Typer(
    no_args_is_help=True,
    help="Classify text that stays encrypted: inhibitor transformers under TFHE.",
    epilog="Exit codes: 0 done, 1 failed, 2 refused as it stands, 130 after Ctrl-C.",
)
for command in (
    classify.classify,
    evaluate.evaluate,
    evaluation_report.evaluate_report,
    documents.long_documents,
    documents.calibrate,
    compile.compile,
    cost.cost,
    build.build,
    report.report,
    train.train,
    distill.distill,
    export.export,
    service.serve,
    page.app,
    doctor.doctor,
):
    app.command()(command)
app.add_typer(benchmark.app, name="benchmark")
app.add_typer(cluster.app, name="cluster")
app.add_typer(experiments.app, name="experiments")
app.add_typer(keys.app, name="keys")
app.add_typer(service.tokens, name="tokens")


def _show_version(wanted: bool) -> None:
    if wanted:
        ours, concrete = version("fhe-inhibitor"), version("concrete-python")
        print_now(f"fhe-inhibitor {ours}, concrete {concrete}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Show versions."),
    ] = False,
) -> None:
    """Options of the command itself."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line on `arguments` (those of the process if None) and exit."""
    raise_on_signals()
    if isinstance(sys.stdout, TextIOWrapper):
        # A result must not be lost because the terminal's encoding lacks a character of the text.
        sys.stdout.reconfigure(errors="backslashreplace")
    code = _run(arguments)
    with suppress(OSError):  # which was told: what an error left unwritten goes nowhere now
        _flush()
    sys.exit(code)


def _run(arguments: Sequence[str] | None) -> int:
    """Return the exit code; typer itself turns Ctrl-C inside a command into 130."""
    try:
        # By its name shells know what completes it, however it was started.
        code = app(arguments, prog_name="fhe-inhibitor", standalone_mode=False) or 0
        _flush()
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except Ended as ended:
        print(f"fhe-inhibitor: ended by {ended}; what was finished is kept", file=sys.stderr)
        return exit_code_of(ended.number)
    except InputError as error:
        return _failed(ExitCode.REFUSED, error)
    except typer.TyperException as error:
        return _failed(error.exit_code, error)
    except BrokenPipeError:
        print("fhe-inhibitor: nobody reads the output any more", file=sys.stderr)
        return ExitCode.NOBODY_READS
    except Exception as error:
        return _failed(ExitCode.FAILED, error)
    if code == ExitCode.INTERRUPTED:
        print("fhe-inhibitor: interrupted; what was finished is kept", file=sys.stderr)
    return code


def _flush() -> None:
    """Write what was printed; raises OSError where nobody reads it, or the disk is full.

    What can't be written is dropped then: the interpreter's own last flush would meet the same
    error, print it and exit 120.
    """
    if sys.stdout is None:  # closed before we began
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


def _failed(code: int, error: Exception) -> int:
    """Print one line for an error; the kind too, if it is none that we raise ourselves."""
    if os.environ.get(TRACEBACK):
        traceback.print_exception(error)
    message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
    context = getattr(error, "ctx", None)
    if message.startswith("No such option") and context and context.info_name == "classify":
        message += " A text that begins with a dash goes after `--`."
    explained = code == ExitCode.REFUSED or isinstance(error, ChildError)
    parts = "" if explained else type(error).__name__, printable(" ".join(message.split()))
    if any(parts):  # typer has no message for a command without arguments, whose help it printed
        print(f"fhe-inhibitor: {': '.join(filter(None, parts))}", file=sys.stderr)
    return code
