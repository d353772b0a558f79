"""The work behind each command, for this process or a worker: no parsing, no printing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compile.local import evaluation as encrypted_evaluation
from compile.local.session import Classification, Session
from fhe_inhibitor.integer import evaluation
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.runtime.costs import SessionCost
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.text.data import LabelledText, read_tsv


@dataclass(frozen=True)
class Classified:
    """Results of `classify`, and what the session cost."""

    model: str
    mode: str
    labels: tuple[str, ...]
    results: list[Classification]
    cost: SessionCost


def classify(
    observer: Observer,
    texts: Sequence[str],
    model: str,
    mode: str,
    max_tokens: int | None,
    strict: bool,
    benchmark: bool,
) -> Classified:
    """Classify texts in one session; benchmark: time single lookups as well."""
    session = Session(model, mode, observer=observer, benchmark=benchmark)
    results = session.classify_many(texts, max_tokens, strict)
    return Classified(session.model.name, mode, session.model.labels, results, session.cost())


def evaluate(
    observer: Observer,
    data: Path,
    model: str,
    max_tokens: int | None,
    limit: int | None,
    n_draws: int,
) -> dict[str, Any]:
    """Measure the integer model; n_draws 0 rounds exactly."""
    loaded, rows = _load(model, data, limit)
    observer.begin("integer model")
    observer.plan(len(rows) * max(n_draws, 1), "texts")
    accuracy = evaluation.evaluate(
        loaded, rows, max_tokens, n_draws, on_text=lambda: observer.finish(1)
    )
    return {"accuracy": asdict(accuracy), "rounding_noise": n_draws > 0}


def evaluate_task(
    name: str, data: Path | None, model: str, limit: int | None
) -> list[dict[str, Any]]:
    """Measure a float model by a task's metrics on a file, or on its development sets."""
    # Here, because the other commands can spare torch.
    from fhe_inhibitor.text.tasks import TRAIN, find_task, load_task, read_examples
    from fhe_inhibitor.training.rows import encode_examples, load_classifier, measure_rows

    task = find_task(name)
    if data is not None and data.is_file():
        splits = {data.name: read_examples(task, data)}
    else:
        splits = load_task(task, data)
    classifier, tokenizer = load_classifier(model, task)
    return [
        {"recipe": model, "task": name, "split": split, "metric": metric, "value": value}
        for split, examples in splits.items()
        if split != TRAIN
        for metric, value in measure_rows(
            classifier, task, encode_examples(tokenizer, examples[:limit])
        ).items()
    ]


def evaluate_encrypted(
    observer: Observer,
    data: Path,
    model: str,
    mode: str,
    max_tokens: int | None,
    limit: int | None,
) -> dict[str, Any]:
    """Measure encrypted, or simulated, classification."""
    loaded, rows = _load(model, data, limit)
    session = Session(loaded, mode, observer=observer)
    return asdict(encrypted_evaluation.evaluate_encrypted(session, rows, max_tokens))


@dataclass(frozen=True)
class WrittenReport:
    """The report on compiled circuits, as it was written beside them."""

    markdown: str
    json: str


def compile_circuits(
    observer: Observer, model: str, from_onnx: Path | None, out: Path, measured: bool
) -> WrittenReport:
    """Write circuits, client specifications and report of a model to a new or empty folder.

    from_onnx: a quantized graph to take the integers from, instead of a checkpoint.
    """
    # Here, because these import Concrete, which the process that only shows progress can spare.
    from compile.local.circuits_cache import compile_model
    from compile.report import describe, measure
    from fhe_inhibitor.runtime.client import Client
    from fhe_inhibitor.runtime.server import Server

    if from_onnx is None:
        compiled = compile_model(IntegerModel.load(model), observer)
    else:
        from fhe_inhibitor.onnx.reader import read_exported

        compiled = compile_model(read_exported(from_onnx), observer)
    compiled.save(out)
    report = describe(compiled)
    if measured:
        observer.begin("keygen")
        client, server = Client(out), Server(out)
        client.generate_keys()
        observer.begin("time lookups")
        keys = server.read_evaluation_keys(client.evaluation_keys())
        report = measure(report, client, server, keys)
    written = WrittenReport(report.to_markdown(), report.to_json())
    (out / "report.md").write_text(written.markdown, encoding="utf-8")
    (out / "report.json").write_text(written.json, encoding="utf-8")
    return written


def _load(model: str, data: Path, limit: int | None) -> tuple[IntegerModel, list[LabelledText]]:
    loaded = IntegerModel.load(model)
    return loaded, read_tsv(data, len(loaded.labels))[:limit]
