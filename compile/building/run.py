"""The second half of a build: proof, circuits, keys, encrypted texts, and all results.

    checkpoint -> proof -> circuits, report -> integers, noise drawn -> keys -> encrypted texts

It needs no more than the folders that the first half, `student`, wrote, so that it can run in a
process of its own: Concrete's native code wants one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compile.building.page import (
    FINISHED_FILE,
    PAGE_FILE,
    Built,
    Circuits,
    Encrypted,
    Scores,
    to_markdown,
)
from compile.building.student import claimed
from compile.evaluation.records import TextRecord
from compile.evaluation.run import Asked, evaluate_into
from compile.local.prepared import compile_model, prepare_circuits
from compile.local.session import Session
from compile.report import describe
from fhe_inhibitor.integer.model import IntegerModel, integer_file
from fhe_inhibitor.system.files import write_atomically
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.system.statistics import Share, share
from fhe_inhibitor.text.data import LabelledText
from fhe_inhibitor.training.own_texts import read_prepared, validation_rows
from fhe_inhibitor.training.recipe import BAG_OF_WORDS, INHIBITOR, RESULTS_FILE

if TYPE_CHECKING:
    from compile.module import CompiledNetwork

REPORT_JSON, REPORT_PAGE = "report.json", "report.md"
INTEGERS_FILE, ENCRYPTED_FILE = "integers.jsonl", "encrypted.jsonl"
DRAWS = 5
VALIDATION = "validation"


def encrypt_student(
    out: Path,
    work: Path,
    observer: Observer,
    n_encrypted: int = 20,
    seconds: Mapping[str, float] | None = None,
    passphrase: str | None = None,
) -> Built:
    """Prove, compile and measure the checkpoint that `make_student` made; return all results.

    Circuits and keys are put where a session looks for them, so `Session(out)` has them at once.
    The folder `out` gets report.md and report.json on the circuits, build.md and build.json with
    the results. n_encrypted: texts to classify encrypted, the first of the validation set; 0 makes
    no keys. seconds: of steps before. passphrase: of the keys, if they are to be locked with one.
    """
    took = dict(seconds or {})
    model = IntegerModel.load(out)
    file, rows = validation_rows(work)
    with claimed(work):
        with _timed("circuits", took):
            report = report_circuits(model, out, observer)
        asked = Asked(file, len(rows), out, None, DRAWS, timed=False)
        with _timed("integers", took), Session(model, "disable", observer=observer) as session:
            integers = _evaluate(work / INTEGERS_FILE, session, rows, asked, observer)
        encrypted = None
        if n_encrypted:
            chosen = rows[:n_encrypted]
            with Session(model, observer=observer, passphrase=passphrase) as session:
                with _timed("keys", took):
                    session.prepare()
                with _timed("encrypted texts", took):
                    found = _evaluate(work / ENCRYPTED_FILE, session, chosen, asked, observer)
                encrypted = _encrypted(found, chosen, session)
        built = Built(
            model=out.name,
            prepared=read_prepared(work),
            tokens=model.default_tokens,
            scores=_scores(out, work, integers, rows, model.default_tokens),
            by_tokens=_by_tokens(out),
            encrypted=encrypted,
            circuits=_circuits(report, model),
            model_bytes=integer_file(out).stat().st_size,
            seconds=took,
        )
        write_atomically(out / PAGE_FILE, to_markdown(built))
        write_atomically(out / FINISHED_FILE, built.model_dump_json(indent=1) + "\n")
    return built


def report_circuits(model: IntegerModel, out: Path, observer: Observer) -> dict[str, Any]:
    """Prove and compile a model unless that was done; return the report, also kept in `out`."""

    def write(compiled: CompiledNetwork) -> None:
        report = describe(compiled)
        write_atomically(out / REPORT_PAGE, report.to_markdown())
        write_atomically(out / REPORT_JSON, report.to_json())

    def read() -> dict[str, Any] | None:
        path = out / REPORT_JSON
        report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        return report if report and report["model_hash"] == model.hash else None

    prepare_circuits(model, observer=observer, on_compiled=write)
    if read() is None:  # the circuits were in the cache, made by somebody who asked for no report
        write(compile_model(model, observer))
    report = read()
    assert report is not None
    return report


@contextmanager
def _timed(step: str, seconds: dict[str, float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - start


def _evaluate(
    path: Path, session: Session, rows: list[LabelledText], asked: Asked, observer: Observer
) -> list[TextRecord]:
    """Return what came of texts, in their order; kept in a file, which is gone on with."""
    found = evaluate_into(path, session, rows, asked, observer)
    return [found.texts[index] for index in range(len(rows))]


def _scores(
    out: Path, work: Path, records: list[TextRecord], rows: list[LabelledText], tokens: int
) -> Scores:
    """Return the accuracies over all validation texts, at the default number of tokens."""
    results = _results(out)
    labels = np.array([row.label for row in rows])
    n = len(labels)

    def right(logits: list[Any]) -> Share:
        return share(int((np.array(logits).argmax(axis=-1) == labels).sum()), n)

    drawn = np.array([record.drawn_logits for record in records])  # [n, DRAWS, n_labels]
    n_right = (drawn.argmax(axis=-1) == labels[:, None]).sum(axis=0).mean()
    bag = results.get(BAG_OF_WORDS, {}).get(str(tokens))
    floats = [record.float_logits for record in records]
    return Scores(
        most_frequent=share(int((labels == np.argmax(read_prepared(work).train)).sum()), n),
        teacher=share(round(results["teacher"][VALIDATION] * n), n),
        bag_of_words=None if bag is None else share(round(bag[VALIDATION] * n), n),
        float_student=None if None in floats else right(floats),
        integers=share(float(n_right), n),
    )


def _by_tokens(out: Path) -> dict[int, float]:
    """Return the accuracy of the integers, noise drawn, by number of tokens."""
    return {
        int(n): measured[VALIDATION]["value"] for n, measured in _results(out)[INHIBITOR].items()
    }


def _results(out: Path) -> dict[str, Any]:
    return json.loads((out / RESULTS_FILE).read_text(encoding="utf-8"))


def _encrypted(records: list[TextRecord], rows: list[LabelledText], session: Session) -> Encrypted:
    labels = np.array([row.label for row in rows])
    found, clear = (
        np.array([getattr(record, name) for record in records]).argmax(axis=-1)
        for name in ("logits", "clear_logits")
    )
    return Encrypted(
        accuracy=share(int((found == labels).sum()), len(rows)),
        integers=share(int((clear == labels).sum()), len(rows)),
        n_equal=int((found == clear).sum()),
        seconds=float(np.median([record.seconds for record in records])),
        evaluation_keys_bytes=session.cost().evaluation_keys_bytes,
    )


def _circuits(report: dict[str, Any], model: IntegerModel) -> Circuits:
    """Return what the report says of the default number of tokens."""
    length = next(x for x in report["lengths"] if x["n"] == model.bucket(model.default_tokens))
    return Circuits(
        lookups=sum(length["lookups"].values()),
        request_bytes=length["request_bytes"],
        response_bytes=length["response_bytes"],
    )
