"""Four tasks that a one-layer transformer learns, as in table 1 of arXiv 2310.02041.

    adding       the adding problem: the sum of the two numbers that are marked, made here
    mnist        handwritten digits, from a folder or the hub; offline `digits`, scikit-learn's
    imdb         film reviews, from a folder of TSV files or the hub
    iam          handwritten words, from a folder; offline `words`, which are rendered here

The paper's set-ups aren't published in detail. These are simple ones, and the same for both
mechanisms: one layer, a learned position for each token, mean over tokens before the head (a head
of each token for words, with the loss of CTC), AdamW.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.images.data import ImageSplits, load_digits, load_mnist
from fhe_inhibitor.images.patches import cut_patches
from fhe_inhibitor.images.words import HEIGHT, WIDTH, WordSplits, load_iam, render_words
from fhe_inhibitor.text.tasks import TRAIN, find_task, load_task
from fhe_inhibitor.text.words import PADDING, UNKNOWN_WORD, frequent_words, to_numbers

ADDING_LENGTH, ADDING_TRAIN, ADDING_TEST = 50, 20_000, 2000
REVIEW_WORDS, VOCABULARY = 128, 5000
STRIP, STRIDE = 8, 2  # of columns that a token of a word's image sees, and from one to the next
DIM = 32
SHAPE: dict[str, Any] = {
    "dim": DIM,
    "n_layers": 1,
    "n_heads": 2,
    "hidden_dim": 2 * DIM,
    "initializer_range": 0.05,
    "shift": 0.5,  # the paper's alpha, not learned
}


class Strips(nn.Module):
    """Columns of an image `[B, height, width]` as overlapping strips, each embedded linearly."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Conv1d(HEIGHT, DIM, STRIP, STRIDE, padding=(STRIP - STRIDE) // 2)

    def forward(self, x: Tensor) -> Tensor:
        strips: Tensor = self.linear(x)
        return strips.transpose(1, 2)


@dataclass(frozen=True)
class Split:
    """Inputs `[n, ...]` and targets of examples. A target is a number, a class or a row of letters,
    padded with 0."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Loaded:
    """A task's examples, and the parts of a model that fit them.

    embedding: makes one with its first values. loss: of outputs and targets. score: of the same, on
    all of test. source: where the examples come from.
    """

    train: Split
    test: Split
    embedding: Callable[[], nn.Module]
    n_positions: int
    n_outputs: int
    loss: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, Tensor], float]
    source: str
    pools: bool = True
    mask_of: Callable[[Tensor], Tensor | None] = field(default=lambda x: None)


@dataclass(frozen=True)
class SmallTask:
    """A task. load: its examples from a folder, or for None from the hub or from code.

    metric: what is measured, and lower: whether less is better. paper: dot product and inhibitor in
    table 1 of arXiv 2310.02041, in its units. stands_for: the paper's task.
    """

    name: str
    load: Callable[[str | None], Loaded]
    metric: str
    paper: tuple[str, str]
    stands_for: str
    steps: int
    batch_size: int = 64
    learning_rate: float = 3e-3
    lower: bool = False


def find_small_task(name: str) -> SmallTask:
    """Return a task by name. Raises InputError for an unknown one."""
    if name not in TASKS:
        raise InputError(f"no task {name!r}; wanted one of {', '.join(TASKS)}")
    return TASKS[name]


def edit_distance(found: Sequence[int], wanted: Sequence[int]) -> int:
    """Return how many insertions, deletions and replacements lead from one to the other.

    >>> edit_distance("kitten", "sitting")
    3
    """
    row = list(range(len(wanted) + 1))
    for i, own in enumerate(found, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(wanted, start=1):
            replaced = diagonal + (own != other)
            diagonal, row[j] = row[j], min(replaced, row[j] + 1, row[j - 1] + 1)
    return row[-1]


def read_letters(outputs: Tensor) -> list[list[int]]:
    """Return the likeliest letters of each image: repeats are one, blanks (0) are none.

    outputs: `[B, n, 1 + letters]`.
    """
    return [
        [letter for letter in torch.unique_consecutive(row).tolist() if letter]
        for row in outputs.argmax(dim=-1)
    ]


def ctc_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of CTC of outputs `[B, n, 1 + letters]` and rows of letters, 0 behind."""
    log_probabilities = outputs.log_softmax(dim=-1).transpose(0, 1)
    n, batch = log_probabilities.shape[:2]
    lengths = torch.full((batch,), n)
    return nn.functional.ctc_loss(
        log_probabilities, targets, lengths, (targets > 0).sum(dim=1), zero_infinity=True
    )


