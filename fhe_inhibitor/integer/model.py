"""The integer model: the public model, and the network that runs on what the client encrypts.

    text -> tokens -> the n most important by a public list -> integers  (client, public.py)
         -> project, attend, feed_forward, classify                      (server, encrypted)
         -> integer logits -> probabilities                              (client, public.py)

It needs no torch: a client that classifies starts quickly.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from circuits.linear import Linear
from circuits.lookups import Lookup, exact_lookup
from circuits.network import Network, run
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer import format as integer_format
from fhe_inhibitor.integer.public import PublicModel, read_tokenizer
from fhe_inhibitor.runtime.manifest import NEUTRAL_FILE, TOKENIZER_FILE
from fhe_inhibitor.system.files import GZIPPED, Record, file_sha256, first_problem, read_json

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
DEFAULT_MODEL = "inhibidistilbert-nano-sst2"
# Too large for the package: they lie beside the default one in the repository.
REPOSITORY_ONLY = (
    "inhibidistilbert-full-depth-sst2",
    "inhibidistilbert-6-384-sst2-int8",
    "inhibidistilbert-small-sst2",
)
INTEGER_FILE, CONFIG_FILE = "integer_model.safetensors", "config.json"
# In the config: of the tokenizer's file, which the model's hash does not cover. Older ones lack it.
TOKENIZER_DIGEST = "tokenizer_sha256"


class Neutral(Record):
    """What is kept beside a checkpoint: neutral logits, of the model that they were measured of.

    data: what they were measured on.
    """

    model_hash: str
    neutral_logits: tuple[Annotated[float, Field(strict=True, allow_inf_nan=False)], ...]
    data: str = ""


@dataclass(frozen=True)
class IntegerModel(PublicModel):
    """A quantized checkpoint as integers: the public part, and the network that is encrypted.

    noise_std: rounding noise that the model was trained for, in rounding steps. hash: SHA-256
    of all integer parameters.
    """

    input_range: tuple[int, int] = field(init=False)
    first_projections: Mapping[str, Linear] = field(init=False)
    first_query_only: bool = field(init=False)
    causal: bool = field(init=False, kw_only=True)
    network: Network
    noise_std: float
    p_error: float
    hash: str

    def __post_init__(self) -> None:
        # What the public part says of the network follows from it.
        object.__setattr__(self, "input_range", self.network.input_range)
        object.__setattr__(self, "first_projections", _public_projections(self.network))
        object.__setattr__(self, "first_query_only", self.network.layers[0].single_query)
        object.__setattr__(self, "causal", self.network.causal)

    @classmethod
    def load(
        cls, name_or_path: str | Path = DEFAULT_MODEL, calibrated: bool = True
    ) -> IntegerModel:
        """Load a shipped checkpoint by name, or a folder.

        calibrated: with the neutral logits beside it. Raises InputError for an unknown name, a
        missing file, or contents that don't fit.
        """
        folder = _find(name_or_path)
        config = _read_json(folder / CONFIG_FILE)
        path = integer_file(folder)
        parameters, digest = integer_format.read(path)
        tokenizer = read_tokenizer(folder / TOKENIZER_FILE)
        n_labels = len(parameters.get("labels", ()))
        try:
            model = cls(
                name=Path(os.path.abspath(folder)).name,
                tokenizer=tokenizer,
                hash=digest,
                neutral_logits=_neutral(folder, digest, n_labels) if calibrated else (),
                **parameters,
            )
        except TypeError as error:
            raise InputError(f"{path} lacks or adds a part: {error}") from error
        model._check(folder, config)
        return model

    def integer_logits(
        self, x: np.ndarray, padding: np.ndarray, lookup: Lookup = exact_lookup
    ) -> np.ndarray:
        """Evaluate the network in the clear: int64 `[n_labels]`."""
        return run(self.network, x, padding, lookup)

    def _check(self, folder: Path, config: dict[str, Any]) -> None:
        """Refuse parts that don't belong together."""
        vocab, dim = self.embedding.shape
        expected = {
            "vocab_size": vocab,
            "dim": dim,
            "n_layers": len(self.network.layers),
            "n_tokens": self.max_tokens,
        }
        for key, value in expected.items():
            if config.get(key) != value:
                raise InputError(
                    f"{folder}: {CONFIG_FILE} says {key} = {config.get(key)}, {INTEGER_FILE} has "
                    f"{value}: files of different models"
                )
        stride = self.network.stride
        if any(bucket % stride for bucket in self.buckets):
            raise InputError(
                f"{folder}: {INTEGER_FILE} has buckets {self.buckets}, and layers that pool "
                f"{stride} tokens to one position: wanted multiples of that"
            )
        if self.tokenizer.get_vocab_size() != vocab or dim != self.network.dim:
            raise InputError(
                f"{folder}: {TOKENIZER_FILE} has {self.tokenizer.get_vocab_size()} tokens, the "
                f"embedding {vocab} rows of {dim}, the network reads {self.network.dim} channels: "
                "files of different models"
            )
        digest, found = config.get(TOKENIZER_DIGEST), file_sha256(folder / TOKENIZER_FILE)
        if digest not in (None, found):
            raise InputError(
                f"{folder}: {CONFIG_FILE} says that {TOKENIZER_FILE} has the SHA-256 "
                f"{str(digest)[:12]}, it has {found[:12]}: it was changed, or is of another model; "
                "put back the one that came with it"
            )


