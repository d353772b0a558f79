"""A one-layer classifier of images, trained in float, then in integers with rounding noise.

It is the network that reads texts, with a linear map of patches in the place of the word embedding:
the same layers, bit widths and noise. The one layer has one query, the classifier's, as a
transformer with a [CLS] token has whose first and last layer are the same one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fhe_inhibitor.images.data import ImageSplits, LabelledImages
from fhe_inhibitor.images.patches import cut_patches
from fhe_inhibitor.integer.images import FRACTION_BITS, ImageModel
from fhe_inhibitor.model.modeling import (
    InhibiDistilBertConfig,
    InhibiDistilBertForSequenceClassification,
)
from fhe_inhibitor.model.quantized.network import QuantizedNetwork, calibrate
from fhe_inhibitor.system.processor import flush_denormals, one_thread
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.training.steps import take_steps

CALIBRATION_IMAGES = 512
SHAPE: dict[str, Any] = {
    "dim": 64,
    "n_layers": 1,
    "n_heads": 8,
    "hidden_dim": 0,
    "key_head_dim": 2,
    "value_head_dim": 16,
    "threshold": "head",
    "classifier_query": "constant",
    "normalization": "static",
    "activation": "relu",
    "dropout": 0.0,
    "initializer_range": 0.2,
    "quantization": {
        "key_bits": 3,
        "value_bits": 4,
        "feature_bits": 4,
        "weight_bits": 5,
        "table_bits": 5,
        "sum_reach": 1.5,
        "logit_bits": 8,
    },
}


@dataclass(frozen=True)
class ImageTraining:
    """Everything that decides a student.

    shape: arguments of `InhibiDistilBertConfig`. patch: height and width. float_steps,
    quantized_steps: of batch_size images each, the second with integers and noise. shift: how many
    pixels an image is moved at most, each way, before it is read.
    """

    attention_kind: str = "inhibitor"
    patch: tuple[int, int] = (4, 4)
    shape: dict[str, Any] = field(default_factory=lambda: SHAPE)
    float_steps: int = 1000
    quantized_steps: int = 1200
    batch_size: int = 128
    learning_rate: float = 3e-3
    quantized_rate: float = 2e-3
    ema_decay: float = 0.99
    shift: int = 1
    seed: int = 0


@dataclass(frozen=True)
class TrainedImages:
    """The integers of a student, and how many test images it had right in float."""

    model: ImageModel
    float_right: int


@flush_denormals()
@one_thread()
def train_images(
    splits: ImageSplits, training: ImageTraining, name: str, observer: Observer | None = None
) -> TrainedImages:
    """Train a student on labelled images and return its integers.

    name: of the model. observer: hears of each training step. The same seed gives the same model.
    Raises InputError for patches that don't cover the images.
    """
    observer = observer or Observer()
    torch.manual_seed(training.seed)
    n_labels = int(splits.train.labels.max()) + 1
    n_patches, pixels = cut_patches(splits.train.images[0], training.patch).shape
    model = make_student(training, n_patches, pixels, n_labels)
    read = Reader(training.patch, splits.train.largest)
    draw = Batches(splits.train, training, read)

    def loss() -> Tensor:
        x, labels = draw(training.batch_size)
        return nn.functional.cross_entropy(logits(model, x), labels)

    observer.begin(f"{name}: float")
    observer.plan(training.float_steps + training.quantized_steps, "steps")
    take_steps(model, loss, training.float_steps, training.learning_rate, observer)
    with torch.inference_mode():
        found = logits(model, read(splits.test.images)).argmax(dim=-1)
    float_right = int((found.numpy() == splits.test.labels).sum())
    observer.begin(f"{name}: integers")
    x, _ = draw(CALIBRATION_IMAGES)
    calibrate(model, x, mask_of(x))
    take_steps(
        model, loss, training.quantized_steps, training.quantized_rate, observer, training.ema_decay
    )
    height, width = splits.train.images.shape[1:]
    return TrainedImages(to_integers(model, training, read, (height, width), name), float_right)


def make_student(training: ImageTraining, n_patches: int, pixels: int, n_labels: int) -> Any:
    """Return a student with its first weights, which reads patches in place of token ids."""
    config = InhibiDistilBertConfig(
        **training.shape,
        attention_kind=training.attention_kind,
        vocab_size=1,
        max_position_embeddings=n_patches,
        n_tokens=n_patches,
        num_labels=n_labels,
    )
    model = InhibiDistilBertForSequenceClassification(config)
    embedding = nn.Linear(pixels, config.dim)
    nn.init.normal_(embedding.weight, std=2 / pixels**0.5)
    model.distilbert.set_input_embeddings(embedding)
    return model


@dataclass(frozen=True)
class Reader:
    """Integer images `[n, height, width]` to patches `[n, n_patches, pixels]` of 0 to 1."""

    patch: tuple[int, int]
    largest: int

    def __call__(self, images: np.ndarray) -> Tensor:
        return torch.from_numpy(cut_patches(images, self.patch).astype(np.float32)) / self.largest


class Batches:
    """Images drawn from a split, each moved by up to `shift` pixels, edges filled with 0."""

    def __init__(
        self, split: LabelledImages, training: ImageTraining, read: Callable[[np.ndarray], Tensor]
    ) -> None:
        self._split, self._shift, self._read = split, training.shift, read
        self._rng = np.random.default_rng(training.seed)

    def __call__(self, n: int) -> tuple[Tensor, Tensor]:
        rows = self._rng.integers(len(self._split), size=n)
        images = shift_images(self._split.images[rows], self._shift, self._rng)
        return self._read(images), torch.from_numpy(self._split.labels[rows])


def shift_images(images: np.ndarray, shift: int, rng: np.random.Generator) -> np.ndarray:
    """Return images `[n, height, width]`, half of them moved by up to `shift` pixels each way."""
    n, height, width = images.shape
    offsets = rng.integers(2 * shift + 1, size=(2, n))
    offsets[:, rng.random(n) < 0.5] = shift  # where they are
    padded = np.pad(images, ((0, 0), (shift, shift), (shift, shift)))
    rows = offsets[0, :, None] + np.arange(height)
    columns = offsets[1, :, None] + np.arange(width)
    return padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def mask_of(x: Tensor) -> Tensor:
    """Return the attention mask of patches `[n, n_patches, pixels]`: an image has no padding."""
    return torch.ones(x.shape[:2], dtype=torch.int64)


def logits(model: Any, x: Tensor) -> Tensor:
    """Return a student's logits `[n, n_labels]` of patches."""
    found: Tensor = model(input_ids=x, attention_mask=mask_of(x)).logits
    return found


@torch.no_grad()
def to_integers(
    model: Any, training: ImageTraining, read: Reader, image_size: tuple[int, int], name: str
) -> ImageModel:
    """Return the integers of a quantized student; pixels are those of the images, 0 ... largest."""
    network, logit_scale = QuantizedNetwork(model).to_circuit()
    embeddings, config = model.distilbert.embeddings, model.config
    size, linear = embeddings.step.size, embeddings.word_embeddings
    fixed = float(1 << FRACTION_BITS)

    def rounded(x: Tensor) -> np.ndarray:
        return (x + 0.5).floor().to(torch.int64).numpy()

    return ImageModel(
        name=name,
        labels=tuple(str(label) for label in range(config.num_labels)),
        image_size=image_size,
        patch=training.patch,
        patch_weights=rounded(linear.weight.T / size * fixed / read.largest),
        patch_offsets=rounded(linear.bias / size * fixed),
        positions=rounded(embeddings.position_embeddings.weight / size),
        network=network,
        logit_scale=logit_scale,
        noise_std=config.quantization_config_or_none.rounding_noise,
        p_error=config.p_error,
    )
