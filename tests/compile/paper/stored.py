"""Stored results that a page can be made of without encrypting anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compile.paper.inputs import Inputs, IntegerAccuracy, parse_price, read_compiled, read_decrypted
from compile.paper.prices import ErrorPrice, Predictions
from compile.paper.records import Measured, Sentence
from fhe_inhibitor.integer.evaluation import Accuracy
from tests.compile.evaluation.records import MACHINE, header, sitting, text, write

MODEL_HASH = "a" * 64  # of the stored evaluation
STAGES = {"layer0.project": 1.0, "layer0.attend": 3.0, "classify": 0.5}


def sentence(compute_s: float = 5.0, **changes: Any) -> Sentence:
    fields = dict(
        preprocess_s=0.001,
        encrypt_s=0.4,
        compute_s=compute_s,
        stages=STAGES,
        worker_core_s=9.0,
        decrypt_s=0.1,
        postprocess_s=0.0001,
        request_bytes=15_500,
        response_bytes=33_000,
        logits=(3, -2),
        clear_logits=(4, -2),
        label="negative",
    )
    return Sentence.model_validate(fields | changes)


def measured(**changes: Any) -> Measured:
    """Three sentences of 5, 6 and 7 seconds on the worker."""
    fields = dict(
        text="a film",
        n_tokens=6,
        n_read=4,
        n_positions=4,
        keygen_s=2.0,
        evaluation_keys_bytes=32_000_000,
        read_keys_s=0.25,
        unpack_keys_s=1.5,
        sentences=tuple(sentence(seconds) for seconds in (6.0, 5.0, 7.0)),
        client_peak_bytes=600_000_000,
        worker_peak_bytes=1_100_000_000,
        lookup_s={3: 0.006, 4: 0.008},
        processors=2,
        no_energy="there is no counter",
    )
    return Measured.model_validate(fields | changes)


def compiled_json() -> str:
    """As `compile` writes it, a field that the page doesn't need included."""
    length = dict(
        n=4,
        stages=[],
        lookups={"3": 20, "4": 1480},
        failure_probability=0.0014,
        request_bytes=15_000,
        response_bytes=32_784,
        predicted_s=None,
    )
    parameters = [
        dict(key=0, dimension=2048, polynomial_size=2048, log2_std=-49.9, margin=0.05, encrypts="x")
    ]
    return json.dumps(
        dict(
            model_hash=MODEL_HASH,
            p_error=2.0**-20,
            lengths=[length],
            n_functions=9,
            complexity=1.1e11,
            bootstrap_keys_bytes=100_000_000,
            keyswitch_keys_bytes=60_000_000,
            compile_s=12.0,
            security_bits=128,
            parameters=parameters,
            lookup_units={"3": 5e7, "4": 1e8},
            lookup_s=None,
            noise=[],
            widest_lookup=4,
            concrete_version="2.11.0",
        )
    )


def error_price(name: str, bits: int, units: float) -> ErrorPrice:
    return ErrorPrice(
        name=name,
        p_error=2.0**-bits,
        of_sentence=1500 * 2.0**-bits,
        units=units,
        evaluation_keys_bytes=32_000_000,
        request_bytes=15_000,
        response_bytes=33_000,
    )


def predictions(**changes: Any) -> Predictions:
    errors = (error_price("2^-20", 20, 1e11), error_price("2^-40", 40, 1.5e11))
    fields = dict(sentence_s=5.5, errors=errors, unit_s=1e-10, machine="this machine")
    return Predictions.model_validate(fields | changes)


def evaluation(folder: Path) -> Path:
    """Ten texts of ten, nine right; one label is another one than the integers'. All timed."""
    texts = [
        text(index, 1, (0, 3) if index else (3, 0), clear_logits=(0, 3), stages={"encrypt": 0.5})
        for index in range(10)
    ]
    return write(folder / "nano.jsonl", header(), texts, sitting(timed=True))


def inputs(folder: Path | None = None, **changes: Any) -> Inputs:
    """What a page is made of; with a folder also accuracies, whose file goes there, and a price."""
    fields: dict[str, Any] = dict(
        model="tiny",
        model_hash=MODEL_HASH,
        max_tokens=4,
        p_error=None,
        machine=MACHINE,
        command="fhe-inhibitor report --model tiny --repeat 3",
        compiled=read_compiled(compiled_json()),
        measured=measured(),
        predictions=predictions(),
    )
    if folder is not None:
        fields["evaluations"] = (read_decrypted(evaluation(folder), "tiny", MODEL_HASH),)
        fields["accuracy"] = IntegerAccuracy("dev.tsv", None, Accuracy(200, 3, 0.75, 0.03, 0.01))
        fields["price"] = parse_price("0.05 EUR")
    return Inputs(**(fields | changes))
