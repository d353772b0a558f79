"""How models compute: on which device, denormal numbers, threads, bfloat16 where there is any."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # the last is ARM's


def fastest_device() -> torch.device:
    """Return the GPU if torch finds one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def flush_denormals() -> Iterator[None]:
    """Let denormal results be 0 in the block, or in the function that this decorates.

    Adam's moments of words that no recent text held turn denormal, which this kind of processor
    adds a hundred times slower. The setting is the processor's and would else outlive the
    training, to surprise whoever comes next.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread in the block, or in the function that this decorates.

    Sums of a small model are too short to share, and come out the same on every machine.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def autocast(device_type: str = "cpu", enabled: bool = True) -> torch.autocast:
    """Multiply matrices in bfloat16 in the block, on GPUs and processors that have it.

    Others would only imitate it, several times slower than the float32 that they keep.
    """
    return torch.autocast(device_type, torch.bfloat16, enabled=enabled and _has_it(device_type))


def _has_it(device_type: str) -> bool:
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return device_type != "cpu" or any(capabilities.get(name) for name in BFLOAT16)
