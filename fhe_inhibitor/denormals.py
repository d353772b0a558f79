"""Training without denormal numbers, which this kind of processor adds a hundred times slower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def flush_denormals() -> Iterator[None]:
    """Let denormal results be 0 in the block, or in the function that this decorates.

    Adam's moments of words that no recent text held turn denormal. The setting is the
    processor's and would else outlive the training, to surprise whoever comes next.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
