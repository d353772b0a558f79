"""Operations and bytes of one head in the clear: what the plaintext kernels compute, by formula.

They stand in for energy where no counter can be read. With n queries and keys and d channels,

    score    n n d of |q - k| and their sums, or products and their sums
    weigh    n n of Z, or of E by a lookup
    mix      n n d of (v - Z)^+ and their sums, or products and their sums

and what is left per query and channel. A subtraction counts as an addition; an absolute value, a
maximum and a minimum as a choice. What a vector instruction does at once is counted one by one,
because a processor spends energy on each lane.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fhe_inhibitor.benchmark.kernels import DIM, QUERIES

VALUE_BYTES, SUM_BYTES = 2, 4  # int16, int32


@dataclass(frozen=True)
class Operations:
    """Of one head: scalar operations by kind, and bytes.

    lookups: of exponentials. operand_bytes: q, k, v and H, each once. cache_bytes: what the
    kernels read of keys and values, once a block of queries, and their scores and weights, each
    written and read once.
    """

    multiplications: int
    divisions: int
    additions: int
    choices: int
    lookups: int
    shifts: int
    operand_bytes: int
    cache_bytes: int


def count_operations(kernel: str, n: int, d: int = DIM) -> Operations:
    """Return the operations of a kernel of `kernels.KERNELS` for n queries, keys of width d.

    >>> count_operations("inhibitor", 32).multiplications
    0
    >>> count_operations("dot_product", 32).multiplications == 32 * (2 * 32 + 1) * 64
    True
    """
    return COUNTS[kernel](n, d)


def _inhibitor(n: int, d: int) -> Operations:
    """Z: a shift, a subtraction and two choices."""
    additions = 4 * n * n * d + n * n
    return _of(n, d, additions=additions, choices=2 * n * n * d + 2 * n * n, shifts=n * n)


def _inhibitor_lean(n: int, d: int) -> Operations:
    """Sums of v and of Z beside those of |v - Z|; then half of their sum."""
    additions = 4 * n * n * d + 2 * n * n + 3 * n * d
    choices = 2 * n * n * d + 2 * n * n
    return _of(n, d, additions=additions, choices=choices, shifts=n * n + n * d)


def _inhibitor_maximum(n: int, d: int) -> Operations:
    """Sums of maxima; from those of q and k a distance, from that of Z the rest."""
    additions = 2 * n * n * d + 4 * n * n + 3 * n * d
    return _of(n, d, additions=additions, choices=2 * n * n * d + 2 * n * n, shifts=2 * n * n)


def _dot_product(n: int, d: int) -> Operations:
    """E: a subtraction, two choices, a lookup, four shifts; a division a query, H rounded."""
    return _of(
        n,
        d,
        multiplications=2 * n * n * d + n * d,
        divisions=n,
        additions=2 * n * n * d + 2 * n * n + n * d,
        choices=2 * n * n,
        lookups=n * n,
        shifts=4 * n * n + n * d,
        score_bytes=SUM_BYTES,
    )


def _of(
    n: int,
    d: int,
    *,
    additions: int,
    choices: int,
    shifts: int,
    multiplications: int = 0,
    divisions: int = 0,
    lookups: int = 0,
    score_bytes: int = VALUE_BYTES,
) -> Operations:
    blocks = -(-n // QUERIES)
    return Operations(
        multiplications,
        divisions,
        additions,
        choices,
        lookups,
        shifts,
        operand_bytes=(3 * VALUE_BYTES + SUM_BYTES) * n * d,
        cache_bytes=2 * VALUE_BYTES * blocks * n * d + 2 * (score_bytes + VALUE_BYTES) * n * n,
    )


COUNTS: dict[str, Callable[[int, int], Operations]] = {
    "inhibitor": _inhibitor,
    "inhibitor_lean": _inhibitor_lean,
    "inhibitor_maximum": _inhibitor_maximum,
    "dot_product": _dot_product,
    "dot_product_scalar": _dot_product,
}
