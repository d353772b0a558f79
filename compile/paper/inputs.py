"""What the page is collected from: reports and results of other commands, and what was measured."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from compile.evaluation.analysis import Analysis, analyse
from compile.evaluation.records import Evaluation, Header, read_evaluation
from compile.paper.peers import Peer, read_peers
from compile.paper.prices import Predictions
from compile.paper.records import Measured
from compile.paper.trained import Trained
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.evaluation import Accuracy
from fhe_inhibitor.runtime.parameters import KeyParameters
from fhe_inhibitor.system.machine import Machine

PRICE = re.compile(r"\s*(\d+(?:\.\d+)?)\s+(\S.*?)\s*")


class _Part(BaseModel):
    """A part of what `compile` wrote; the page has no use for the others."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class CompiledLength(_Part):
    """One sequence length; see `compile.report.LengthReport`."""

    n: int
    lookups: dict[int, int]
    failure_probability: float
    request_bytes: int
    response_bytes: int


class Compiled(_Part):
    """What `compile` reported; see `compile.report.Report`."""

    model_hash: str
    p_error: float
    lengths: tuple[CompiledLength, ...]
    n_functions: int
    complexity: float
    bootstrap_keys_bytes: int
    keyswitch_keys_bytes: int
    compile_s: float
    security_bits: int
    parameters: tuple[KeyParameters, ...]
    widest_lookup: int
    concrete_version: str

    def length(self, n: int) -> CompiledLength:
        """Return what was reported of n tokens."""
        return next(length for length in self.lengths if length.n == n)


@dataclass(frozen=True)
class CorePrice:
    """What one core costs for an hour, in a currency, which is any text."""

    value: float
    currency: str


@dataclass(frozen=True)
class IntegerAccuracy:
    """Accuracy of the integer model, rounding noise drawn.

    data: name of the file of texts. limit: if only so many of its first texts were read.
    """

    data: str
    limit: int | None
    accuracy: Accuracy


@dataclass(frozen=True)
class DecryptedEvaluation:
    """What a file of `evaluate --out` holds, with its figures."""

    file: str
    header: Header
    found: Evaluation
    analysis: Analysis


@dataclass(frozen=True)
class Inputs:
    """All that the page is made of.

    model: its name. max_tokens: that it was asked to read. p_error: name of the probability of
    errors that was asked for, None for the model's own. machine: as it was before anything was
    measured. command: that makes the page. trained: what `train` wrote beside the model. price:
    None if nobody said what a core-hour costs.
    """

    model: str
    model_hash: str
    max_tokens: int
    p_error: str | None
    machine: Machine
    command: str
    compiled: Compiled
    measured: Measured
    predictions: Predictions
    accuracy: IntegerAccuracy | None = None
    evaluations: tuple[DecryptedEvaluation, ...] = ()
    trained: Trained | None = None
    price: CorePrice | None = None
    peers: tuple[Peer, ...] = field(default_factory=read_peers)


def read_compiled(content: str) -> Compiled:
    """Return what `compile` reported. Raises InputError for another version's report."""
    try:
        return Compiled.model_validate_json(content)
    except ValidationError as error:
        raise InputError(f"this isn't a report of this version's `compile`: {error}") from error


def read_decrypted(path: Path, model: str, model_hash: str) -> DecryptedEvaluation:
    """Return an evaluation of this model, with its figures.

    Raises InputError for a file that can't be read, holds nothing decrypted, or is of another
    model.
    """
    header, found = read_evaluation(path)
    if header.model_hash != model_hash:
        raise InputError(
            f"{path} holds an evaluation of {header.model} {header.model_hash[:12]}; wanted one of "
            f"{model} {model_hash[:12]}: pass another file, or another --model"
        )
    if header.mode != "execute":
        raise InputError(
            f"{path} was made in mode {header.mode}: wanted decrypted logits, so run evaluate with "
            "--mode execute and --out"
        )
    return DecryptedEvaluation(path.name, header, found, analyse(header, found))


def parse_price(text: str) -> CorePrice:
    """Return the price of a core-hour. Raises InputError for what isn't a number and a currency.

    >>> parse_price("0.05 EUR")
    CorePrice(value=0.05, currency='EUR')
    """
    match = PRICE.fullmatch(text)
    if match is None or not match[2].isprintable():
        raise InputError(
            f"--price {text!r}: wanted a number of 0 or more and a currency, such as '0.05 EUR'"
        )
    return CorePrice(float(match[1]), match[2])
