"""A student of images: its integers are those of the trained network, and of the circuits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from circuits.intervals import interval, interval_lookup
from circuits.network import run
from compile.local.backends import Execution
from compile.local.prepared import prepare
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.images.data import ImageSplits, LabelledImages
from fhe_inhibitor.integer.images import ImageModel
from fhe_inhibitor.model.quantized.network import calibrate
from fhe_inhibitor.runtime.keyring import Keyring
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.training.images import (
    SHAPE,
    Batches,
    ImageTraining,
    Reader,
    logits,
    make_student,
    mask_of,
    shift_images,
    to_integers,
    train_images,
)

BITS = {"key_bits": 2, "value_bits": 2, "table_bits": 3, "sum_reach": 1.5, "logit_bits": 8}
TINY = ImageTraining(
    shape={**SHAPE, "dim": 8, "n_heads": 1, "key_head_dim": 1, "value_head_dim": 2,
           "quantization": BITS},
    float_steps=3, quantized_steps=3, batch_size=16,
)  # fmt: skip


def splits(n: int = 40) -> ImageSplits:
    """Ten classes; the brightness of an image says which."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 10
    images = rng.integers(0, 8, (n, 8, 8)) + labels[:, None, None]
    part = LabelledImages(images.astype(np.uint8), labels, 16)
    return ImageSplits(part, part, "made here")


def student(kind: str) -> tuple[Any, ImageModel, ImageSplits]:
    """A student with random weights and fitted steps, and its integers."""
    torch.manual_seed(0)
    training, data = replace(TINY, attention_kind=kind), splits()
    model = make_student(training, 4, 16, 10).eval()
    read = Reader(training.patch, 16)
    x = read(data.train.images)
    calibrate(model, x, mask_of(x))
    return model, to_integers(model, training, read, (8, 8), "tiny"), data


@pytest.mark.parametrize("kind", ["inhibitor", "dot_product"])
def test_the_integers_are_those_of_the_trained_network(kind: str) -> None:
    model, integers, data = student(kind)
    with torch.inference_mode():
        expected = logits(model, Reader((4, 4), 16)(data.test.images)).numpy()
    found = [integers.integer_logits(image) * integers.logit_scale for image in data.test.images]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.shape(found) == (40, 10) and integers.labels == tuple("0123456789")


def test_what_is_written_is_read_and_refuses_other_images(tmp_path: Path) -> None:
    _, model, data = student("inhibitor")
    model.write(tmp_path / "m")
    loaded = ImageModel.load(tmp_path / "m")
    assert (loaded.name, loaded.buckets, len(loaded.hash)) == ("m", (4,), 64)
    assert (loaded.predict(data.test.images) == model.predict(data.test.images)).all()
    x, padding = loaded.encode(data.test.images[0])
    low, high = loaded.network.input_range
    assert x.shape == (4, 8) and low <= x.min() <= x.max() <= high and not padding.any()
    with pytest.raises(InputError, match="8 x 9 pixels: m reads 8 x 8"):
        loaded.encode(np.zeros((8, 9), np.int64))


def test_training_learns_and_depends_on_the_seed_alone() -> None:
    data = splits()
    learning = replace(TINY, float_steps=100, learning_rate=1e-2, shift=0)
    trained = train_images(data, learning, "m")
    assert trained.float_right > 6  # of 40, where a guess has 4
    short = replace(learning, float_steps=1, quantized_steps=2)
    first, again = (train_images(data, short, "m").model for _ in range(2))
    image = data.test.images[0]
    assert first.integer_logits(image).tolist() == again.integer_logits(image).tolist()


def test_images_are_moved_within_their_edges() -> None:
    images = np.zeros((200, 4, 4), np.uint8)
    images[:, 1, 2] = 9
    moved = shift_images(images, 1, np.random.default_rng(0))
    places = {tuple(np.argwhere(image)[0].tolist()) for image in moved}
    assert places == {(row, column) for row in (0, 1, 2) for column in (1, 2, 3)}
    still = sum((image == images[0]).all() for image in moved)
    assert 100 < still < 130  # half, and a ninth of the rest
    batch, labels = Batches(splits().train, TINY, Reader((4, 4), 16))(5)
    assert batch.shape == (5, 4, 16) and labels.shape == (5,)


@pytest.mark.fhe
def test_an_image_is_classified_encrypted(tmp_path: Path) -> None:
    """All logits lie within what rounding can make of them."""
    _, model, data = student("inhibitor")
    model.write(tmp_path / "m")
    model = ImageModel.load(tmp_path / "m")
    execution = Execution(model, prepare(model, Keyring(tmp_path / "keys"), None, tmp_path / "c"))
    x, padding = model.encode(data.test.images[3])
    answer = execution.resume([(x, padding)], Observer(), tmp_path / "run")
    bounds = run(model.network, interval(x), interval(padding), interval_lookup)
    assert answer.logits.shape == (10,)
    assert (bounds.low <= answer.logits).all() and (answer.logits <= bounds.high).all()
