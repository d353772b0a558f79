"""The error probabilities of one lookup that circuits can be compiled for, instead of the model's.

    model = with_p_error(IntegerModel.load(), "2^-40")

Each has its own parameters, so its own circuits and keys. `docs/security.md` has what each costs.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, TypeVar

from fhe_inhibitor.errors import InputError

P_ERRORS = {f"2^-{bits}": 2.0**-bits for bits in (20, 40, 64, 128)}
USUAL = P_ERRORS["2^-20"]

Model = TypeVar("Model", bound=Any)  # a dataclass with a field p_error: `prepared.Compilable`


def with_p_error(model: Model, name: str | None) -> Model:
    """Return a model whose lookups are to err with the probability of that name; None changes none.

    Raises InputError for another name than those of `P_ERRORS`.
    """
    if name is None:
        return model
    if name not in P_ERRORS:
        raise InputError(f"error probability {name!r}; wanted one of {', '.join(P_ERRORS)}")
    return replace(model, p_error=P_ERRORS[name])


def cache_suffix(p_error: float) -> str:
    """Return what tells circuits for this probability from the usual ones in a folder's name.

    >>> cache_suffix(2.0**-20), cache_suffix(2.0**-40), cache_suffix(0.1)
    ('', '-p40', '-p3.32193')
    """
    return "" if p_error == USUAL else f"-p{-math.log2(p_error):.6g}"
