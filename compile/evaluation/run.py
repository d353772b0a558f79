"""Accuracy of encrypted classification, and its agreement with the integer model.

`evaluate_encrypted` answers at once. `evaluate_into` keeps each text in a file as soon as it is
decrypted, and goes on from there: hours of encrypted work are done in several sittings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from compile.evaluation.records import (
    Evaluation,
    EvaluationFile,
    Header,
    Mode,
    Sitting,
    TextRecord,
    open_evaluation,
)
from compile.local.prepared import tokenizer_sha256
from compile.local.session import Session
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.documents import (
    Document,
    cut_documents,
    document_logits,
    encode_pieces,
)
from fhe_inhibitor.integer.evaluation import (
    Accuracy,
    Agreement,
    accuracy,
    agreement,
    draw_noise,
    labelled_rows,
)
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.integer.public import Tokens
from fhe_inhibitor.runtime.classifier import Classification, DocumentClassification
from fhe_inhibitor.system.extras import needs
from fhe_inhibitor.system.files import file_sha256
from fhe_inhibitor.system.machine import describe_machine
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.text.data import LabelledText

PACKAGES = ("concrete-python", "numpy", "fhe-inhibitor")
MAX_LOAD = 0.5  # of each core, of a machine that is quiet


@dataclass(frozen=True)
class EncryptedEvaluation:
    """What encryption changes over the same texts.

    accuracy, integer_accuracy: encrypted, and of the integer model with exact rounding.
    seconds_per_text, max_seconds: from encryption to the decrypted label; None if not timed.
    """

    accuracy: Accuracy
    integer_accuracy: Accuracy
    agreement: Agreement
    seconds_per_text: float | None
    max_seconds: float | None


def evaluate_encrypted(
    session: Session,
    rows: Sequence[LabelledText],
    max_tokens: int | None = None,
    max_pieces: int | None = None,
) -> EncryptedEvaluation:
    """Classify labelled texts in a session whose mode is `simulate` or `execute`.

    max_pieces: read each text in so many pieces at most; None reads each as one. Raises InputError
    for no texts, labels that the model doesn't have, and for a session that encrypts nothing.
    """
    rows = labelled_rows(session.model, rows)
    if session.mode == "disable" or not rows:
        raise InputError(
            f"{len(rows)} texts in mode {session.mode!r}; wanted 1 or more, 'simulate' or 'execute'"
        )
    texts = [row.text for row in rows]
    results: Sequence[Classification]
    if max_pieces is None:
        results = session.classify_many(texts, max_tokens)
    else:
        results = session.classify_documents(texts, max_tokens, max_pieces)
    return compare(
        np.array([_less(result.logits, _offset(result)) for result in results]),
        np.array([_less(result.clear_logits, _offset(result)) for result in results]),
        rows,
        [result.seconds for result in results],
    )


def compare(
    logits: np.ndarray, clear: np.ndarray, rows: Sequence[LabelledText], seconds: Sequence[float]
) -> EncryptedEvaluation:
    """Compare logits `[n_texts, n_labels]` with those of the integer model."""
    return EncryptedEvaluation(
        accuracy([logits], rows),
        accuracy([clear], rows),
        agreement(clear, logits),
        sum(seconds) / len(seconds) if seconds else None,
        max(seconds) if seconds else None,
    )


class Asked(NamedTuple):
    """What to evaluate beside the model.

    data: the file that the rows were read from; n_texts: how many it has. checkpoint: name or
    folder of the model, where its float student may be. n_draws: of rounding noise, for each text.
    timed: whether the machine is quiet. max_pieces: that are read of a long text; None reads each
    text as one.
    """

    data: Path
    n_texts: int
    checkpoint: str | Path
    max_tokens: int | None
    n_draws: int
    timed: bool
    max_pieces: int | None = None


def evaluate_into(
    path: Path,
    session: Session,
    rows: Sequence[LabelledText],
    asked: Asked,
    observer: Observer | None = None,
) -> Evaluation:
    """Classify the texts that a file lacks, and add each to it; return what the file holds then.

    Raises InputError for no texts, as `records.open_evaluation` does, and for a file that holds
    the evaluation of something else: before anything is compiled, but for other circuits.
    """
    observer = observer or Observer()
    model = session.model
    rows = labelled_rows(model, rows)
    if not rows:
        raise InputError("0 texts; wanted 1 or more")
    texts = [row.text for row in rows]
    read: Sequence[Tokens | Document]
    if asked.max_pieces is None:
        read = model.tokenize_many(texts, asked.max_tokens, False, Observer())
    else:
        read = cut_documents(model, texts, asked.max_tokens, asked.max_pieces)
    with open_evaluation(path) as file:
        file.check(_header(session, asked))
        _check_labels(file, rows)
        if file.n_dropped:
            observer.note(f"the last line of {path} was half-written: that text is done again")
        missing = [index for index in range(len(rows)) if index not in file.found.texts]
        if missing:
            _tell_what_is_read(model, read, asked, observer)
            _evaluate(file, missing, rows, read, session, asked, observer)
        return file.found


def _check_labels(file: EvaluationFile, rows: Sequence[LabelledText]) -> None:
    """Refuse a file whose labels are not those of the texts, which only an edit can make."""
    for index, row in enumerate(rows):
        record = file.found.texts.get(index)
        if record is not None and record.label != row.label:
            raise InputError(
                f"{file.path} has the label {record.label} for text {index}, the data {row.label}: "
                "the file was changed; name another --out"
            )


def summarize(found: Evaluation, rows: Sequence[LabelledText]) -> dict[str, Any]:
    """Return the figures of the first texts that a file holds, as `evaluate --json` names them.

    Times are of texts of timed sittings alone.
    """
    records = [found.texts[index] for index in range(len(rows))]
    clear = np.array([_less(record.clear_logits, record.offset) for record in records])
    if records[0].logits is None:
        drawn = np.array(
            [_less(record.drawn_logits, record.offset) for record in records]
        )  # [n_texts, n_draws, n_labels]
        draws = list(drawn.swapaxes(0, 1)) if drawn.shape[1] else [clear]
        return {"accuracy": asdict(accuracy(draws, rows)), "rounding_noise": drawn.shape[1] > 0}
    logits = np.array([_less(record.logits, record.offset) for record in records])
    seconds = [record.seconds for record in records if found.sittings[record.sitting].timed]
    return asdict(compare(logits, clear, rows, seconds))


def _evaluate(
    file: EvaluationFile,
    missing: Sequence[int],
    rows: Sequence[LabelledText],
    read: Sequence[Tokens | Document],
    session: Session,
    asked: Asked,
    observer: Observer,
) -> None:
    machine = describe_machine(PACKAGES)  # before our own work adds to its load
    if asked.timed and machine.load_average > MAX_LOAD * machine.cores:
        observer.note(
            f"the load average is {machine.load_average:g} on {machine.cores} cores: with --timed "
            "nothing else should run"
        )
    chosen = [read[index] for index in missing]
    texts = [rows[index].text for index in missing]
    floats = None
    results: Iterator[Classification]
    if asked.max_pieces is None:
        tokens = cast(list[Tokens], chosen)
        observer.begin("float student")
        floats = _float_logits(session.model, asked, tokens, observer)
        results = session.classify_each(texts, tokens)
    else:
        results = session.classify_each_document(texts, cast(list[Document], chosen))
    session.prepare(asked.max_pieces is not None)
    sitting = file.begin(
        _header(session, asked),
        Sitting(
            timed=asked.timed,
            machine=machine,
            lookup_s=dict(session.cost().lookup_s),
            began=_now(),
        ),
    )
    if session.mode == "disable":
        observer.begin("integer model")
        observer.plan(len(missing), "texts")
    for position, result in enumerate(results):
        index = missing[position]
        drawn = _draw(session.model, chosen[position], index, asked.n_draws)
        student = None if floats is None else floats[position]
        file.append(_record(index, sitting, rows[index].label, result, drawn, student))
        if session.mode == "disable":
            observer.finish(1)


def _header(session: Session, asked: Asked) -> Header:
    """Return what the file is of; the circuits' hash if the session has made, or found, them."""
    model, long = session.model, asked.max_pieces is not None
    weights = None if long else _float_weights(asked.checkpoint)
    modes: dict[str, Mode] = {"disable": "disable", "simulate": "simulate", "execute": "execute"}
    return Header(
        mode=modes[session.mode],
        model=model.name,
        model_hash=model.hash,
        circuits_hash=session.circuits_hash,
        p_error=model.p_error,
        data=asked.data.name,
        data_sha256=file_sha256(asked.data),
        n_texts=asked.n_texts,
        max_tokens=asked.max_tokens or model.default_tokens,
        labels=model.labels,
        logit_scale=model.logit_scale,
        noise_std=model.noise_std,
        n_draws=asked.n_draws,
        float_sha256=None if weights is None else file_sha256(weights),
        max_pieces=asked.max_pieces,
        neutral_logits=model.neutral_logits if long else (),
        tokenizer_sha256=tokenizer_sha256(model),
    )


