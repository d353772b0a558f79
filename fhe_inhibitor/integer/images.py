"""The integer model of images: patches to integers in the clear, then an encrypted network.

    image -> patches -> a linear map and a position each -> integers   (client, in the clear)
          -> project, attend, feed_forward, classify                   (server, encrypted)
          -> integer logits -> label                                   (client)

A patch is what a token is to a text: from its integers on nobody can tell which it was. The linear
map is kept in integers of `FRACTION_BITS` binary places, so that every client rounds alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from circuits.lookups import Lookup, exact_lookup
from circuits.network import Network, run
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.images.patches import cut_patches
from fhe_inhibitor.integer import format as integer_format
from fhe_inhibitor.integer.model import INTEGER_FILE
from fhe_inhibitor.runtime.manifest import EMBEDDING_FILE, TOKENIZER_FILE
from fhe_inhibitor.system.files import write_atomically

FRACTION_BITS = 16
PUBLIC = (
    "labels", "image_size", "patch", "patch_weights", "patch_offsets", "positions", "logit_scale",
)  # fmt: skip


@dataclass(frozen=True)
class ImageModel:
    """A quantized classifier of images as integers: the public part, and what is encrypted.

    image_size, patch: height and width in pixels. patch_weights: int64 `[pixels of a patch, dim]`
    and patch_offsets: int64 `[dim]`, in 2^-FRACTION_BITS steps of the network's input. positions:
    int64 `[n_patches, dim]`, in steps. noise_std, p_error, hash: as of `IntegerModel`.
    """

    name: str
    labels: tuple[str, ...]
    image_size: tuple[int, int]
    patch: tuple[int, int]
    patch_weights: np.ndarray
    patch_offsets: np.ndarray
    positions: np.ndarray
    network: Network
    logit_scale: float
    noise_std: float
    p_error: float
    hash: str = ""

    @classmethod
    def load(cls, folder: str | Path) -> ImageModel:
        """Load what `write` wrote. Raises InputError for a missing or damaged file."""
        path = Path(folder) / INTEGER_FILE
        parameters, digest = integer_format.read(path)
        try:
            return cls(name=Path(folder).name, hash=digest, **parameters)
        except TypeError as error:
            raise InputError(f"{path} is no model of images: {error}") from error

    def write(self, folder: str | Path) -> None:
        """Write the model to a folder, which is made; equal models give equal bytes."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        names = (*PUBLIC, "network", "noise_std", "p_error")
        integer_format.write(
            Path(folder) / INTEGER_FILE, {name: getattr(self, name) for name in names}
        )

    @property
    def buckets(self) -> tuple[int, ...]:
        """The one sequence length: every image has as many patches."""
        return (len(self.positions),)

    @property
    def neutral_logits(self) -> tuple[float, ...]:
        """None: those are of pieces of long texts."""
        return ()

    def encode(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what the client encrypts: x int64 `[n_patches, dim]`, padding int64, all 0.

        image: integer pixels `[height, width]`. Raises InputError for another size.
        """
        if np.shape(image) != tuple(self.image_size):
            raise InputError(
                f"an image of {' x '.join(map(str, np.shape(image)))} pixels: {self.name} reads "
                f"{' x '.join(map(str, self.image_size))}"
            )
        patches = cut_patches(np.asarray(image, np.int64), self.patch)
        sums = patches @ self.patch_weights + self.patch_offsets
        x = (sums + (1 << (FRACTION_BITS - 1)) >> FRACTION_BITS) + self.positions
        return x.clip(*self.network.input_range), np.zeros(len(x), np.int64)

    def projections(self, x: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return what the client sends beside x: nothing, the first layer is encrypted."""
        return {}

    def integer_logits(self, image: np.ndarray, lookup: Lookup = exact_lookup) -> np.ndarray:
        """Evaluate an image in the clear: int64 `[n_labels]`."""
        return run(self.network, *self.encode(image), lookup)

    def predict(self, images: Sequence[np.ndarray], lookup: Lookup = exact_lookup) -> np.ndarray:
        """Return the label of the largest logit of each image, int64 `[n]`."""
        return np.array([self.integer_logits(image, lookup).argmax() for image in images])

    def write_public(self, folder: str | Path, documents: bool = False) -> None:
        """Write the public part to a folder under the names that a text model's has.

        The file of the tokenizer says how an image is cut. documents: of texts, makes no
        difference.
        """
        public: dict[str, Any] = {name: getattr(self, name) for name in PUBLIC}
        public["input_range"] = self.network.input_range
        integer_format.write(Path(folder) / EMBEDDING_FILE, public)
        cut = {"type": "patches", "image_size": self.image_size, "patch": self.patch}
        write_atomically(Path(folder) / TOKENIZER_FILE, json.dumps(cut) + "\n")
