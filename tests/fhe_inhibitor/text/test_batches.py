"""Batches by length: every text once, nothing lost to padding, the same ones for a seed."""

from __future__ import annotations

import itertools

import numpy as np

from fhe_inhibitor.text.batches import length_batches, padded_batches, shuffled_batches


def test_batches_hold_every_text_once_and_no_more_tokens_than_asked() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, 200)
    batches = list(length_batches(lengths.tolist(), 120))
    assert sorted(np.concatenate(batches)) == list(range(200))
    assert all(len(batch) * lengths[batch].max() <= 120 for batch in batches)


def test_padded_batches_hold_the_ids_and_mask_the_rest() -> None:
    rows = [[7] * length for length in (3, 9, 1, 4)]
    for chosen, ids, mask in padded_batches(rows, 8, pad_id=5):
        for row, read, index in zip(ids.tolist(), mask.tolist(), chosen, strict=True):
            length = len(rows[index])
            assert row == rows[index] + [5] * (len(row) - length)
            assert read == [1] * length + [0] * (len(row) - length)
    assert [chosen.tolist() for chosen, *_ in padded_batches(rows, 8, 5)] == [[1], [0, 3], [2]]


def test_each_epoch_of_shuffled_batches_reads_every_text_once() -> None:
    lengths = list(range(10))
    batches = list(shuffled_batches(lengths, batch_size=4, seed=1, n_steps=7))
    for epoch in (batches[:3], batches[3:6]):
        assert sorted(itertools.chain(*epoch)) == lengths
        assert all(max(batch) - min(batch) == len(batch) - 1 for batch in epoch)  # of like length
    assert batches[:3] != batches[3:6]
    assert batches == list(shuffled_batches(lengths, 4, 1, 7))
    assert batches != list(shuffled_batches(lengths, 4, 2, 7))
