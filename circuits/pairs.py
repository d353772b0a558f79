"""Which query meets which key: full attention, a window, or a single query."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pairs:
    """The (query, key) pairs that one head evaluates for a bucket of n tokens.

    i, j: int64 `[P]`, query and key index of each pair. collect: int64 `[n_queries, P]`, the
    0/1 matrix that sums the pairs of a query. offset: int64 `[P]`, row of a table that
    depends on the relative offset j - i, counted from `-max_offset`.
    """

    i: np.ndarray
    j: np.ndarray
    collect: np.ndarray
    offset: np.ndarray

    def __len__(self) -> int:
        return len(self.i)


def make_pairs(n: int, n_queries: int, window: int, max_offset: int) -> Pairs:
    """Return the pairs of `n_queries` first positions with the keys at most `window` away.

    window: 0 for full attention. max_offset: 0 if no table depends on the offset; offsets
    beyond it share the outermost row. P is n * n_queries for full attention and
    n (2 w + 1) - w (w + 1) for a window w < n over all queries.

    >>> len(make_pairs(16, 16, window=2, max_offset=2))
    74
    """
    i, j = np.meshgrid(np.arange(n_queries), np.arange(n), indexing="ij")
    kept = np.abs(j - i) <= (window or n)
    i, j = i[kept], j[kept]
    collect = (i[None, :] == np.arange(n_queries)[:, None]).astype(np.int64)
    offset = np.clip(j - i, -max_offset, max_offset) + max_offset
    return Pairs(i, j, collect, offset)
