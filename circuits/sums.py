"""The sum over the keys of a query, in one step or in two.

A lookup of b bits reads the sum over n keys in steps of n / 2^b of one key's largest
contribution: the longer the sequence, the coarser, although few keys contribute at all. So the
keys may be added a few at a time, each partial sum looked up in a table that saturates, and
the partial sums added:

    sum over groups g of  partial( sum over keys j in g of x_j )

A partial sum needs one lookup per group and channel, and the whole sum reaches less far.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from circuits.lookups import Lookup, Table
from circuits.pairs import Pairs


@dataclass(frozen=True)
class PartialSums:
    """How partial sums are taken.

    keys: how many keys are added before a lookup. table: of that sum, `[entries]` or
    `[channels, entries]`; it maps 0 to 0, so that keys that contribute nothing change nothing.
    """

    keys: int
    table: Table


def sum_over_keys(x: Any, pairs: Pairs, partial: PartialSums | None, lookup: Lookup) -> Any:
    """Return the sum of x `[P, channels]` over the keys of each query, `[n_queries, channels]`.

    Lookups: one for each group and channel (`counts.count_groups`), none if `partial` is None.
    """
    if partial is None:
        return pairs.collect @ x
    group, collect = pairs.groups(partial.keys)
    return collect @ lookup(group @ x, partial.table)
