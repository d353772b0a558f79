"""The file `client.specs.json` as Concrete writes it: keys, and what each function takes and gives.

It may come from a server. So nothing passes that isn't named here: a number that is no number, a
key type other than binary, an input that isn't encrypted. What these classes can't say of one value
alone, such as how much noise a key needs, `security` checks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

MAX_SECRET_KEYS, MAX_BOOTSTRAP_KEYS, MAX_KEYSWITCH_KEYS = 64, 64, 512
MAX_FUNCTIONS, MAX_VALUES = 4096, 4096  # functions; inputs, or outputs, of one
MAX_DIMENSIONS = 16  # of one value's shape

Id = Annotated[int, Field(ge=0, lt=MAX_KEYSWITCH_KEYS)]
Dimension = Annotated[int, Field(ge=1, le=1 << 17)]
Length = Annotated[int, Field(ge=1, lt=1 << 32)]
Log = Annotated[int, Field(ge=1, le=64)]
Precision = Literal[64]
KeyType = Literal["binary"]
Compression = Literal["none", "seed"]


class _Part(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, allow_inf_nan=False, extra="forbid", frozen=True, strict=True
    )


class Nothing(_Part):
    """An empty object, for a choice that has no more to say."""


class Native(_Part):
    """The choice of 64-bit words as they are."""

    native: Nothing


class Modulus(_Part):
    """Of ciphertexts: 2^64."""

    modulus: Native


class SecretKeyParams(_Part):
    lwe_dimension: Dimension
    integer_precision: Precision
    key_type: KeyType


class Key(_Part):
    """A key and its place in the list."""

    id: Id


class SecretKey(Key):
    params: SecretKeyParams


class EvaluationKeyParams(_Part):
    """What bootstrap and keyswitch keys share. variance: of the noise, on a torus of length 1."""

    level_count: Log
    base_log: Log
    variance: float
    integer_precision: Precision
    modulus: Modulus
    key_type: KeyType
    input_lwe_dimension: Dimension


class BootstrapParams(EvaluationKeyParams):
    glwe_dimension: Annotated[int, Field(ge=1, le=16)]
    polynomial_size: Dimension


class KeyswitchParams(EvaluationKeyParams):
    output_lwe_dimension: Dimension


class EvaluationKey(Key):
    """Secret key `input_id`, encrypted under secret key `output_id`."""

    input_id: Id
    output_id: Id
    compression: Compression


class BootstrapKey(EvaluationKey):
    params: BootstrapParams

    @property
    def output_dimension(self) -> int:
        """Of the secret key that it is encrypted under."""
        return self.params.glwe_dimension * self.params.polynomial_size

    @property
    def n_bytes(self) -> int:
        """Size, unpacked."""
        rows = self.params.input_lwe_dimension * self.params.level_count
        return 8 * rows * (self.params.glwe_dimension + 1) ** 2 * self.params.polynomial_size

    @property
    def n_bytes_sent(self) -> int:
        """Size as sent: of a ciphertext with a seed, its masks are left out."""
        return self.n_bytes // (1 if self.compression == "none" else self.params.glwe_dimension + 1)


class KeyswitchKey(EvaluationKey):
    params: KeyswitchParams

    @property
    def output_dimension(self) -> int:
        """Of the secret key that it is encrypted under."""
        return self.params.output_lwe_dimension

    @property
    def n_bytes(self) -> int:
        """Size, unpacked."""
        rows = self.params.input_lwe_dimension * self.params.level_count
        return 8 * rows * (self.params.output_lwe_dimension + 1)

    @property
    def n_bytes_sent(self) -> int:
        """Size as sent: of a ciphertext with a seed, its mask is left out."""
        columns = self.params.output_lwe_dimension + 1
        return self.n_bytes // (1 if self.compression == "none" else columns)


class Keyset(_Part):
    lwe_secret_keys: Annotated[list[SecretKey], Field(min_length=1, max_length=MAX_SECRET_KEYS)]
    lwe_bootstrap_keys: Annotated[list[BootstrapKey], Field(max_length=MAX_BOOTSTRAP_KEYS)]
    lwe_keyswitch_keys: Annotated[list[KeyswitchKey], Field(max_length=MAX_KEYSWITCH_KEYS)]
    packing_keyswitch_keys: Annotated[list[Nothing], Field(max_length=0)]  # no circuit needs any

    def evaluation_keys(self) -> Iterator[tuple[str, BootstrapKey | KeyswitchKey]]:
        """List all but the secret keys, each with what to call it."""
        for bootstrap in self.lwe_bootstrap_keys:
            yield f"bootstrap key {bootstrap.id}", bootstrap
        for keyswitch in self.lwe_keyswitch_keys:
            yield f"keyswitch key {keyswitch.id}", keyswitch

    def polynomial_sizes(self, secret_key: int) -> set[int]:
        """Return those of the bootstrap keys under a secret key; there may be none."""
        keys = [key for key in self.lwe_bootstrap_keys if key.output_id == secret_key]
        return {key.params.polynomial_size for key in keys}


class Encryption(_Part):
    key_id: Id
    variance: float
    lwe_dimension: Dimension
    modulus: Modulus


class IntegerEncoding(_Part):
    width: Log
    is_signed: bool
    mode: Native


class Encoding(_Part):
    integer: IntegerEncoding


class Shape(_Part):
    dimensions: Annotated[list[Length], Field(max_length=MAX_DIMENSIONS)]


class Ciphertext(_Part):
    """abstract_shape: of the integers. concrete_shape: of the words that encrypt them."""

    abstract_shape: Shape
    concrete_shape: Shape
    integer_precision: Precision
    encryption: Encryption
    compression: Compression
    encoding: Encoding


class TypeInfo(_Part):
    """Concrete also has inputs that are sent in the clear; there is no name for them here."""

    lwe_ciphertext: Ciphertext


class RawInfo(_Part):
    shape: Shape
    integer_precision: Precision
    is_signed: bool


class Value(_Part):
    """One input or output of a function."""

    raw_info: RawInfo
    type_info: TypeInfo


class Function(_Part):
    name: str
    inputs: Annotated[list[Value], Field(max_length=MAX_VALUES)]
    outputs: Annotated[list[Value], Field(max_length=MAX_VALUES)]


class TfhersSpecs(_Part):
    """Values that another library encrypts: none."""

    model_config = ConfigDict(alias_generator=None)

    input_types_per_func: dict[str, list[None]]
    output_types_per_func: dict[str, list[None]]
    input_shapes_per_func: dict[str, list[None]]
    output_shapes_per_func: dict[str, list[None]]


@dataclass(frozen=True)
class Noise:
    """Something encrypted: what to call it, under which secret key, with what noise.

    variance: on a torus of length 1.
    """

    name: str
    key: int
    dimension: int
    variance: float


class Specifications(_Part):
    """All of the file."""

    keyset: Keyset
    circuits: Annotated[list[Function], Field(max_length=MAX_FUNCTIONS)]
    tfhers_specs: Annotated[TfhersSpecs | None, Field(alias="tfhers_specs")] = None

    def values(self) -> Iterator[tuple[str, Value]]:
        """List inputs and outputs of all functions, each with what to call it."""
        for function in self.circuits:
            for kind, values in (("input", function.inputs), ("output", function.outputs)):
                for position, value in enumerate(values):
                    yield f"{kind} {position} of {function.name}", value

    def noises(self) -> Iterator[Noise]:
        """List all that is encrypted: evaluation keys, inputs and outputs."""
        for name, key in self.keyset.evaluation_keys():
            yield Noise(name, key.output_id, key.output_dimension, key.params.variance)
        for name, value in self.values():
            encryption = value.type_info.lwe_ciphertext.encryption
            yield Noise(name, encryption.key_id, encryption.lwe_dimension, encryption.variance)

    def to_json(self) -> str:
        """Return what Concrete reads: these fields and no others, each once."""
        return self.model_dump_json(by_alias=True, exclude={"tfhers_specs"})
