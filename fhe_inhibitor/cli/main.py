"""The command `fhe-inhibitor`: parses, calls, prints. Each command is a few calls in Python too.

Imports that take seconds happen inside the commands, so that `--help` and errors are instant.
Exit codes: 0; 1 for a failure at run time; 2 for bad input; 130 after Ctrl-C. An error is one
line on stderr; FHE_INHIBITOR_TRACEBACK=1 shows where it came from.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from fhe_inhibitor.cli import benchmark as command_line_benchmark
from fhe_inhibitor.cli import distill as command_line_distill
from fhe_inhibitor.cli import experiments as command_line_experiments
from fhe_inhibitor.cli import export as command_line_export
from fhe_inhibitor.cli import keys as command_line_keys
from fhe_inhibitor.cli import service as command_line_service
from fhe_inhibitor.cli.options import CaOption, JsonOption, TokenFileOption
from fhe_inhibitor.cli.worker import TRACEBACK, WorkError, in_worker
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import DEFAULT_MODEL

INTERRUPTED = 130

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Classify text that stays encrypted: inhibitor transformers under TFHE.",
)
app.add_typer(command_line_benchmark.app, name="benchmark")
app.add_typer(command_line_experiments.app, name="experiments")
app.command()(command_line_distill.distill)
app.command()(command_line_export.export)
app.command()(command_line_service.serve)
app.command()(command_line_service.token)
app.add_typer(command_line_keys.app, name="keys")

ModelOption = Annotated[
    str,
    typer.Option("--model", metavar="NAME|DIR", help="A shipped checkpoint or a model folder."),
]
ModeOption = Annotated[
    str,
    typer.Option(
        metavar="disable|simulate|execute",
        help="The integer model without encryption, simulated encryption, or encryption.",
    ),
]
TokensOption = Annotated[
    int | None,
    typer.Option(metavar="N", help="Read the N most important tokens; fewer are faster."),
]


@app.command()
def classify(
    texts: Annotated[list[str] | None, typer.Argument(metavar="TEXT...")] = None,
    file: Annotated[Path | None, typer.Option(help="Classify each line of a file.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR",
            help=f"A shipped checkpoint, {DEFAULT_MODEL} if not given, or a model folder; with "
            "--server, a name that it offers.",
        ),
    ] = None,
    mode: ModeOption = "execute",
    tokens: TokensOption = None,
    strict: Annotated[bool, typer.Option(help="Refuse a text that has more tokens.")] = False,
    benchmark: Annotated[
        bool, typer.Option(help="First time one lookup of each width, to compare.")
    ] = False,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Have a server run the layers.")
    ] = None,
    token_file: TokenFileOption = None,
    ca: CaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Encrypt texts, run every layer on ciphertexts, decrypt the labels."""
    from fhe_inhibitor.cli import work
    from fhe_inhibitor.cli.view import Display, print_classifications
    from fhe_inhibitor.text.data import read_sentences

    sentences = [*(texts or []), *(read_sentences(file) if file else [])]
    if not sentences:
        raise InputError("no text: pass a sentence in quotes, or --file with one sentence a line")
    run: Callable[..., work.Classified]
    arguments: tuple[Any, ...]
    if server is not None:
        from fhe_inhibitor.cli import remote

        if mode != "execute" or benchmark:
            raise InputError("--server encrypts and measures nothing: drop --mode and --benchmark")
        token = remote.read_token(token_file)
        options = remote.agree(server, token, model, ca)
        run, arguments = remote.classify, (sentences, server, token, options, tokens, strict)
    else:
        run = work.classify
        arguments = (sentences, model or DEFAULT_MODEL, mode, tokens, strict, benchmark)
    with Display() as display:
        if mode == "disable":
            done = run(display, *arguments)
        else:
            done = in_worker(run, display, *arguments)
    if as_json:
        _print_json(asdict(done))
    else:
        print_classifications(done.results, done.labels, done.cost)


