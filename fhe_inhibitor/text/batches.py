"""Batches of texts as token ids: texts of similar length together, so that little is padding."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

MAX_TOKENS = 128  # that a float model reads of a text, unless it is told otherwise
POOL_BATCHES = 50


def pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Return token ids and attention mask, int64 `[len(rows), longest]`, padded on the right.

    >>> [x.tolist() for x in pad([[5, 6], [7]], 0)]
    [[[5, 6], [7, 0]], [[1, 1], [1, 0]]]
    """
    longest = max(len(row) for row in rows)
    tokens = torch.full((len(rows), longest), pad_id)
    mask = torch.zeros((len(rows), longest), dtype=torch.int64)
    for index, row in enumerate(rows):
        tokens[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    return tokens, mask


def length_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[np.ndarray]:
    """Yield arrays of indices, the longest texts first, of `batch_tokens` padded tokens at most.

    A text that is longer than that is a batch by itself.
    """
    order = np.argsort(lengths, kind="stable")
    end = len(order)
    while end > 0:
        n_rows = max(1, batch_tokens // max(1, lengths[order[end - 1]]))
        yield order[max(0, end - n_rows) : end]
        end -= n_rows


def padded_batches(
    rows: Sequence[Sequence[int]], batch_tokens: int, pad_id: int
) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """Yield the indices of each of `length_batches`, with token ids and attention mask."""
    for chosen in length_batches([len(row) for row in rows], batch_tokens):
        yield chosen, *pad([rows[index] for index in chosen], pad_id)


def shuffled_batches(
    lengths: Sequence[int], batch_size: int, seed: int, n_steps: int
) -> Iterator[list[int]]:
    """Yield `n_steps` shuffled batches of indices, over as many epochs as that takes.

    Within pools of 50 batches, texts of similar length go together. Same seed, same batches.
    """
    random_ = random.Random(seed)
    yielded = 0
    while True:
        order = random_.sample(range(len(lengths)), len(lengths))
        batches = []
        for start in range(0, len(lengths), batch_size * POOL_BATCHES):
            pool = order[start : start + batch_size * POOL_BATCHES]
            pool.sort(key=lambda i: lengths[i])
            batches += [pool[at : at + batch_size] for at in range(0, len(pool), batch_size)]
        random_.shuffle(batches)
        for batch in batches:
            if yielded == n_steps:
                return
            yielded += 1
            yield batch
