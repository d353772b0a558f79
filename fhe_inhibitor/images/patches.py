"""Patches of an image as tokens, row by row: what a transformer reads in place of words."""

from __future__ import annotations

import numpy as np

from fhe_inhibitor.errors import InputError


def cut_patches(images: np.ndarray, patch: tuple[int, int]) -> np.ndarray:
    """Return the patches of images, `[..., n_patches, height * width]` of a patch.

    images: `[..., height, width]`. patch: height and width of one, in pixels. Raises InputError
    for images that patches of this size don't cover.

    >>> cut_patches(np.arange(8).reshape(2, 4), (2, 2)).tolist()
    [[0, 1, 4, 5], [2, 3, 6, 7]]
    """
    *leading, height, width = images.shape
    rows, columns = height // patch[0], width // patch[1]
    if (rows * patch[0], columns * patch[1]) != (height, width) or not rows * columns:
        raise InputError(
            f"an image of {height} x {width} pixels can't be cut into patches of {patch[0]} x "
            f"{patch[1]}: wanted sides that divide it"
        )
    blocks = images.reshape(*leading, rows, patch[0], columns, patch[1])
    return np.moveaxis(blocks, -3, -2).reshape(*leading, rows * columns, patch[0] * patch[1])
