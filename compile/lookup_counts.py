"""The lookups that Concrete compiled, read from its MLIR, and compared with the formula.

The MLIR is what runs. A value that several sums read has one encoding, as wide as the widest of
them; before a lookup Concrete shifts it to the width of the table, which the traced graph doesn't
show. Exact rounding, for tests alone, takes further lookups that are no tables: Concrete's total
has them, these counts don't.
"""

from __future__ import annotations

import re
from collections import Counter
from math import prod

from concrete.fhe.compilation.module import FheModule

from compile.verifier import VerificationError

SHIFTED_BITS = 8  # Concrete's `optimize_tlu_based_on_original_bit_width`
TABLES = ("FHELinalg.apply_lookup_table", "FHELinalg.apply_mapped_lookup_table")
TENSOR = re.compile(r"tensor<([0-9x]*)x!FHE\.eint<([0-9]+)>>")  # of unsigned ciphertexts


def compiled_lookups(module: FheModule) -> dict[str, Counter[int]]:
    """Return the lookups of each function by bit width."""
    counts = {}
    for function in module.mlir_module.body.operations:
        widths: Counter[int] = Counter()
        for operation in function.regions[0].blocks[0].operations:
            if operation.operation.name in TABLES:
                shape, width = _shape_and_width(str(operation.operands[0].type))
                widths[width] += prod(shape)
        counts[str(function.attributes["sym_name"]).strip('"')] = widths
    return counts


def check_lookups(
    module: FheModule, function: str, counted: Counter[int], formula: Counter[int]
) -> None:
    """Compare a function's lookups, by bit width, with the formula and with Concrete's total.

    Raises VerificationError if a number or a width differs.
    """
    total = module.functions()[function].programmable_bootstrap_count
    if counted != formula or total != counted.total():
        raise VerificationError(
            f"{function}: Concrete has {total} lookups, {dict(counted)} by width; the formula "
            f"says {dict(formula)}. Where a value has several readers, Concrete looks an exact "
            f"table of more than {SHIFTED_BITS} bits up at the width of the widest: round what "
            "this table reads"
        )


def _shape_and_width(tensor: str) -> tuple[list[int], int]:
    found = TENSOR.fullmatch(tensor)
    assert found is not None, f"a lookup reads {tensor}, which Concrete 2.11 never makes"
    return [int(size) for size in found[1].split("x")], int(found[2])