@app.command()
def evaluate(
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.tsv", help="Labelled texts; with --task also a folder, or the hub."
        ),
    ] = None,
    model: ModelOption = DEFAULT_MODEL,
    task: Annotated[
        str | None,
        typer.Option(help="Measure a float model by this task's metric: sst2, cola, rte, ..."),
    ] = None,
    mode: ModeOption = "disable",
    rounding_noise: Annotated[
        bool, typer.Option(help="In mode disable, draw the noise of encrypted rounding.")
    ] = True,
    draws: Annotated[int, typer.Option(min=1, help="Passes over the texts, a seed each.")] = 3,
    limit: Annotated[int | None, typer.Option(min=1, help="Read only the first texts.")] = None,
    tokens: TokensOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure accuracy over labelled texts; encrypted, also agreement with the integer model."""
    from fhe_inhibitor.cli import work
    from fhe_inhibitor.cli.view import Display, print_evaluation

    if task is not None:
        if mode != "disable" or tokens is not None:
            raise InputError(
                "--task measures a float model, in the clear and on all tokens: "
                "drop --mode and --tokens"
            )
        rows = work.evaluate_task(task, data, model, limit)
        if as_json:
            _print_json({"model": model, "task": task, "rows": rows})
        else:
            command_line_distill.print_rows(rows)
        return
    if data is None:
        raise InputError("no data: pass --data FILE.tsv, or --task for a float model")
    with Display() as display:
        if mode == "disable":
            n_draws = draws if rounding_noise else 0
            done = work.evaluate(display, data, model, tokens, limit, n_draws)
        else:
            done = in_worker(work.evaluate_encrypted, display, data, model, mode, tokens, limit)
    done = {"model": model, "data": str(data), "mode": mode, **done}
    if as_json:
        _print_json(done)
    else:
        print_evaluation(done)


@app.command()
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
        bool, typer.Option(help="Make keys, time one lookup of each width, then drop the keys.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Write circuits for a server, specifications for its clients, and the per-layer report."""
    from fhe_inhibitor.cli import work
    from fhe_inhibitor.cli.view import Display

    if from_onnx is not None:
        command_line_export.need_onnx()
    with Display() as display:
        report = in_worker(work.compile_circuits, display, model, from_onnx, out, measure)
    print(report.json if as_json else report.markdown)


@app.command()
def train(
    data: Annotated[
        str,
        typer.Option(metavar="NAME|DIR", help="Folder with train.tsv and dev.tsv, or a hub name."),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the checkpoint to write.")],
    teacher: Annotated[
        str,
        typer.Option(metavar="NAME|DIR", help="minilm is fine-tuned first, others serve as given."),
    ] = "minilm",
    sentences: Annotated[
        Path | None, typer.Option(help="File of unlabelled texts, one a line.")
    ] = None,
    work: Annotated[
        Path, typer.Option(metavar="DIR", help="Teacher, corpus, state to go on from.")
    ] = Path("build/train"),
    baselines: Annotated[
        bool, typer.Option(help="Train the bag of words and the dot-product student too.")
    ] = True,
    size: Annotated[str, typer.Option(metavar="nano|full-depth", help="Of the student.")] = "nano",
    held_out: Annotated[
        int, typer.Option(min=1, help="Full sentences to keep out of train, to choose by.")
    ] = 1000,
    seed: int = 0,
) -> None:
    """Make a checkpoint by the recipe that made the shipped one; goes on where it stopped."""
    from fhe_inhibitor.training import recipe

    if size not in recipe.SIZES:
        raise InputError(f"no size {size!r}; wanted one of {', '.join(recipe.SIZES)}")
    chosen = recipe.Recipe(
        data=data,
        teacher=teacher,
        sentences=str(sentences) if sentences else None,
        held_out=held_out,
        size=recipe.SIZES[size],
        seed=seed,
    )
    _print_json(recipe.train(chosen, out, work, baselines))


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"fhe-inhibitor {version('fhe-inhibitor')}, concrete {version('concrete-python')}")
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
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    """Return the exit code; typer itself turns Ctrl-C inside a command into 130."""
    try:
        code = app(arguments, standalone_mode=False) or 0
    except KeyboardInterrupt:
        code = INTERRUPTED
    except InputError as error:
        return _failed(2, error)
    except typer.TyperException as error:
        return _failed(error.exit_code, error)
    except BrokenPipeError:
        # Whoever read our output went away; the interpreter would complain on its last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _failed(1, error)
    if code == INTERRUPTED:
        print("fhe-inhibitor: interrupted; what was finished is kept", file=sys.stderr)
    return code


def _failed(code: int, error: Exception) -> int:
    """Print one line for an error; the kind too, if it is none that we raise ourselves."""
    if os.environ.get(TRACEBACK):
        traceback.print_exception(error)
    message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
    kind = "" if code == 2 or isinstance(error, WorkError) else f"{type(error).__name__}: "
    if message:  # typer has none for a command without arguments, whose help it printed
        print(f"fhe-inhibitor: {kind}{' '.join(message.split())}", file=sys.stderr)
    return code


def _print_json(content: dict[str, Any]) -> None:
    print(json.dumps(content, indent=1))
