"""What a smaller probability of errors costs: a prediction for each that circuits can have."""

from __future__ import annotations

from pathlib import Path

from circuits.network import Network
from compile.local.p_error import P_ERRORS
from fhe_inhibitor.system.files import Record


class ErrorPrice(Record):
    """What circuits of one length cost whose lookups err with probability p_error each.

    name: of p_error, such as "2^-20". of_sentence: that at least one lookup of a sentence errs.
    units: complexity of its lookups. seconds: predicted for the machine. Bytes are those of what is
    sent, without headers.
    """

    name: str
    p_error: float
    of_sentence: float
    units: float
    seconds: float
    evaluation_keys_bytes: int
    request_bytes: int
    response_bytes: int


def price_errors(network: Network, n: int, report: Path, own: float) -> tuple[ErrorPrice, ...]:
    """Return the prices at n tokens, the largest probability first; nothing is compiled.

    report: the report.json of `compile` on the machine to predict seconds of. own: the
    probability that the model is compiled for, priced too if it is none of the usual. Raises
    InputError for a report without measured lookups.
    """
    # Here, because these load Concrete, which whoever shows the prices can spare.
    from compile.cost.report import estimate, read_speed
    from compile.report import failure_probability

    speed = read_speed(report)
    names = {p_error: name for name, p_error in P_ERRORS.items()}
    prices = []
    for p_error in sorted({*P_ERRORS.values(), own}, reverse=True):
        cost = estimate(network, [n], p_error, speed)
        (length,) = cost.lengths
        prices.append(
            ErrorPrice(
                name=names.get(p_error, f"{p_error:.3g}"),
                p_error=p_error,
                of_sentence=failure_probability(p_error, length.n_lookups),
                units=length.units,
                seconds=length.seconds,
                evaluation_keys_bytes=cost.evaluation_keys_bytes,
                request_bytes=length.request_bytes,
                response_bytes=length.response_bytes,
            )
        )
    return tuple(prices)