def mean_edits(outputs: Tensor, targets: Tensor) -> float:
    """Return the mean edit distance of a word."""
    wanted = [row[row > 0].tolist() for row in targets]
    pairs = zip(read_letters(outputs), wanted, strict=True)
    return float(np.mean([edit_distance(found, word) for found, word in pairs]))


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Return the share of right classes."""
    return float((outputs.argmax(dim=-1) == targets).float().mean())


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.mse_loss(outputs[:, 0], targets)


def _adding(source: str | None) -> Loaded:
    rng = np.random.default_rng(0)

    def make(n: int) -> Split:
        numbers = rng.random((n, ADDING_LENGTH))
        marks = np.zeros_like(numbers)
        half = ADDING_LENGTH // 2  # one number of each half is marked
        for begin in (0, half):
            marks[np.arange(n), begin + rng.integers(half, size=n)] = 1
        x = np.stack([numbers, marks], axis=-1).astype(np.float32)
        return Split(torch.from_numpy(x), torch.from_numpy((x[:, :, 0] * x[:, :, 1]).sum(axis=1)))

    return Loaded(
        make(ADDING_TRAIN), make(ADDING_TEST), partial(nn.Linear, 2, DIM), ADDING_LENGTH, 1,
        _squared_error, lambda outputs, targets: float(_squared_error(outputs, targets)),
        f"made here, {ADDING_LENGTH} numbers",
    )  # fmt: skip


def _images(splits: ImageSplits, patch: int) -> Loaded:
    def prepare(part: Any) -> Split:
        patches = cut_patches(part.images, (patch, patch)).astype(np.float32) / part.largest
        return Split(torch.from_numpy(patches), torch.from_numpy(part.labels))

    train, test = prepare(splits.train), prepare(splits.test)
    n_patches, pixels = train.x.shape[1:]
    return Loaded(
        train, test, partial(nn.Linear, pixels, DIM), n_patches, 10,
        nn.functional.cross_entropy, accuracy, splits.source,
    )  # fmt: skip


def _reviews(source: str | None) -> Loaded:
    task = find_task("imdb")
    splits = load_task(task, source)
    parts = [splits[TRAIN], splits[task.development[0][0]]]
    texts = [[example.texts[0] for example in part] for part in parts]
    numbers = frequent_words(texts[0], VOCABULARY)
    train, test = (
        Split(
            torch.from_numpy(to_numbers(own, numbers, REVIEW_WORDS)),
            torch.tensor([int(example.label) for example in part]),
        )
        for own, part in zip(texts, parts, strict=True)
    )
    words = partial(nn.Embedding, len(numbers) + UNKNOWN_WORD + 1, DIM, padding_idx=PADDING)
    return Loaded(
        train, test, words, REVIEW_WORDS, 2, nn.functional.cross_entropy, accuracy,
        f"IMDb, the first {REVIEW_WORDS} words",
        mask_of=lambda x: (x != PADDING).long(),
    )  # fmt: skip


def _words(splits: WordSplits) -> Loaded:
    numbers = {letter: index for index, letter in enumerate(splits.alphabet, start=1)}
    longest = max(map(len, (*splits.train.words, *splits.test.words)))

    def prepare(part: Any) -> Split:
        targets = np.zeros((len(part), longest), dtype=np.int64)
        for row, word in zip(targets, part.words, strict=True):
            row[: len(word)] = [numbers[letter] for letter in word]
        x = torch.from_numpy(part.images.astype(np.float32) / 255)
        return Split(x, torch.from_numpy(targets))

    return Loaded(
        prepare(splits.train), prepare(splits.test), Strips, WIDTH // STRIDE,
        1 + len(splits.alphabet), ctc_loss, mean_edits, splits.source, pools=False,
    )  # fmt: skip


def _iam(source: str | None) -> Loaded:
    if source is None:
        raise InputError("the IAM words are read from a folder: name it as data, or take `words`")
    return _words(load_iam(source))


DIGITS_PAPER, WORDS_PAPER = ("98.2%", "97.9%"), ("17.9", "18.1")
TASKS = {
    task.name: task
    for task in (
        SmallTask(
            "adding", _adding, "mean squared error", ("0.11%", "0.12%"), "adding", 800, lower=True
        ),
        SmallTask(
            "mnist", lambda s: _images(load_mnist(s), 4), "accuracy", DIGITS_PAPER, "MNIST", 2000
        ),
        SmallTask(
            "digits", lambda s: _images(load_digits(), 2), "accuracy", DIGITS_PAPER, "MNIST", 1200
        ),
        SmallTask("imdb", _reviews, "accuracy", ("87.2%", "87.3%"), "IMDb", 150),
        SmallTask(
            "iam", _iam, "edit distance", WORDS_PAPER, "IAM words", 4000, lower=True
        ),
        SmallTask(
            "words", lambda s: _words(render_words()), "edit distance", WORDS_PAPER, "IAM words",
            1200, lower=True,
        ),
    )
}  # fmt: skip
