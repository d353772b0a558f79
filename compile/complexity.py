"""Concrete's measure of cost, the complexity that its optimizer keeps low.

Its unit is about one operation of floating-point numbers. A lookup is one keyswitch and one
bootstrap; all else counts as nothing. The formulas are those of concrete-optimizer 2.11, in
`computing_cost/operators`.
"""

from __future__ import annotations

from math import log2

from fhe_inhibitor.runtime.specifications import BootstrapParams, KeyswitchParams

BYTES_PER_WORD = 8  # of ciphertexts and keys, whose integers are modulo 2^64


def bootstrap_units(key: BootstrapParams) -> float:
    """Return the complexity of one bootstrap.

    With polynomials of size N, GLWE dimension k, l levels, and a key of n bits to go through,
    n ((k + 1) (l + 1) N (log2 N + 1) + (k + 1)^2 l N): transforms there and back, and products.
    """
    size, rows, levels = key.polynomial_size, key.glwe_dimension + 1, key.level_count
    transforms = rows * (levels + 1) * size * (log2(size) + 1)
    return key.input_lwe_dimension * (transforms + rows**2 * levels * size)


def keyswitch_units(key: KeyswitchParams) -> float:
    """Return the complexity of one keyswitch.

    From n_1 bits to n_2 with l levels, n_1 l + n_1 l (n_2 + 1) + (n_1 l - 1) (n_2 + 1) + 1:
    digits, products and sums.
    """
    digits, columns = key.input_lwe_dimension * key.level_count, key.output_lwe_dimension + 1
    return digits + digits * columns + (digits - 1) * columns + 1
