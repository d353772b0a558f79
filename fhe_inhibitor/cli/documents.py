"""The commands `fhe-inhibitor calibrate` and `fhe-inhibitor long-documents`."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import Field

from fhe_inhibitor.cli.options import (
    JsonOption,
    ModelOption,
    QuietOption,
    TokensOption,
    passphrase_in_environment,
    print_json,
    print_now,
)
from fhe_inhibitor.cli.worker import in_worker
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import DEFAULT_MODEL, IntegerModel, checkpoint_folder
from fhe_inhibitor.system.files import (
    Record,
    file_sha256,
    make_folder,
    read_results,
    write_atomically,
    writing,
)
from fhe_inhibitor.system.machine import Machine, describe_machine
from fhe_inhibitor.system.pages import markdown_table
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.text.data import LabelledText, read_tsv

LIMITS = (1, 2, 4, 8, 12, 16)
FILE = "piece_limits"
PACKAGES = ("concrete-python", "numpy")
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class LimitAccuracy(Record):
    """An `Accuracy`, as a file has it."""

    n_texts: int = Field(ge=1)
    n_draws: int = Field(ge=1)
    value: Amount = Field(le=1)
    standard_error: Amount
    draws_std: Amount


class Limit(Record):
    """What came of one limit. pieces, lookups, seconds: of a text, on average."""

    max_pieces: int
    pieces: Amount
    accuracy: LimitAccuracy
    lookups: Amount
    seconds: Amount | None


class PieceLimits(Record):
    """What `long-documents` keeps: of which model and texts, where, and a row for each limit."""

    model: str
    model_hash: str
    neutral_logits: tuple[float, ...]
    data: str
    data_sha256: str
    n_texts: int
    max_tokens: int
    n_draws: int
    lookup_s: dict[int, Amount]
    machine: Machine
    rows: tuple[Limit, ...]


def calibrate(
    data: Annotated[
        Path,
        typer.Option(metavar="FILE.tsv", help="Long texts, of all labels in like numbers."),
    ],
    model: ModelOption = DEFAULT_MODEL,
    tokens: TokensOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Read only the first texts.")] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure a model's neutral logits on long texts, and keep them beside the checkpoint.

    The labels aren't read. `classify --long` takes them off: most of a long text is told without an
    opinion, and a model leans to one side there.
    """
    from fhe_inhibitor.cli.view import Display
    from fhe_inhibitor.integer.documents import measure_neutral, write_neutral

    # What is there may be damaged, and is replaced.
    loaded, folder = IntegerModel.load(model, calibrated=False), checkpoint_folder(model)
    texts = [row.text for row in read_tsv(data, len(loaded.labels))[:limit]]
    with Display(quiet) as display:
        display.begin("integer model")
        display.plan(len(texts), "texts")
        neutral = measure_neutral(loaded, texts, tokens, display)
    with writing(f"the checkpoint {folder}", "copy it to a folder of your own"):
        write_neutral(folder, loaded, neutral, f"{data.name}, {len(texts)} texts")
    logits = dict(zip(loaded.labels, neutral, strict=True))
    if as_json:
        print_json({"model": loaded.name, "folder": str(folder), "neutral_logits": logits})
    else:
        listed = ", ".join(f"{label} {value:+.2f}" for label, value in logits.items())
        print_now(f"{folder}: neutral logits {listed}")


