"""What is predicted: the seconds of a sentence, and what a smaller probability of errors costs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from circuits.network import Network
from compile.cost.speed import USUAL, speed_of
from compile.local.p_error import P_ERRORS
from fhe_inhibitor.runtime.costs import predict_seconds
from fhe_inhibitor.system.files import Record


class ErrorPrice(Record):
    """What circuits of one length cost whose lookups err with probability p_error each.

    name: of p_error, such as "2^-20". of_sentence: that at least one lookup of a sentence errs.
    units: complexity of its lookups. Bytes are those of what is sent, without headers.
    """

    name: str
    p_error: float
    of_sentence: float
    units: float
    evaluation_keys_bytes: int
    request_bytes: int
    response_bytes: int


class Predictions(Record):
    """sentence_s: lookups times the time of one; None where those weren't timed.

    errors: the largest probability first. unit_s: seconds of one unit of complexity on a machine.
    """

    sentence_s: float | None
    errors: tuple[ErrorPrice, ...]
    unit_s: float
    machine: str


def price_errors(
    network: Network, lengths: Iterable[int], n: int, own: float
) -> tuple[ErrorPrice, ...]:
    """Return the prices at n tokens, the largest probability first; nothing is compiled.

    lengths: that share one set of keys, n among them. own: what the model is compiled for, priced
    too if it is none of the usual.
    """
    listed = tuple(lengths)
    # Here, because these load Concrete, which whoever shows the page can spare.
    from compile.cost.report import estimate
    from compile.report import failure_probability

    names = {p_error: name for name, p_error in P_ERRORS.items()}
    prices = []
    for p_error in sorted({*P_ERRORS.values(), own}, reverse=True):
        cost = estimate(network, listed, p_error)
        (length,) = (length for length in cost.lengths if length.n == n)
        prices.append(
            ErrorPrice(
                name=names.get(p_error, f"{p_error:.3g}"),
                p_error=p_error,
                of_sentence=failure_probability(p_error, length.n_lookups),
                units=length.units,
                evaluation_keys_bytes=cost.evaluation_keys_bytes,
                request_bytes=length.request_bytes,
                response_bytes=length.response_bytes,
            )
        )
    return tuple(prices)


def predict(
    errors: tuple[ErrorPrice, ...], n: int, report: str, lookup_s: Mapping[int, float]
) -> Predictions:
    """Return what is predicted of sentences of n tokens.

    report: the JSON that `compile` wrote. lookup_s: seconds of one lookup by bit width; if empty,
    seconds are those of the usual machine.
    """
    sentence_s, speed, content = None, USUAL, json.loads(report)
    if lookup_s:
        content["lookup_s"] = {str(width): seconds for width, seconds in lookup_s.items()}
        speed = speed_of(content, "this machine")
        (lookups,) = (length["lookups"] for length in content["lengths"] if length["n"] == n)
        sentence_s = predict_seconds({int(w): count for w, count in lookups.items()}, lookup_s)
    return Predictions(
        sentence_s=sentence_s, errors=errors, unit_s=speed.unit_s, machine=speed.measured
    )
