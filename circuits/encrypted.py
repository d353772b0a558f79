"""The lookup that Concrete traces: one programmable bootstrap."""

from __future__ import annotations

from typing import Any

import numpy as np
from concrete import fhe

from circuits.lookups import AntiperiodicTable, Lookup, Table, read

DECLARED_RANGE = "declared_range"
WRAPS = "wraps"  # marks a sum that may run into its padding bit


def encrypted_lookup(exact_rounding: bool = False) -> Lookup:
    """Return the lookup for tracing a stage.

    Each lookup declares the ranges of its input, moved to start at 0, and of its output on the
    traced nodes, under `DECLARED_RANGE`: they are the table's, so a lookup is as wide as its
    table, whatever sample inputs show.

    exact_rounding: False rounds approximately, for free: near a rounding boundary the entry
    beside the right one may be read. True rounds exactly, at one more lookup for each bit
    removed; it is for tests.
    """
    exactness = fhe.Exactness.EXACT if exact_rounding else fhe.Exactness.APPROXIMATE

    def lookup(x: Any, table: Table) -> Any:
        domain = (0, (table.last - table.first) << table.lsbs)
        wraps = isinstance(table, AntiperiodicTable)
        # Starting at 0 costs nothing and saves the bit that a sign would take.
        x = x - (table.first << table.lsbs)
        declare(x, domain, wraps)
        if table.lsbs:
            x = fhe.round_bit_pattern(x, lsbs_to_remove=table.lsbs, exactness=exactness)
            declare(x, domain, wraps)

        # Concrete tabulates the whole bit width; entries outside the table are never read.
        def entries(rounded: np.ndarray) -> np.ndarray:
            index = rounded >> table.lsbs
            if not wraps:
                index = np.clip(index, 0, table.last - table.first)
            return read(index + table.first, table)

        output = fhe.univariate(entries)(x)
        declare(output, table.range)
        return output

    return lookup


def declare(x: Any, bounds: tuple[int, int], wraps: bool = False) -> None:
    """Declare the range of a traced value, ends included; a second declaration widens it.

    wraps: whether the value may leave that range, as what an antiperiodic table reads does.
    """
    properties = x.computation.properties
    properties[WRAPS] = wraps
    low, high = properties.get(DECLARED_RANGE, bounds)
    properties[DECLARED_RANGE] = (min(low, bounds[0]), max(high, bounds[1]))