def _neutral(folder: Path, digest: str, n_labels: int) -> tuple[float, ...]:
    """Return the neutral logits beside a checkpoint; none if there is no file, or an older one."""
    path = folder / NEUTRAL_FILE
    if not path.exists():
        return ()
    try:
        found = Neutral.model_validate_json(path.read_bytes())
        if found.model_hash != digest:
            return ()
        if len(found.neutral_logits) != n_labels:
            raise ValueError(f"{len(found.neutral_logits)} logits")
    except (OSError, ValueError) as error:
        what = first_problem(error) if isinstance(error, ValueError) else error.strerror
        raise InputError(
            f"{path} can't be read ({what}); wanted {n_labels} finite neutral logits: run "
            "fhe-inhibitor calibrate again, or remove it"
        ) from error
    return found.neutral_logits


def _public_projections(network: Network) -> dict[str, Linear]:
    """Return the projections that the client evaluates, by the names of their ciphertexts."""
    if network.client_boundary == "embedding":
        return {}
    return {
        f"layer0.head{index}.{name}": projection
        for index, head in enumerate(network.layers[0].heads)
        for name, projection in zip("qkv", (head.query, head.key, head.value), strict=True)
        if projection is not None
    }


def checkpoint_folder(name_or_path: str | Path) -> Path:
    """Return the folder of a shipped checkpoint for its name, any other path as it is.

    Raises InputError for a checkpoint that the repository has and this installation hasn't, and for
    what is no path.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        kind = type(name_or_path).__name__
        raise InputError(f"a model is named by a string or a path, not by one of type {kind}")
    name, path = str(name_or_path), Path(name_or_path)
    if name in shipped():
        return CHECKPOINTS / name
    if name in REPOSITORY_ONLY and not path.is_dir():
        raise InputError(
            f"the checkpoint {name} is too large for the installed package: get it from "
            f"fhe_inhibitor/checkpoints/{name} of the repository, and pass that folder"
        )
    return path


def integer_file(folder: Path) -> Path:
    """Return the file of a checkpoint's integers: the gzipped one where there is only that."""
    plain = folder / INTEGER_FILE
    gzipped = plain.with_name(f"{INTEGER_FILE}{GZIPPED}")
    return gzipped if gzipped.is_file() and not plain.is_file() else plain


def shipped(file: str = CONFIG_FILE) -> list[str]:
    """Return the names of the shipped checkpoints that have a file of such a pattern."""
    return sorted(path.parent.name for path in CHECKPOINTS.glob(f"*/{file}"))


def _find(name_or_path: str | Path) -> Path:
    """Return the folder of a checkpoint, its files all there."""
    path = checkpoint_folder(name_or_path)
    if not os.path.isdir(path):  # whose own is_dir() fails for a name that is too long
        raise InputError(
            f"no model {str(name_or_path)!r}: pass a folder, or one of "
            f"{', '.join(shipped(f'{INTEGER_FILE}*'))}"
        )
    for file in (path / CONFIG_FILE, integer_file(path), path / TOKENIZER_FILE):
        if not file.is_file():
            raise InputError(f"the model folder {path} has no file {file.name}")
    return path


def _read_json(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} holds {json.dumps(content)[:60]}; wanted an object, {{...}}")
    return content
