"""Blocks of rows: how the stages of a layer are cut into tasks that run side by side.

A row is one position. `project` and `feed_forward` treat rows alike, and `attend` treats queries
alike, so each of them may be cut into blocks of rows; heads are apart already. A ciphertext can't
be cut outside a circuit: what is computed in blocks has a name for each of them, such as
`layer0.head1.k.rows2`, and whoever reads rows of several blocks joins these inside its circuit. A
value in one block keeps its plain name, so that what isn't cut is as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

MARK = ".rows"  # begins the part of a name that says which block


@dataclass(frozen=True)
class LayerBlocks:
    """Into how many blocks of rows the stages of a layer are cut; more than its rows means all.

    project: positions after pooling. attend: queries, in each head. feed_forward: queries.
    """

    project: int = 1
    attend: int = 1
    feed_forward: int = 1


@dataclass(frozen=True)
class Read:
    """Rows that a stage reads: the blocks that hold them, by name, and where in these they are.

    sizes: rows of each block. rows: the first, and the one after the last, of all blocks joined;
    None for all of them.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    rows: tuple[int, int] | None

    def join(self, blocks: Sequence[Any]) -> Any:
        """Return the rows out of the values of these blocks, which it joins."""
        joined = blocks[0] if len(blocks) == 1 else np.concatenate(tuple(blocks), axis=0)
        return joined if self.rows is None else joined[self.rows[0] : self.rows[1]]


@dataclass(frozen=True)
class Blocked:
    """A value that is there in blocks of rows.

    >>> k = Blocked("k", cut(5, 2))
    >>> k.names, k.rows_of("k.rows1")
    (('k.rows0', 'k.rows1'), (3, 5))
    >>> k.read(range(1, 3)).names, k.read(range(2, 5)).rows
    (('k.rows0',), (2, 5))
    """

    name: str
    blocks: tuple[range, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each block."""
        return block_names(self.name, len(self.blocks))

    def rows_of(self, name: str) -> tuple[int, int] | None:
        """Return first row and the one after the last of a block, None for a value in one block."""
        if len(self.blocks) == 1:
            return None
        block = self.blocks[self.names.index(name)]
        return block.start, block.stop

    def read(self, rows: range) -> Read:
        """Return how to read these rows."""
        blocks, names = self._holding(rows)
        start = blocks[0].start
        whole = rows == range(start, blocks[-1].stop)
        within = None if whole else (rows.start - start, rows.stop - start)
        return Read(names, tuple(map(len, blocks)), within)

    def read_blocks(self, rows: range) -> tuple[Read, range]:
        """Return how to read all blocks that hold any of these rows, and the rows of these."""
        blocks, _ = self._holding(rows)
        reached = range(blocks[0].start, blocks[-1].stop)
        return self.read(reached), reached

    def _holding(self, rows: range) -> tuple[list[range], tuple[str, ...]]:
        held = [
            (block, name)
            for block, name in zip(self.blocks, self.names, strict=True)
            if block.start < rows.stop and rows.start < block.stop
        ]
        return [block for block, _ in held], tuple(name for _, name in held)


def cut(n: int, count: int) -> tuple[range, ...]:
    """Return n rows in so many blocks, or in n, the longer ones first.

    >>> cut(5, 2), len(cut(3, 8))
    ((range(0, 3), range(3, 5)), 3)
    """
    count = min(max(count, 1), n)
    size, longer = divmod(n, count)
    ends = [block * size + min(block, longer) for block in range(count + 1)]
    return tuple(range(first, last) for first, last in pairwise(ends))


def block_names(name: str, count: int) -> tuple[str, ...]:
    """Return the names of a value's, or a stage's, blocks: the plain one if there is only one.

    >>> block_names("x", 1), block_names("x", 2)
    (('x',), ('x.rows0', 'x.rows1'))
    """
    return (name,) if count == 1 else tuple(f"{name}{MARK}{block}" for block in range(count))


def plain_name(name: str) -> str:
    """Return the name of what a block is of."""
    return name.partition(MARK)[0]


def scaled(rows: range, factor: int) -> range:
    """Return the rows that were pooled, `factor` to one, into these."""
    return range(rows.start * factor, rows.stop * factor)


def blocks_of(blocks: Sequence[LayerBlocks], n_layers: int) -> Sequence[LayerBlocks]:
    """Return the blocks of each layer; none given means that nothing is cut.

    Raises ValueError for those of another number of layers.
    """
    if not blocks:
        return [LayerBlocks()] * n_layers
    if len(blocks) != n_layers:
        raise ValueError(f"blocks of {len(blocks)} layers, the network has {n_layers}")
    return blocks
