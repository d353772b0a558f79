"""The cryptographic parameters of keys, as people are shown them: a table, one row a secret key."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fhe_inhibitor.runtime.security import SECURITY_BITS, line
from fhe_inhibitor.runtime.specifications import Specifications, Value

TABLE_HEAD = "key", "dimension", "polynomial size", "log2 std", "security", "encrypts"
TABLE_NOTE = (
    f"security: at least {SECURITY_BITS} bits by the line that Concrete takes parameters from, and "
    "how far log2 std lies above that line; an estimate of known attacks, no proof"
)
MAX_NAMES = 4  # in one cell


@dataclass(frozen=True)
class KeyParameters:
    """One secret key, and the least noise of all that is encrypted under it.

    polynomial_size: of the bootstrap keys under it, None if there are none. log2_std: of the
    noise, on a torus of length 1; None if nothing is encrypted. margin: log2_std less the line for
    128 bits. encrypts: keys and values, in words.
    """

    key: int
    dimension: int
    polynomial_size: int | None
    log2_std: float | None
    margin: float | None
    encrypts: str


def key_parameters(specifications: Specifications) -> tuple[KeyParameters, ...]:
    """Return the parameters of each secret key of specifications that `security.check` passed."""
    listed, noises = [], list(specifications.noises())
    for key in specifications.keyset.lwe_secret_keys:
        n, under = key.params.lwe_dimension, [noise for noise in noises if noise.key == key.id]
        least = min((math.log2(noise.variance) / 2 for noise in under), default=None)
        listed.append(
            KeyParameters(
                key=key.id,
                dimension=n,
                polynomial_size=next(iter(specifications.keyset.polynomial_sizes(key.id)), None),
                log2_std=least,
                margin=None if least is None else least - line(n),
                encrypts=_encrypts(specifications, key.id),
            )
        )
    return tuple(listed)


def table_rows(parameters: Sequence[KeyParameters]) -> list[list[str]]:
    """Return the rows under `TABLE_HEAD`."""
    return [
        [
            str(key.key),
            str(key.dimension),
            "-" if key.polynomial_size is None else str(key.polynomial_size),
            "-" if key.log2_std is None else f"{key.log2_std:.2f}",
            "-" if key.margin is None else f"{SECURITY_BITS} bits {key.margin + 0.0:+.2f}",
            key.encrypts,
        ]
        for key in parameters
    ]


def _encrypts(specifications: Specifications, key: int) -> str:
    keyset, functions = specifications.keyset, specifications.circuits
    listed = {
        "bootstrap keys": [str(k.id) for k in keyset.lwe_bootstrap_keys if k.output_id == key],
        "keyswitch keys": [str(k.id) for k in keyset.lwe_keyswitch_keys if k.output_id == key],
        "inputs of": [f.name for f in functions if _any_under(key, f.inputs)],
        "outputs of": [f.name for f in functions if _any_under(key, f.outputs)],
    }
    return "; ".join(f"{name} {_shortened(names)}" for name, names in listed.items() if names)


def _shortened(names: list[str]) -> str:
    """Return names in a row; of many, such as the functions of all lengths, the first."""
    if len(names) <= MAX_NAMES:
        return ", ".join(names)
    return f"{names[0]} and {len(names) - 1} more"


def _any_under(key: int, values: Sequence[Value]) -> bool:
    return any(value.type_info.lwe_ciphertext.encryption.key_id == key for value in values)