def long_documents(
    data: Annotated[Path, typer.Option(metavar="FILE.tsv", help="Labelled long texts.")],
    model: ModelOption = DEFAULT_MODEL,
    tokens: TokensOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Read only the first texts.")] = None,
    draws: Annotated[int, typer.Option(min=1, help="How often rounding noise is drawn.")] = 3,
    timed: Annotated[
        bool,
        typer.Option("--timed", help="Time one lookup of each width, to tell seconds per text."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help=f"Write {FILE}.md and {FILE}.json there as well."),
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Print accuracy and cost of long texts by the most pieces that are read of each.

    With rounding noise drawn, without encryption; seconds are lookups times the time of one. With
    --out, accuracies that are there already are kept, so --timed can follow on a quiet machine.
    """
    from fhe_inhibitor.cli.view import Display

    if out is not None:
        make_folder(out)
    work = MeasureLimits(data, model, tokens, limit, draws, timed, _read_known(out))
    with Display(quiet) as display:
        done = in_worker(work, display) if timed else work.run(display)
    page = "\n".join(to_markdown(done)) + "\n"
    if out is not None:
        with writing(f"the folder {out}", "name another one with --out"):
            write_atomically(out / f"{FILE}.json", json.dumps(done, indent=1) + "\n")
            write_atomically(out / f"{FILE}.md", page)
    if as_json:
        print_json(done)
    else:
        print_now(page.removesuffix("\n"))


@dataclass(frozen=True)
class MeasureLimits:
    """Measures each limit of pieces; n_draws: of rounding noise. timed: time single lookups.

    known: what was measured before, whose accuracies are kept if they are of the same things.
    """

    data: Path
    model: str
    max_tokens: int | None
    limit: int | None
    n_draws: int
    timed: bool
    known: dict[str, Any]

    def run(self, observer: Observer) -> dict[str, Any]:
        """Return a row for each limit."""
        model = IntegerModel.load(self.model)
        rows = read_tsv(self.data, len(model.labels))[: self.limit]
        if not rows:
            raise InputError(f"{self.data} has no texts: wanted one or more")
        lookup_s = _time_lookups(model, observer) if self.timed else {}
        measured = {
            "model": model.name,
            "model_hash": model.hash,
            "neutral_logits": list(model.neutral_logits),
            "data": self.data.name,
            "data_sha256": file_sha256(self.data),
            "n_texts": len(rows),
            "max_tokens": model.token_limit(self.max_tokens),
            "n_draws": self.n_draws,
        }
        accuracies = {}
        if measured.items() <= self.known.items():
            accuracies = {row["max_pieces"]: row["accuracy"] for row in self.known["rows"]}
        return {
            **measured,
            "lookup_s": lookup_s,
            "machine": describe_machine(PACKAGES).model_dump(),
            "rows": [
                self._row(model, rows, limit, lookup_s, accuracies.get(limit), observer)
                for limit in LIMITS
            ],
        }

    def _row(
        self,
        model: IntegerModel,
        rows: list[LabelledText],
        max_pieces: int,
        lookup_s: dict[int, float],
        accuracy: dict[str, Any] | None,
        observer: Observer,
    ) -> dict[str, Any]:
        from fhe_inhibitor.integer.documents import count_lookups_of, cut_documents
        from fhe_inhibitor.integer.evaluation import evaluate

        documents = cut_documents(model, [r.text for r in rows], self.max_tokens, max_pieces)
        counts = sum((count_lookups_of(model, document) for document in documents), Counter[int]())
        if accuracy is None:
            draws = self.max_tokens, self.n_draws
            accuracy = asdict(evaluate(model, rows, *draws, observer, max_pieces))
        seconds = sum(number * lookup_s[bits] for bits, number in counts.items() if lookup_s)
        return {
            "max_pieces": max_pieces,
            "pieces": sum(len(document.pieces) for document in documents) / len(rows),
            "accuracy": accuracy,
            "lookups": counts.total() / len(rows),
            "seconds": seconds / len(rows) if lookup_s else None,
        }


def to_markdown(done: dict[str, Any]) -> list[str]:
    """Return what was measured as lines of Markdown: from what, and a table."""
    machine, versions = done["machine"], done["machine"]["versions"]
    timed = bool(done["lookup_s"])
    rows = [
        [
            row["max_pieces"],
            f"{row['pieces']:.1f}",
            f"{100 * row['accuracy']['value']:.1f}",
            f"{100 * row['accuracy']['standard_error']:.1f}",
            f"{row['lookups']:,.0f}",
            *([f"{row['seconds']:.0f}"] if timed else []),
        ]
        for row in done["rows"]
    ]
    head = ["pieces at most", "read, mean", "accuracy, %", "standard error", "lookups"]
    seconds = (
        f" and seconds are of one text, mean; seconds are lookups times the time of one, on "
        f"{machine['processor']}, {machine['cores']} cores, Concrete {versions['concrete-python']}"
        if timed
        else " are of one text, mean"
    )
    return [
        f"{done['model']} ({done['model_hash'][:12]}), {done['n_texts']} texts of {done['data']} "
        f"(SHA-256 {done['data_sha256'][:12]}), the {done['max_tokens']} most important tokens of "
        f"each piece; the integer model with rounding noise drawn {done['n_draws']} times. Lookups"
        f"{seconds}; {machine['date']}.",
        "",
        *markdown_table([*head, *(["seconds"] if timed else [])], rows),
    ]


def _read_known(folder: Path | None) -> dict[str, Any]:
    """Return what an earlier call wrote to a folder; nothing if it wrote none.

    Raises InputError for a file that can't be read, or holds something else.
    """
    path = None if folder is None else folder / f"{FILE}.json"
    if path is None or not path.exists():
        return {}
    return read_results(path, PieceLimits, "long-documents").model_dump(mode="json")


def _time_lookups(model: IntegerModel, observer: Observer) -> dict[int, float]:
    from compile.local.session import Session

    passphrase = passphrase_in_environment()
    with Session(model, observer=observer, passphrase=passphrase, benchmark=True) as session:
        session.prepare(documents=True)
        return dict(session.cost().lookup_s)
