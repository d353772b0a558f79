"""The measurements in the form of the FHE Benchmarking Suite of HomomorphicEncryption.org.

The suite's harness writes one file for each run, measurements/SIZE/results-RUN.json, with these
fields (github.com/fhe-benchmarking/BERT, harness/utils.py, function save_run, commit 170bfe5, and
the results beside it; fhe-benchmarking/ml-inference has the same):

    model_name, dataset_name    names
    Timing                      stage: seconds such as "12.3456s"; "Total" is their sum
    Bandwidth                   what is sent: size such as "46.0M", in powers of 1024
    Quality                     of sizes with many inputs: correct_predictions, total_samples and
                                accuracy, of "Encrypted model quality", "Harness model quality"
    Server Reported             what the server reports: seconds in the same form

Stages have the harness's names. It makes data and inputs itself, which isn't measured here, so the
stages "Test dataset generation" and "Input generation" are left out. This is the form of the suite,
not one of its workloads: a classifier of reviews is none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from compile.evaluation.analysis import DECRYPTED, FLOAT, INTEGERS
from compile.paper.inputs import DecryptedEvaluation, Inputs
from compile.paper.records import Measured, Sentence
from fhe_inhibitor.system.files import write_atomically
from fhe_inhibitor.system.statistics import Share

FOLDER, SINGLE, BATCH = "suite", "single", "batch"
UNITS = "BKMGT"

SecondsText = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)?s$")]
SizeText = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)?[BKMGTP]$")]


class Quality(BaseModel):
    """Right labels of one model."""

    model_config = ConfigDict(extra="forbid")

    correct_predictions: int = Field(ge=0)
    total_samples: int = Field(ge=1)
    accuracy: float = Field(ge=0, le=1)


class Results(BaseModel):
    """One file of the suite. quality: None for a single input, and then left out."""

    model_config = ConfigDict(extra="forbid")

    model_name: str
    dataset_name: str
    timing: dict[str, SecondsText] = Field(alias="Timing")
    bandwidth: dict[str, SizeText] = Field(alias="Bandwidth")
    quality: dict[str, Quality] | None = Field(default=None, alias="Quality")
    server_reported: dict[str, SecondsText] = Field(alias="Server Reported")

    def to_json(self) -> str:
        """Return it as the harness writes it."""
        return self.model_dump_json(by_alias=True, exclude_none=True, indent=2)


def write_suite(inputs: Inputs, dataset: str, out: Path) -> list[Path]:
    """Write a file for each measured run, and one for each evaluation, to `out`/suite.

    Return their paths, after whatever an earlier call left there was removed.
    """
    results = {
        f"{SINGLE}/results-{run}.json": single(inputs, dataset, sentence)
        for run, sentence in enumerate(inputs.measured.sentences, start=1)
    }
    results |= {
        f"{BATCH}/results-{run}.json": batch(inputs, evaluation)
        for run, evaluation in enumerate(inputs.evaluations, start=1)
    }
    folder = out / FOLDER
    for old in folder.glob("*/results-*.json"):
        old.unlink()
    paths = []
    for name, content in results.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content.to_json() + "\n")
        paths.append(path)
    return paths


def single(inputs: Inputs, dataset: str, sentence: Sentence) -> Results:
    """Return one run of the measured text."""
    measured = inputs.measured
    timing = {
        "Key Generation": measured.keygen_s,
        "Encrypted model preprocessing": inputs.compiled.compile_s,
        "Input preprocessing": sentence.preprocess_s,
        "Input encryption": sentence.encrypt_s,
        "Encrypted computation": sentence.compute_s,
        "Result decryption": sentence.decrypt_s,
        "Result postprocessing": sentence.postprocess_s,
    }
    reported = {
        "Evaluation keys read": measured.read_keys_s,
        "Evaluation keys unpacked": measured.unpack_keys_s,
        **sentence.stages,
        "Total": sentence.compute_s,
    }
    return Results.model_validate(
        {
            "model_name": inputs.model,
            "dataset_name": dataset,
            "Timing": _seconds({**timing, "Total": sum(timing.values())}),
            "Bandwidth": _bandwidth(measured, sentence.request_bytes, sentence.response_bytes),
            "Server Reported": _seconds(reported),
        }
    )


def batch(inputs: Inputs, evaluation: DecryptedEvaluation) -> Results:
    """Return an evaluation of many texts.

    Its times are in it if the machine was quiet for all of them. The harness's model, in the clear,
    is the float student, else the integers with exact rounding.
    """
    found = evaluation.analysis
    clear = found.accuracy.get(FLOAT, found.accuracy[INTEGERS])
    timing = {}
    if found.times is not None and found.times.n_texts == found.n_texts:
        by_name: dict[str, float] = {}
        for record in evaluation.found.texts.values():
            for stage, seconds in record.stages.items():
                names = {"encrypt": "Input encryption", "decrypt": "Result decryption"}
                name = names.get(stage, "Encrypted computation")
                by_name[name] = by_name.get(name, 0.0) + seconds
        timing = {**by_name, "Total": sum(by_name.values())}
    return Results.model_validate(
        {
            "model_name": inputs.model,
            "dataset_name": Path(evaluation.header.data).stem,
            "Timing": _seconds(timing),
            "Bandwidth": _batch_bandwidth(inputs, evaluation),
            "Quality": {
                "Encrypted model quality": _quality(found.accuracy[DECRYPTED]),
                "Harness model quality": _quality(clear),
            },
            "Server Reported": {},
        }
    )


def harness_size(n_bytes: float) -> str:
    """Return a size as the harness writes it.

    >>> harness_size(0), harness_size(1536), harness_size(32_000_000)
    ('0.0B', '1.5K', '30.5M')
    """
    for unit in UNITS:
        if n_bytes < 1024:
            return f"{n_bytes:.1f}{unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f}P"


def _bandwidth(measured: Measured, request_bytes: int, response_bytes: int) -> dict[str, str]:
    return {
        "Public and evaluation keys": harness_size(measured.evaluation_keys_bytes),
        "Encrypted input": harness_size(request_bytes),
        "Encrypted results": harness_size(response_bytes),
    }


def _batch_bandwidth(inputs: Inputs, evaluation: DecryptedEvaluation) -> dict[str, str]:
    """Return the sizes of all texts, by their lengths; nothing for circuits of other parameters."""
    if evaluation.header.p_error != inputs.compiled.p_error:
        return {}
    lengths = {length.n: length for length in inputs.compiled.lengths}
    read = [lengths[record.n_positions] for record in evaluation.found.texts.values()]
    request = sum(length.request_bytes for length in read)
    response = sum(length.response_bytes for length in read)
    return _bandwidth(inputs.measured, request, response)


def _seconds(times: dict[str, float]) -> dict[str, str]:
    return {name: f"{seconds:.4f}s" for name, seconds in times.items()}


def _quality(share: Share) -> Quality:
    return Quality(
        correct_predictions=round(share.value * share.n),
        total_samples=share.n,
        accuracy=share.value,
    )
