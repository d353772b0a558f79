"""MNIST's files are read as their format says, and others refused; digits are split by class."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.images.data import load_digits, load_mnist, read_idx
from fhe_inhibitor.images.patches import cut_patches


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def write_mnist(folder: Path, n: int = 3) -> np.ndarray:
    folder.mkdir(parents=True)
    images = np.arange(n * 28 * 28).reshape(n, 28, 28) % 251
    for prefix in ("train", "t10k"):
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(np.arange(n)))
    return images


def test_a_folder_as_torchvision_leaves_it_is_read(tmp_path: Path) -> None:
    images = write_mnist(tmp_path / "MNIST" / "raw")
    splits = load_mnist(tmp_path)
    assert (splits.train.images == images).all() and splits.train.labels.tolist() == [0, 1, 2]
    assert (len(splits.test), splits.test.largest) == (3, 255)


def test_files_of_another_form_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file train-images"):
        load_mnist(tmp_path)
    write_mnist(tmp_path / "mnist")
    labels = tmp_path / "mnist" / "train-labels-idx1-ubyte"
    labels.write_bytes(idx(np.arange(2)))
    with pytest.raises(InputError, match="one label an image"):
        load_mnist(tmp_path / "mnist")
    for content in (b"", b"\x00\x00\x08\x01", idx(np.arange(9))[:-1], b"PNG" + bytes(20)):
        labels.write_bytes(content)
        with pytest.raises(InputError, match="no IDX file"):
            read_idx(labels)


def test_digits_are_split_by_class_and_share_no_image() -> None:
    splits = load_digits()
    assert (len(splits.train), len(splits.test)) == (1437, 360)
    assert splits.train.images.max() == splits.train.largest == 16
    shares = [np.bincount(part.labels) / len(part) for part in (splits.train, splits.test)]
    assert np.abs(shares[0] - shares[1]).max() < 0.01
    seen = {image.tobytes() for image in splits.train.images}
    assert not seen & {image.tobytes() for image in splits.test.images}


def test_patches_are_cut_as_a_loop_would() -> None:
    images = np.random.default_rng(0).integers(17, size=(2, 8, 6))
    found = cut_patches(images, (4, 2))
    expected = [
        [image[i : i + 4, j : j + 2].ravel() for i in (0, 4) for j in (0, 2, 4)] for image in images
    ]
    assert (found == np.array(expected)).all()
    with pytest.raises(InputError, match="sides that divide it"):
        cut_patches(images, (3, 2))
