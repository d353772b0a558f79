"""Evaluations made by hand: what the tests of figures, page and plots read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compile.evaluation.records import Evaluation, Header, Sitting, TextRecord, open_evaluation
from fhe_inhibitor.system.machine import Machine

MACHINE = Machine(
    processor="a processor",
    cores=2,
    memory_gb=8,
    load_average=0.1,
    versions={"python": "3.11.7"},
    commit="abc1234",
    date="2026-01-01",
)


def header(**changes: Any) -> Header:
    """Two labels, two draws of noise, a float student; a step of 0.5."""
    fields = dict(
        mode="execute",
        model="tiny",
        model_hash="a" * 64,
        circuits_hash="b" * 64,
        p_error=2.0**-20,
        data="dev.tsv",
        data_sha256="c" * 64,
        n_texts=10,
        max_tokens=4,
        labels=("negative", "positive"),
        logit_scale=0.5,
        noise_std=0.1,
        n_draws=2,
        float_sha256="d" * 64,
        tokenizer_sha256="f" * 64,
    )
    return Header.model_validate(fields | changes)


def sitting(timed: bool = False, **changes: Any) -> Sitting:
    fields = dict(timed=timed, machine=MACHINE, began="2026-01-01T00:00:00+00:00")
    return Sitting.model_validate(fields | changes)


def text(index: int, label: int, logits: Sequence[int] | None, **changes: Any) -> TextRecord:
    """A text whose decrypted logits are the exact ones, unless told otherwise."""
    clear = changes.get("clear_logits", logits)
    fields = dict(
        index=index,
        sitting=0,
        label=label,
        logits=logits,
        clear_logits=clear,
        drawn_logits=(clear, clear),
        float_logits=clear,
        n_tokens=6,
        n_read=4,
        n_positions=4,
        stages={"encrypt": 0.5, "layer0.project": 1.0},
        seconds=2.0,
        done="2026-01-01T00:00:02+00:00",
    )
    return TextRecord.model_validate(fields | changes)


def evaluation(texts: Sequence[TextRecord], *sittings: Sitting) -> Evaluation:
    found = Evaluation(header())
    for line in (*(sittings or (sitting(),)), *texts):
        found.add(line)
    return found


def write(path: Path, of: Header, texts: Sequence[TextRecord], *sittings: Sitting) -> Path:
    """Write a file as `evaluate --out` does."""
    first, *more = sittings or (sitting(),)
    with open_evaluation(path) as file:
        file.begin(of, first)
        for line in (*more, *texts):
            file.append(line)
    return path
