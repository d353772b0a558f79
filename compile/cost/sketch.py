"""What Concrete's optimizer says of classes of lookups: keys, and the cost of one lookup of each.

The optimizer looks at how wide lookups are, what they add up, and how many there are; not at
tables, and not at where in a tensor a weight lies. So it is given a sketch of a network that it
takes for the network itself: one function for each class, which adds arguments with weights of the
same norms and looks the sum up, wired as the classes are. A network of a million lookups has a
sketch of a hundred operations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isqrt
from tempfile import TemporaryDirectory
from typing import Any

from concrete.compiler import (
    Backend,
    CompilationOptions,
    Compiler,
    KeyType,
    OptimizerMultiParameterStrategy,
    OptimizerStrategy,
    PrimitiveOperation,
    lookup_runtime_lib,
)

from compile.complexity import bootstrap_units, keyswitch_units
from compile.cost.classes import Argument, LookupClass
from compile.options import refusal
from fhe_inhibitor.runtime.security import SECURITY_BITS, parse
from fhe_inhibitor.runtime.specifications import Keyset, Specifications


@dataclass(frozen=True)
class Optimum:
    """What the optimizer chose.

    specifications: of the keys, and of the classes as functions, in their order. lookup_units:
    complexity of one lookup of each class. complexity: of all lookups of all classes. Sizes of keys
    are unpacked, as Concrete reports them.
    """

    specifications: Specifications
    lookup_units: tuple[float, ...]
    complexity: float
    bootstrap_keys_bytes: int
    keyswitch_keys_bytes: int


def optimize(classes: Sequence[LookupClass], p_error: float) -> Optimum:
    """Return keys and costs for these classes, as `compile.module` would have them chosen.

    Raises InputError if no parameters reach p_error.
    """
    options = _options(p_error)
    for index, lookups in enumerate(classes):
        for position, argument in enumerate(lookups.arguments):
            for source in argument.sources:
                options.add_composition(_name(source), 0, _name(index), position)
    functions = [_function(index, lookups) for index, lookups in enumerate(classes)]
    with TemporaryDirectory(prefix="fhe-inhibitor-") as folder:
        compiler = Compiler(
            folder, lookup_runtime_lib(), generate_shared_lib=False, generate_static_lib=False
        )
        try:
            library = compiler.compile("\n".join(["module {", *functions, "}"]), options)
        except RuntimeError as error:
            raise refusal(error, p_error) from error
        feedback = library.get_program_compilation_feedback()
        specifications = parse(library.get_program_info().serialize())
    statistics = {circuit.name: circuit.statistics for circuit in feedback.circuit_feedbacks}
    units = tuple(
        _units(statistics[_name(index)], specifications.keyset) / lookups.count
        for index, lookups in enumerate(classes)
    )
    return Optimum(
        specifications,
        units,
        feedback.complexity,
        feedback.total_bootstrap_keys_size,
        feedback.total_keyswitch_keys_size,
    )


def _options(p_error: float) -> CompilationOptions:
    """Return what `compile.module.configuration` comes to."""
    options = CompilationOptions(Backend.CPU)
    options.set_optimizer_strategy(OptimizerStrategy.DAG_MULTI)
    options.set_optimizer_multi_parameter_strategy(OptimizerMultiParameterStrategy.PRECISION)
    options.set_global_p_error(1.0)
    options.set_p_error(p_error)
    options.set_security_level(SECURITY_BITS)
    options.set_compress_evaluation_keys(True)
    options.set_compress_input_ciphertexts(True)
    options.set_loop_parallelize(False)  # of code that nobody runs
    return options


def _units(statistics: Sequence[Any], keyset: Keyset) -> float:
    """Return the complexity of a function's bootstraps and keyswitches."""
    total = 0.0
    for counted in statistics:
        keys = dict(counted.keys)
        if counted.operation == PrimitiveOperation.PBS:
            bootstrap = keyset.lwe_bootstrap_keys[keys[KeyType.BOOTSTRAP]]
            total += counted.count * bootstrap_units(bootstrap.params)
        elif counted.operation == PrimitiveOperation.KEY_SWITCH:
            keyswitch = keyset.lwe_keyswitch_keys[keys[KeyType.KEY_SWITCH]]
            total += counted.count * keyswitch_units(keyswitch.params)
    return total


def _name(index: int) -> str:
    return f"class{index}"


def _function(index: int, lookups: LookupClass) -> str:
    """Return a class as a function in Concrete's dialect of MLIR."""
    read = _tensor(lookups.count, lookups.encoding)
    body, terms = [], []
    for position, argument in enumerate(lookups.arguments):
        for term, lines in _weighted(f"%x{position}", argument, read, lookups.encoding):
            body += lines
            terms.append(term)
    total = terms[0]
    for number, term in enumerate(terms[1:]):
        body.append(
            f'%s{number} = "FHELinalg.add_eint"({total}, {term}) : ({read}, {read}) -> {read}'
        )
        total = f"%s{number}"
    output = read
    if lookups.bit_width:
        output = _tensor(lookups.count, lookups.output_encoding or lookups.bit_width)
        body += _looked_up(total, lookups, read, output)
        total = "%y"
    arguments = ", ".join(f"%x{position}: {read}" for position in range(len(lookups.arguments)))
    body.append(f"return {total} : {output}")
    text = "\n".join(body)
    return f"func.func @{_name(index)}({arguments}) -> {output} {{\n{text}\n}}"


def _weighted(
    value: str, argument: Argument, tensor: str, encoding: int
) -> Iterator[tuple[str, list[str]]]:
    """Yield products of a value with weights of the norm, and the lines that compute them."""
    constant = f"tensor<1xi{encoding + 1}>"
    for part, weight in enumerate(squares(argument.norm, (1 << encoding) - 1)):
        factor, product = f"{value}_w{part}", f"{value}_{part}"
        yield (
            product,
            [
                f"{factor} = arith.constant dense<{weight}> : {constant}",
                f'{product} = "FHELinalg.mul_eint_int"({value}, {factor}) : '
                f"({tensor}, {constant}) -> {tensor}",
            ],
        )


def _looked_up(total: str, lookups: LookupClass, read: str, output: str) -> list[str]:
    """Return the lines that round a sum to the width of a lookup, and look it up as %y."""
    rounded = _tensor(lookups.count, lookups.bit_width)
    table = f"tensor<{1 << lookups.bit_width}xi64>"
    lines = [f"%t = arith.constant dense<1> : {table}"]
    if rounded != read:
        lines.append(f'%r = "FHELinalg.reinterpret_precision"({total}) : ({read}) -> {rounded}')
        total = "%r"
    lines.append(
        f'%y = "FHELinalg.apply_lookup_table"({total}, %t) : ({rounded}, {table}) -> {output}'
    )
    return lines


def squares(total: int, largest: int) -> Iterator[int]:
    """Yield integers up to `largest` whose squares add up to `total`.

    >>> list(squares(500, 100)), list(squares(500, 20))
    ([22, 4], [20, 10])
    """
    while total > 0:
        root = min(isqrt(total), largest)
        yield root
        total -= root**2


def _tensor(size: int, bits: int) -> str:
    return f"tensor<{size}x!FHE.eint<{bits}>>"
