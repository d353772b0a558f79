"""Neighbours that are encrypted from the first layer to the last: inhibitor and dot product."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

from compile.cost.report import estimate
from compile.local.session import Session
from demos.accuracy_and_time import NOISE_DRAWS, measure_times
from demos.neighbours.heads import SPLITS, Rows
from demos.neighbours.results import INHIBITOR, PACKAGES, Accuracy, Neighbour, Times
from fhe_inhibitor.integer.evaluation import evaluate
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.system.machine import describe_machine
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.system.statistics import share
from fhe_inhibitor.text.data import LabelledText


def measure_student(
    model: IntegerModel, rows: Rows, tokens: int, made_from: str, observer: Observer
) -> Neighbour:
    """Return the row of a student: its accuracies as integers, rounding noise drawn."""
    shares = {}
    for name in SPLITS:
        measured = evaluate(model, rows[name], tokens, NOISE_DRAWS, observer)
        shares[name] = share(measured.value * measured.n_texts, measured.n_texts)
    return Neighbour(
        machine=describe_machine(PACKAGES),
        made_from=made_from,
        accuracy=Accuracy(**shares),
        n_encrypted=tokens * model.network.dim,
        client_bytes=_public_bytes(model),
    )


def time_students(
    models: Mapping[str, IntegerModel],
    rows: list[LabelledText],
    tokens: int,
    n_texts: int,
    made_from: str,
) -> dict[str, Times]:
    """Time encrypted sentences of full length, students in turn, sentence by sentence."""
    sessions = {kind: Session(model) for kind, model in models.items()}
    measured = measure_times(sessions, rows, tokens, n_texts)
    machine = describe_machine(PACKAGES)
    texts = [row.text for row in full_texts(models[INHIBITOR], rows, tokens, n_texts)]
    times = {}
    for kind, model in models.items():
        found, cost = measured[kind], sessions[kind].cost()
        times[kind] = Times(
            machine=machine,
            made_from=made_from,
            clear_s=[_clear_s(model, text, tokens) for text in texts],
            encrypted_s=found["seconds"],
            equal=None,
            lookups=found["lookups"],
            lookup_s=found["lookup_s"],
            complexity=estimate(model.network, [tokens], model.p_error).lengths[0].units,
            keygen_s={stage.name: stage.seconds for stage in cost.setup}.get("keygen"),
            evaluation_keys_bytes=cost.evaluation_keys_bytes,
            request_bytes=found["request_bytes"],
            response_bytes=found["response_bytes"],
        )
    return times


def full_texts(
    model: IntegerModel, rows: list[LabelledText], tokens: int, n: int
) -> list[LabelledText]:
    """Return the first n texts that fill so many tokens."""
    return [row for row in rows if model.tokenize(row.text, tokens).n_total >= tokens][:n]


def _clear_s(model: IntegerModel, text: str, tokens: int) -> float:
    seconds = []
    for _ in range(5):
        start = perf_counter()
        model.encode(model.tokenize(text, tokens))
        seconds.append(perf_counter() - start)
    return median(seconds)


def _public_bytes(model: IntegerModel) -> int:
    with TemporaryDirectory() as folder:
        model.write_public(folder)
        return sum(path.stat().st_size for path in Path(folder).iterdir())
