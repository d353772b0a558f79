"""The command `fhe-inhibitor classify`: texts in, labels out, here or on a server."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from fhe_inhibitor.cli.options import (
    AcceptNewModelOption,
    CaOption,
    InsecureClusterOption,
    InsecureOption,
    JsonOption,
    LongOption,
    MaxPiecesOption,
    ModelHereOrThereOption,
    ModeOption,
    PErrorOption,
    QuietOption,
    SchedulerOption,
    ServerOption,
    SharedOption,
    SplitOption,
    TokenFileOption,
    TokensOption,
    check_server_options,
    cluster_asked,
    passphrase_in_environment,
    pieces_asked,
    print_json,
)
from fhe_inhibitor.cli.worker import Work, in_worker
from fhe_inhibitor.cluster.options import Cluster
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import DEFAULT_MODEL
from fhe_inhibitor.remote.options import RemoteOptions
from fhe_inhibitor.runtime.classifier import Classification, Classifier
from fhe_inhibitor.runtime.costs import SessionCost
from fhe_inhibitor.system.child import ends_on_request
from fhe_inhibitor.system.progress import Observer


def classify(
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEXT...",
            help="Put -- before texts that begin with a dash; a single - reads lines from stdin.",
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help="Classify each line of a file; with --long, the whole file is one text. - is "
            "stdin."
        ),
    ] = None,
    model: ModelHereOrThereOption = None,
    mode: ModeOption = "execute",
    tokens: TokensOption = None,
    strict: Annotated[bool, typer.Option(help="Refuse a text that has more tokens.")] = False,
    long: LongOption = False,
    max_pieces: MaxPiecesOption = None,
    benchmark: Annotated[
        bool, typer.Option(help="First time one lookup of each width, to compare.")
    ] = False,
    p_error: PErrorOption = None,
    split: SplitOption = 1,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Keep the ciphertexts of each finished task of one text there; the same command "
            "goes on after the last one.",
        ),
    ] = None,
    server: ServerOption = None,
    token_file: TokenFileOption = None,
    ca: CaOption = None,
    accept_new_model: AcceptNewModelOption = False,
    insecure: InsecureOption = False,
    scheduler: SchedulerOption = None,
    insecure_cluster: InsecureClusterOption = False,
    shared: SharedOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    as_lines: Annotated[
        bool,
        typer.Option(
            "--jsonl",
            help="Print one JSON object a line for each text, as soon as it is done; the error of "
            "one text is its line and stops no other.",
        ),
    ] = False,
) -> None:
    """Encrypt texts, run every layer on ciphertexts, decrypt the labels."""
    from fhe_inhibitor.cli.lines import Lines
    from fhe_inhibitor.cli.view import Display, print_classifications

    if as_lines and (as_json or benchmark or resume is not None):
        raise InputError("--jsonl prints lines alone: drop --json, --benchmark and --resume")
    if long and (strict or as_lines):
        raise InputError("--long cuts texts, and prints all at the end: drop --strict and --jsonl")
    check_server_options(server, token_file, ca, accept_new_model, insecure)
    if mode == "disable" and server is None and (p_error is not None or split != 1):
        raise InputError("--p-error and --split are of circuits: drop them, or --mode disable")
    pieces = pieces_asked(long, max_pieces)
    sentences = _documents(texts or [], file) if long else _sentences(texts or [], file, as_lines)
    if not sentences:
        raise InputError("no text: pass a sentence in quotes, or --file with one sentence a line")
    if resume is not None:
        _check_resumable(sentences, mode, server)
    reading = Reading(sentences, tokens, strict, as_lines, pieces)
    cluster = cluster_asked(scheduler, insecure_cluster, shared)
    if cluster is not None and (server is not None or mode != "execute"):
        raise InputError("--scheduler runs ciphertexts of this session: drop --server and --mode")
    work: Work[Classified]
    if server is None:
        work = ClassifyHere(
            reading, model or DEFAULT_MODEL, mode, benchmark, p_error, resume, cluster, split
        )
    else:
        from fhe_inhibitor.cli import remote

        if mode != "execute" or benchmark:
            raise InputError("--server encrypts and measures nothing: drop --mode and --benchmark")
        if p_error is not None or split != 1:
            raise InputError("a server has chosen its circuits: drop --p-error and --split")
        token = remote.read_token(token_file)
        options = RemoteOptions(
            model=model, ca=ca, insecure=insecure, accept_new_model=accept_new_model
        )
        work = ClassifyThere(reading, server, token, remote.agree(server, token, options))
    lines = Lines(quiet) if as_lines else None
    with lines or Display(quiet) as display:
        # Integers in the clear need neither Concrete nor a process that it may end.
        if mode == "disable":
            done = work.run(display)
        else:
            done = in_worker(work, display, may_wait=not (server is None and cluster is None))
    if lines:
        lines.tell_failed()
        raise typer.Exit(lines.exit_code)
    if as_json:
        print_json(asdict(done))
    else:
        print_classifications(done.results, done.labels, done.cost)


def _check_resumable(sentences: list[str], mode: str, server: str | None) -> None:
    if server is not None:
        raise InputError("a server keeps a job's finished tasks by itself: drop --resume")
    if mode != "execute":
        raise InputError(
            f"--resume keeps ciphertexts, and --mode {mode} has none: drop one of them"
        )
    if len(sentences) > 1:
        raise InputError(
            f"--resume keeps one text, and {len(sentences)} came: give each a command and a folder"
        )


def _documents(texts: list[str], file: Path | None) -> list[str]:
    """Return the texts of the arguments, and a file as one text; "-" is stdin in both places."""
    from fhe_inhibitor.text.data import parse_document, read_document

    texts, file = _with_stdin(texts, file)
    if file is None:
        return texts
    if str(file) == "-":
        return [*texts, parse_document(sys.stdin.buffer.read(), "stdin")]
    return [*texts, read_document(file)]


def _sentences(texts: list[str], file: Path | None, each_apart: bool) -> list[str]:
    """Return the texts of the arguments, then those of the file; "-" is stdin in both places.

    each_apart: whether a line that is no text is to be refused alone, later.
    """
    from fhe_inhibitor.text.data import parse_sentences, read_sentences

    texts, file = _with_stdin(texts, file)
    if file is None:
        return texts
    if str(file) == "-":
        return [*texts, *parse_sentences(sys.stdin.buffer.read(), "stdin", each_apart)]
    return [*texts, *read_sentences(file, each_apart)]


def _with_stdin(texts: list[str], file: Path | None) -> tuple[list[str], Path | None]:
    """Return texts and file, a single "-" as the file that it names; among others it is refused."""
    if "-" not in texts:
        return texts, file
    if len(texts) > 1 or file is not None:
        raise InputError("- is stdin, and the only text then: drop it, or other texts and --file")
    return [], Path("-")


@dataclass(frozen=True)
class Reading:
    """Texts, how much of them is to be read, and how results come.

    each_apart: as parts, one for each text as soon as it is done, and not all at the end.
    max_pieces: of a long text; None reads each text as one.
    """

    texts: Sequence[str]
    max_tokens: int | None
    strict: bool
    each_apart: bool
    max_pieces: int | None = None

    def classify(self, classifier: Classifier, observer: Observer) -> Sequence[Classification]:
        """Classify the texts; the results are empty where they were told one by one."""
        from fhe_inhibitor.cli.lines import line_of

        if self.max_pieces is not None:
            return classifier.classify_documents(self.texts, self.max_tokens, self.max_pieces)
        how = self.max_tokens, self.strict
        if not self.each_apart:
            return classifier.classify_many(self.texts, *how)
        classifier.classify_apart(self.texts, lambda one: observer.deliver(line_of(one)), *how)
        return []


@dataclass(frozen=True)
class Classified:
    """Results, and what the session cost."""

    model: str
    mode: str
    labels: tuple[str, ...]
    results: Sequence[Classification]
    cost: SessionCost


@dataclass(frozen=True)
class ClassifyHere:
    """Classifies texts in one session; benchmark: time single lookups as well.

    p_error: of `compile.local.p_error`, the model's if None. resume: a folder that keeps the run of
    one text. cluster: whose workers run the layers. split: for so many workers.
    """

    reading: Reading
    model: str
    mode: str
    benchmark: bool
    p_error: str | None
    resume: Path | None
    cluster: Cluster | None = None
    split: int = 1

    def run(self, observer: Observer) -> Classified:
        """Open the session, and return its results."""
        from compile.local.session import Session

        with Session(
            self.model,
            self.mode,
            observer=observer,
            passphrase=passphrase_in_environment(),
            benchmark=self.benchmark,
            p_error=self.p_error,
            cluster=self.cluster,
            split=self.split,
        ) as session:
            reading = self.reading
            how = reading.max_tokens, reading.strict
            results: Sequence[Classification]
            if self.resume is None:
                results = reading.classify(session, observer)
            elif reading.max_pieces is None:
                results = [session.classify(reading.texts[0], *how, resume=self.resume)]
            else:
                read = reading.max_tokens, reading.max_pieces
                results = [session.classify_document(reading.texts[0], *read, self.resume)]
            model = session.model
            return Classified(model.name, self.mode, model.labels, results, session.cost())


@dataclass(frozen=True)
class ClassifyThere:
    """Classifies texts on a server; Ctrl-C cancels what it has there."""

    reading: Reading
    server: str
    token: str | None = field(repr=False)
    options: RemoteOptions

    def run(self, observer: Observer) -> Classified:
        """Open the client, and return its results."""
        from fhe_inhibitor.cli.remote import silence_retries
        from fhe_inhibitor.remote.client import RemoteClient

        ends_on_request()
        silence_retries()
        with RemoteClient(self.server, self.token, self.options, observer) as client:
            if not client.is_private:
                observer.note(f"others can read the token on its way to {self.server}")
            results = self.reading.classify(client, observer)
            public = client.public_model()
            return Classified(public.name, "execute", public.labels, results, client.cost())
