"""Which step size rounds a sample best: the search that every quantizer starts from."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def least_error(x: Tensor, sizes: Tensor, zeros: Tensor, low: int, high: int) -> Tensor:
    """Return which candidate rounds each channel with the least squared error.

    A candidate makes code = clamp(floor(x / size + zero + 1/2), low, high) of a value, and
    (code - zero) size of the code. x: float `[samples, channels]`. sizes, zeros: float
    `[candidates, channels]`. Returns indices, int64 `[channels]`; of equal ones the first.

    >>> x, sizes = torch.tensor([[0.0], [0.9], [2.1]]), torch.tensor([[0.5], [1.0], [2.0]])
    >>> least_error(x, sizes, torch.zeros_like(sizes), 0, 3).tolist()
    [1]
    """
    least = torch.full_like(sizes[0], torch.inf)
    best = torch.zeros_like(least, dtype=torch.int64)
    for index, (size, zero) in enumerate(zip(sizes, zeros, strict=True)):
        codes = (x / size + zero + 0.5).floor().clamp(low, high)
        error = ((codes - zero) * size - x).square().sum(dim=0)
        best = torch.where(error < least, index, best)
        least = torch.minimum(error, least)
    return best
