"""Which query meets which key: full attention, a window, causal, or a single query."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pairs:
    """The (query, key) pairs that one head evaluates for a bucket of n tokens.

    i, j: int64 `[P]`, row of the query and position of the key of each pair. collect: int64
    `[n_queries, P]`, the 0/1 matrix that sums the pairs of a query. offset: int64 `[P]`, row of a
    table that depends on the relative offset of key and query, counted from `-max_offset`.
    """

    i: np.ndarray
    j: np.ndarray
    collect: np.ndarray
    offset: np.ndarray

    def __len__(self) -> int:
        return len(self.i)

    def block(self, queries: range, keys: range) -> Pairs:
        """Return the pairs of these queries, counted from the first of them, and of these keys.

        keys: all that the queries meet.

        >>> block = make_pairs(6, 6, window=1, max_offset=1).block(range(3, 5), range(2, 6))
        >>> block.i, block.j, block.offset
        (array([0, 0, 0, 1, 1, 1]), array([0, 1, 2, 1, 2, 3]), array([0, 1, 2, 0, 1, 2]))
        """
        kept = (queries.start <= self.i) & (self.i < queries.stop)
        return Pairs(
            self.i[kept] - queries.start,
            self.j[kept] - keys.start,
            self.collect[queries.start : queries.stop, kept],
            self.offset[kept],
        )

    def groups(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Return 0/1 matrices `[n_groups, P]` and `[n_queries, n_groups]`: `collect` in two steps.

        A group holds up to `size` successive pairs of one query.

        >>> group, collect = make_pairs(5, 1, window=0, max_offset=0).groups(2)
        >>> group @ np.array([1, 2, 3, 4, 5]), collect @ group @ np.array([1, 2, 3, 4, 5])
        (array([3, 7, 5]), array([15]))
        """
        rank = np.arange(len(self)) - np.searchsorted(self.i, self.i)
        members = np.stack([self.i, rank // size])
        groups, group_of = np.unique(members, axis=1, return_inverse=True)
        queries = np.arange(len(self.collect))
        return (
            (group_of.ravel() == np.arange(groups.shape[1])[:, None]).astype(np.int64),
            (groups[0] == queries[:, None]).astype(np.int64),
        )


def make_pairs(n: int, n_queries: int, window: int, max_offset: int, causal: bool = False) -> Pairs:
    """Return the pairs of `n_queries` first positions with the keys at most `window` away.

    window: 0 for full attention. max_offset: 0 if no table depends on the offset; offsets
    beyond it share the outermost row. causal: no key comes after its query, and the queries are
    the last positions, since the last one of all may read every key. P is n * n_queries for full
    attention and n (2 w + 1) - w (w + 1) for a window w < n over all queries; if causal,
    n (n + 1) / 2 and n (w + 1) - w (w + 1) / 2.

    >>> len(make_pairs(16, 16, window=2, max_offset=2))
    74
    >>> len(make_pairs(16, 16, window=2, max_offset=2, causal=True))
    45
    """
    i, j = np.meshgrid(np.arange(n_queries), np.arange(n), indexing="ij")
    offset = j - i - (n - n_queries if causal else 0)
    kept = np.abs(offset) <= (window or n)
    if causal:
        kept &= offset <= 0
    i, j = i[kept], j[kept]
    collect = (i[None, :] == np.arange(n_queries)[:, None]).astype(np.int64)
    return Pairs(i, j, collect, np.clip(offset[kept], -max_offset, max_offset) + max_offset)
