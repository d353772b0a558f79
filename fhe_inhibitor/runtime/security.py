"""Whether keys with the parameters that somebody names are 128-bit secure, before any is made.

A client makes its keys with the parameters in `client.specs.json`, which a server may have written.
Too little noise, and the server computes the secret key from the evaluation keys, by linear
algebra. So each key and each encryption is compared with the line that Concrete's own optimizer
takes its parameters from: in dimension n, the noise's standard deviation s on the torus needs

    log2 s >= max(SLOPE n + BIAS, -62),  n >= 450,  binary secret keys.

The numbers are those in the library of Concrete 2.11.0 for 128 bits: fitted to what the Lattice
Estimator (Albrecht, Player, Scott 2015) says of the best known attacks. An estimate, no proof.

Too much noise is refused as well: nothing would decrypt, and what is many orders larger than the
torus comes out of floating point as no noise at all (measured: from a variance of 1e40 on).
"""

from __future__ import annotations

import math
from math import prod
from pathlib import Path

from pydantic import ValidationError

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.specifications import (
    BootstrapKey,
    KeyswitchKey,
    Noise,
    Specifications,
    Value,
)

SECURITY_BITS = 128
SLOPE, BIAS, MIN_DIMENSION = -0.025696778711484593, 2.675931372549016, 450
MIN_LOG2_STD, MAX_LOG2_STD = -62.0, -2.0  # -62: the lowest two bits of a word are always noise
ROUNDING = 1e-6  # of log2 s, which Concrete puts exactly on the line
MIN_POLYNOMIAL_SIZE = 256
MAX_KEYS_BYTES = 8 << 30  # unpacked; the widest lookups that compile, 8 bits, take a quarter
MAX_VALUE_WORDS = 1 << 27  # of one input or output: 1 GB
MAX_FILE_BYTES = 32 << 20
SEEDED_WORDS = 3  # a seed of two words, and the body
MAX_SHOWN = 120  # characters of what came


def required_log2_std(dimension: int) -> float:
    """Return the least log2 of the noise's standard deviation that is secure.

    >>> round(required_log2_std(2048), 2), required_log2_std(4096)
    (-49.95, -62.0)
    """
    return max(line(dimension), MIN_LOG2_STD)


def line(dimension: int) -> float:
    """Return the same without its least value: the distance from it is a margin of security."""
    return SLOPE * dimension + BIAS


def read_specifications(path: Path) -> Specifications:
    """Read client specifications that it is safe to make, load and use keys for.

    Raises InputError for a missing or damaged file, and for parameters that aren't secure or ask
    for more keys or memory than any circuits need; it names the first of them.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} can't be read ({error}); compile the model again") from error
    try:
        specifications = parse(content)
        check(specifications)
    except InputError as error:
        raise InputError(
            f"{path}: {error}; no keys are made or used with that: compile the model again, or "
            "leave the server that it came from"
        ) from error
    return specifications


def parse(content: bytes) -> Specifications:
    """Return the specifications in a file's bytes. Raises InputError for any other content."""
    if len(content) > MAX_FILE_BYTES:
        raise _refusal("its size", "too large", f"{MAX_FILE_BYTES:,} bytes at most")
    try:
        return Specifications.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    name = ".".join(map(str, first["loc"])) or "its content"
    if first["type"] == "missing":
        raise _refusal(name, "missing", "what Concrete writes")
    raise _refusal(name, repr(first["input"]), first["msg"].removeprefix("Input should be "))


def check(specifications: Specifications) -> None:
    """Refuse parameters that aren't secure, don't belong together, or are out of all proportion.

    Raises InputError that names the first one: what came, what was wanted.
    """
    _check_places(specifications)
    keyset = specifications.keyset
    dimensions = [key.params.lwe_dimension for key in keyset.lwe_secret_keys]
    for index, dimension in enumerate(dimensions):
        _check_secret_key(index, dimension, keyset.polynomial_sizes(index))
    for key in keyset.lwe_bootstrap_keys:
        _check_polynomial(key)
    for name, evaluation_key in keyset.evaluation_keys():
        _check_evaluation_key(name, evaluation_key, dimensions)
    for noise in specifications.noises():
        _check_noise(noise, dimensions)
    for name, value in specifications.values():
        _check_shape(name, value)
    n_bytes = sum(key.n_bytes for _, key in keyset.evaluation_keys())
    if n_bytes > MAX_KEYS_BYTES:
        raise _refusal("the size of all keys", f"{n_bytes:,} bytes", f"{MAX_KEYS_BYTES:,} at most")


