"""Labelled images: MNIST from a folder or the hub, and the digits that scikit-learn brings.

A folder of MNIST holds the four files that torchvision downloads, in the IDX format of their
authors, gzipped or not. Offline there are scikit-learn's digits: 1,797 images of 8 x 8 pixels, the
test set of UCI's optical recognition of handwritten digits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.files import GZIPPED, read_bytes

DIGITS, MNIST = "scikit-learn's digits", "MNIST"
MNIST_HUB = "ylecun/mnist"
TEST_SHARE = 0.2
IDX_PREFIXES = ("train", "t10k")


@dataclass(frozen=True)
class LabelledImages:
    """Images uint8 `[n, height, width]`, pixels 0 ... largest, and their labels int64 `[n]`."""

    images: np.ndarray
    labels: np.ndarray
    largest: int

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ImageSplits:
    """What to train on and what to measure on. source: where both come from, for the reader."""

    train: LabelledImages
    test: LabelledImages
    source: str


def load_digits(seed: int = 0) -> ImageSplits:
    """Return scikit-learn's digits, 8 x 8 pixels of 0 ... 16, a fifth of each class to test on.

    seed: of the split.
    """
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    found = load()
    images, labels = found.images.astype(np.uint8), found.target.astype(np.int64)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=TEST_SHARE, random_state=seed, stratify=labels
    )
    kept, measured = (LabelledImages(images[rows], labels[rows], 16) for rows in (train, test))
    return ImageSplits(kept, measured, DIGITS)


def load_mnist(folder: str | Path | None = None) -> ImageSplits:
    """Return MNIST, 28 x 28 pixels of 0 ... 255, from a folder or, for None, from the hub.

    Raises InputError for a folder without its four files, files of another form, and where the
    hub can't be reached.
    """
    if folder is None:
        return _from_hub()
    places = [Path(folder), Path(folder) / "MNIST" / "raw"]  # the second is torchvision's
    train, test = (_read_split(places, prefix) for prefix in IDX_PREFIXES)
    return ImageSplits(train, test, MNIST)


def read_idx(path: Path) -> np.ndarray:
    """Read a file of unsigned bytes in the IDX format: a magic number, sizes, then values.

    Raises InputError for any other file.
    """
    data = read_bytes(path)
    n_axes = data[3] if data[:3] == b"\x00\x00\x08" else 0
    sizes = [int.from_bytes(data[i : i + 4]) for i in range(4, 4 + 4 * n_axes, 4)]
    if not n_axes or len(data) != 4 + 4 * n_axes + math.prod(sizes):
        raise InputError(f"{path} is no IDX file of bytes; wanted one that torchvision downloads")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * n_axes).reshape(sizes)


def _read_split(places: list[Path], prefix: str) -> LabelledImages:
    images, labels = (
        read_idx(_find(places, f"{prefix}-{name}"))
        for name in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise InputError(
            f"{prefix} has images {images.shape} and labels {labels.shape}: wanted one label an "
            "image, of files that belong together"
        )
    return LabelledImages(images, labels.astype(np.int64), 255)


def _find(places: list[Path], name: str) -> Path:
    for place in places:
        for path in (place / name, place / f"{name}{GZIPPED}"):
            if path.is_file():
                return path
    raise InputError(f"{places[0]} has no file {name}, gzipped or not: pass a folder of MNIST")


def _from_hub() -> ImageSplits:
    from fhe_inhibitor.text.data import load_from_hub

    loaded = load_from_hub(MNIST_HUB)
    train, test = (
        LabelledImages(
            np.stack([np.asarray(image, np.uint8) for image in loaded[split]["image"]]),
            np.asarray(loaded[split]["label"], np.int64),
            255,
        )
        for split in ("train", "test")
    )
    return ImageSplits(train, test, MNIST)