def _record(
    index: int,
    sitting: int,
    label: int,
    result: Classification,
    drawn: tuple[tuple[int, ...], ...],
    student: np.ndarray | None,
) -> TextRecord:
    assert result.clear_logits is not None  # a session has the model
    return TextRecord(
        index=index,
        sitting=sitting,
        label=label,
        logits=result.logits,
        clear_logits=result.clear_logits,
        drawn_logits=drawn,
        float_logits=None if student is None else tuple(round(float(x), 6) for x in student),
        n_tokens=result.n_tokens,
        n_read=len(result.tokens),
        n_positions=result.n_positions,
        n_pieces=len(result.pieces) if isinstance(result, DocumentClassification) else 1,
        offset=_offset(result),
        stages={stage.name: round(stage.seconds, 6) for stage in result.stages},
        seconds=round(result.seconds, 6),
        done=_now(),
    )


def _offset(result: Classification) -> tuple[float, ...]:
    return result.offset if isinstance(result, DocumentClassification) else ()


def _less(logits: Sequence[Any] | None, offset: Sequence[float]) -> np.ndarray:
    """Return logits `[..., n_labels]` less an offset, if there is one."""
    assert logits is not None  # of a session that encrypts, or has the model
    return np.array(logits) - np.array(offset) if offset else np.array(logits)