def _check_places(specifications: Specifications) -> None:
    """Refuse keys that don't lie where their id says: Concrete finds them by their place."""
    keyset = specifications.keyset
    for name, keys in (
        ("secret key", keyset.lwe_secret_keys),
        ("bootstrap key", keyset.lwe_bootstrap_keys),
        ("keyswitch key", keyset.lwe_keyswitch_keys),
    ):
        for index, key in enumerate(keys):
            if key.id != index:
                raise _refusal(f"the id of {name} {index}", key.id, index)


def _check_secret_key(index: int, dimension: int, polynomial_sizes: set[int]) -> None:
    if dimension < MIN_DIMENSION:
        raise _refusal(
            f"the dimension of secret key {index}", dimension, f"{MIN_DIMENSION} or more"
        )
    if len(polynomial_sizes) > 1:
        raise _refusal(f"the polynomial size of secret key {index}", polynomial_sizes, "one")


def _check_polynomial(key: BootstrapKey) -> None:
    size = key.params.polynomial_size
    if size < MIN_POLYNOMIAL_SIZE or size & (size - 1):  # X^size + 1 must not have factors
        raise _refusal(
            f"the polynomial size of bootstrap key {key.id}",
            size,
            f"a power of two from {MIN_POLYNOMIAL_SIZE} on",
        )


def _check_evaluation_key(
    name: str, key: BootstrapKey | KeyswitchKey, dimensions: list[int]
) -> None:
    bits = key.params.level_count * key.params.base_log
    if bits > 64:
        raise _refusal(f"levels times base log of {name}", bits, "64 bits at most")
    dimension = key.params.input_lwe_dimension
    _check_dimension(f"the input dimension of {name}", key.input_id, dimension, dimensions)


def _check_noise(noise: Noise, dimensions: list[int]) -> None:
    _check_dimension(f"the dimension of {noise.name}", noise.key, noise.dimension, dimensions)
    name = f"the variance of {noise.name}"
    if noise.variance <= 0:
        raise _refusal(name, noise.variance, "more than 0")
    log2_std, least = math.log2(noise.variance) / 2, required_log2_std(noise.dimension)
    if not least - ROUNDING <= log2_std <= MAX_LOG2_STD:
        raise _refusal(
            name,
            f"{noise.variance:.3g}, log2 std {log2_std:.2f}",
            f"log2 std from {least:.2f} to {MAX_LOG2_STD:.0f} in dimension {noise.dimension}, as "
            f"{SECURITY_BITS} bits of security need",
        )


def _check_dimension(name: str, key: int, dimension: int, dimensions: list[int]) -> None:
    if key >= len(dimensions):
        raise _refusal(f"{name}: its secret key", key, f"one of {len(dimensions)}")
    if dimension != dimensions[key]:
        raise _refusal(name, dimension, f"{dimensions[key]}, that of secret key {key}")


def _check_shape(name: str, value: Value) -> None:
    """Refuse a shape for which Concrete would write beyond its words, or take all memory."""
    ciphertext = value.type_info.lwe_ciphertext
    seeded = ciphertext.compression == "seed"
    words = SEEDED_WORDS if seeded else ciphertext.encryption.lwe_dimension + 1
    wanted = [*ciphertext.abstract_shape.dimensions, words]
    for shape in (ciphertext.concrete_shape.dimensions, value.raw_info.shape.dimensions):
        if shape != wanted:
            raise _refusal(f"the shape of {name}", shape, wanted)
    size = prod(wanted)
    if size > MAX_VALUE_WORDS:
        raise _refusal(f"the size of {name}", f"{size:,} words", f"{MAX_VALUE_WORDS:,} at most")


def _refusal(name: str, came: object, wanted: object) -> InputError:
    """Return an error of one line; much of it is the server's, and mustn't move a cursor."""
    shown = [_shown(str(part)) for part in (name, came, wanted)]
    return InputError("{} is {}, wanted {}".format(*shown))


def _shown(text: str) -> str:
    text = "".join(character for character in text if character.isprintable())
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
