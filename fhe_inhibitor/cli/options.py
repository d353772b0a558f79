"""Options that several commands share, and how JSON is printed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from fhe_inhibitor.cluster.options import Cluster
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import DEFAULT_MODEL, shipped
from fhe_inhibitor.system.extras import needs

TOKEN_VARIABLE, PASSPHRASE_VARIABLE = "FHE_INHIBITOR_TOKEN", "FHE_INHIBITOR_PASSPHRASE"

MODES = ("disable", "simulate", "execute")
MAX_SEED = 2**32 - 1  # of numpy's generators
P_ERRORS = ("2^-20", "2^-40", "2^-64", "2^-128")


def shipped_models(incomplete: str) -> list[str]:
    """Return the checkpoints that a shell may complete a name to; it adds folders by itself."""
    return [name for name in shipped() if name.startswith(incomplete)]


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Return the integers of a comma-separated list."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise InputError(f"{option} {text}: pass integers with commas, such as 32,64") from None


def _one_of(names: Sequence[str]) -> Callable[[str], list[str]]:
    """Return what completes a value that is one of these."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
QuietOption = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Show no progress; notes and errors are shown as ever."),
]
OfferedModelOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="One of the models that it offers.")
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help=f"Holds the server's token; else {TOKEN_VARIABLE} does."),
]
CaOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Certificates to trust instead of the usual ones."),
]
AcceptNewModelOption = Annotated[
    bool,
    typer.Option("--accept-new-model", help="Take a model that isn't the one the server had."),
]
InsecureOption = Annotated[
    bool,
    typer.Option("--insecure", help="Send the token even where others can read it."),
]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="NAME|DIR",
        help="A shipped checkpoint or a model folder.",
        autocompletion=shipped_models,
    ),
]
ModelHereOrThereOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME|DIR",
        help=f"A shipped checkpoint, {DEFAULT_MODEL} if not given, or a model folder; with "
        "--server, a name that it offers.",
        autocompletion=shipped_models,
    ),
]
ServerOption = Annotated[
    str | None, typer.Option("--server", metavar="URL", help="Have a server run the layers.")
]
ModeOption = Annotated[
    str,
    typer.Option(
        metavar="|".join(MODES),
        autocompletion=_one_of(MODES),
        help="The integer model without encryption, simulated encryption, or encryption.",
    ),
]
PErrorOption = Annotated[
    str | None,
    typer.Option(
        "--p-error",
        metavar="|".join(P_ERRORS),
        autocompletion=_one_of(P_ERRORS),
        help="How likely one lookup errs, the model's own if not given; less is slower.",
    ),
]
SplitOption = Annotated[
    int,
    typer.Option(
        "--split",
        metavar="N",
        min=1,
        help="Cut the stages of each layer into tasks for N workers, none shorter than a second.",
    ),
]
LabelsOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,NAME,...", help="Of the classes 0, 1, ... in texts of your own, in --data."
    ),
]
LongOption = Annotated[
    bool,
    typer.Option("--long", help="Read each text piece by piece; the pieces' logits are added."),
]
MaxPiecesOption = Annotated[
    int | None,
    typer.Option(
        "--max-pieces",
        metavar="N",
        help="With --long, read at most N pieces of a text, evenly spread; 16 if not given, "
        "which is the most. Fewer are faster.",
    ),
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="tls://HOST:PORT",
        help="Have the workers of this Dask scheduler run the layers.",
    ),
]
InsecureClusterOption = Annotated[
    bool,
    typer.Option(
        "--insecure-cluster",
        help="Take a scheduler without TLS, tcp://, on another machine: whoever reaches it can run "
        "any code there.",
    ),
]
SharedOption = Annotated[
    Path | None,
    typer.Option(
        "--shared",
        metavar="DIR",
        help="With --scheduler, a folder that all machines share: workers find keys and circuits "
        "there, and need not reach this machine.",
    ),
]
TokensOption = Annotated[
    int | None,
    typer.Option(metavar="N", help="Read the N most important tokens; fewer are faster."),
]


def pieces_asked(long: bool, max_pieces: int | None) -> int | None:
    """Return the most pieces of a text, None for texts that are read as one."""
    from circuits.documents import MAX_PIECES

    if max_pieces is not None and not long:
        raise InputError("--max-pieces is of long texts: add --long, or drop it")
    if not long:
        return None
    return MAX_PIECES if max_pieces is None else max_pieces


def check_server_options(server: str | None, *given: Path | bool | None) -> None:
    """Raise InputError if options that are of a server were given, and no server."""
    if server is None and any(given):
        raise InputError(
            "--token-file, --ca, --accept-new-model and --insecure are of a server: add --server"
        )


def cluster_asked(scheduler: str | None, insecure: bool, shared: Path | None) -> Cluster | None:
    """Return the cluster that options name, None for this process.

    Raises InputError for an address that is none or wants TLS, and without the extra `cluster`.
    """
    if scheduler is None:
        if insecure or shared is not None:
            raise InputError("--insecure-cluster and --shared are of a cluster: add --scheduler")
        return None
    with needs("cluster"):
        from fhe_inhibitor.cluster.connection import check_address

    check_address(scheduler, insecure)
    return Cluster(scheduler, insecure, shared)


def passphrase_in_environment() -> str | None:
    """Return the passphrase of the keys that the environment gives, if any.

    Without the end of a line, which comes with `"$(cat file; echo)"` and from no terminal.
    """
    return os.environ.get(PASSPHRASE_VARIABLE, "").rstrip("\r\n") or None


def print_json(content: dict[str, Any] | list[dict[str, Any]]) -> None:
    """Print what `--json` promises: JSON and nothing else. NaN and infinity, no JSON, are null."""
    print_now(json.dumps(finite(content), indent=1, allow_nan=False))


def print_now(text: object, out: TextIO | None = None) -> None:
    """Print to stdout, or `out`, at once.

    Raises BrokenPipeError without a number for an output that nobody reads any more, which is for
    `main` to say: one with a number typer takes for its own, and ends the process without a word.
    """
    try:
        print(text, file=out, flush=True)
    except BrokenPipeError:
        raise BrokenPipeError from None


def finite(content: Any) -> Any:
    """Return content with null in the place of NaN and infinity, which JSON lacks."""
    if isinstance(content, Mapping):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
