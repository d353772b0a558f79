"""The lookup that Concrete traces: one programmable bootstrap."""

from __future__ import annotations

import numpy as np
from concrete import fhe

from circuits.lookups import Lookup, Table, read


def encrypted_lookup(exact_rounding: bool = False) -> Lookup:
    """Return the lookup for tracing a stage.

    exact_rounding: False rounds approximately, for free: near a rounding boundary the entry
    beside the right one may be read. True rounds exactly, at one more lookup for each bit
    removed; it is for tests.
    """
    exactness = fhe.Exactness.EXACT if exact_rounding else fhe.Exactness.APPROXIMATE

    def lookup(x, table: Table):
        if table.lsbs:
            x = fhe.round_bit_pattern(x, lsbs_to_remove=table.lsbs, exactness=exactness)

        # Concrete tabulates the whole bit width; entries outside the table are never read.
        def entries(rounded: np.ndarray) -> np.ndarray:
            index = np.clip(rounded >> table.lsbs, table.first, table.last)
            return read(index, table)

        return fhe.univariate(entries)(x)

    return lookup