def _draw(
    model: IntegerModel, read: Tokens | Document, index: int, n_draws: int
) -> tuple[tuple[int, ...], ...]:
    """Return logits with rounding noise, of seeds that the order of the texts doesn't change."""
    pieces = encode_pieces(model, read)
    draws = (
        document_logits(model, pieces, draw_noise(model, [seed, index])) for seed in range(n_draws)
    )
    return tuple(tuple(logits.tolist()) for logits in draws)


def _float_weights(checkpoint: str | Path) -> Path | None:
    """Return the file of the float student; None if there is none, or nothing that can run it."""
    try:
        with needs("train"):
            from fhe_inhibitor.model.float_student import find_weights
    except InputError:
        return None
    return find_weights(checkpoint)


def _float_logits(
    model: IntegerModel, asked: Asked, tokens: Sequence[Tokens], observer: Observer
) -> np.ndarray | None:
    if _float_weights(asked.checkpoint) is None:
        observer.note(
            f"{model.name} is compared with no float student: its checkpoint has none, or the "
            "extra 'train' is missing"
        )
        return None
    from fhe_inhibitor.model.float_student import float_logits

    return float_logits(asked.checkpoint, [read.ids for read in tokens], len(model.labels))


def _tell_what_is_read(
    model: IntegerModel, read: Sequence[Tokens | Document], asked: Asked, observer: Observer
) -> None:
    n_cut = sum(isinstance(tokens, Tokens) and tokens.n_cut > 0 for tokens in read)
    limit = asked.max_tokens or model.default_tokens
    if n_cut:
        observer.note(
            f"{n_cut} of {len(read)} texts are longer than {limit} tokens: their most important "
            "ones are read"
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
