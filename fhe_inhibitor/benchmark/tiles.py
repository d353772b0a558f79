"""Register tiles: the inner loops of all plaintext kernels, one generator for every mechanism.

A matrix product, a table of Manhattan distances and the sum of rectified differences are the
same computation with another inner operation,

    out[i, j] = sum_k step(a[i, k], b[k, j])        step: a * b, |a - b|, (b - a)^+, max(a, b)

so `make_tile` writes the loop once, as LLVM's vector instructions: 4 rows of a against 2 vectors
of b, 8 accumulators that stay in registers, k innermost. A kernel differs from another in its
step alone. A step takes vectors of `LANES` int16 lanes:

- `product` multiplies pairs of neighbouring k and adds both to one int32 lane: the instruction
  vpmaddwd of x86, which processors with VNNI fuse with the addition into vpdpwssd. b holds
  pairs, `[depth / 2, width, 2]`.
- the others stay in int16 lanes; b is `[depth, width]`. The caller bounds depth so that the
  sums fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

ROWS = 4
VECTORS = 2


def usable_features(removed: str) -> frozenset[str]:
    """Return the processor's features less those of numba's CPU_FEATURES, such as "-avx2,-fma".

    All of AVX-512 rests on avx512f, and goes with it.
    """
    found = {name for name, present in binding.get_host_cpu_features().items() if present}
    for entry in filter(None, removed.split(",")):
        base = "avx512" if entry == "-avx512f" else entry[1:]
        found = {name for name in found if not name.startswith(base)}
    return frozenset(found)


FEATURES = usable_features(config.CPU_FEATURES or "")  # type: ignore[attr-defined]
LANES = 32 if "avx512bw" in FEATURES else 16  # int16 lanes of the widest vector
TABLE_ENTRIES = 32

INT16, INT32 = ir.IntType(16), ir.IntType(32)
NARROW = ir.VectorType(INT16, LANES)
WIDE = ir.VectorType(INT32, LANES // 2)

Step = Callable[[ir.IRBuilder, ir.Value, ir.Value, ir.Value], ir.Value]


def product(build: ir.IRBuilder, total: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    """Return total + a0 b0 + a1 b1 for each pair of lanes, in int32."""
    if "avx2" in FEATURES:
        name = "llvm.x86.avx512.pmaddw.d.512" if LANES == 32 else "llvm.x86.avx2.pmadd.wd"
        return build.add(total, _call(build, name, WIDE, a, b))
    for first in (0, 1):
        halves = [build.sext(_every_second(build, vector, first), WIDE) for vector in (a, b)]
        total = build.add(total, build.mul(*halves))
    return total


def distance(build: ir.IRBuilder, total: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    """Return total + |a - b|."""
    difference = build.sub(a, b)
    return build.add(total, _maximum(build, difference, build.neg(difference)))


def rectified(build: ir.IRBuilder, total: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    """Return total + (b - a)^+."""
    return build.add(total, _maximum(build, build.sub(b, a), ir.Constant(NARROW, None)))


def maximum(build: ir.IRBuilder, total: ir.Value, a: ir.Value, b: ir.Value) -> ir.Value:
    """Return total + max(a, b)."""
    return build.add(total, _maximum(build, a, b))


def make_tile(step: Step, vectors: int = VECTORS, accumulate: bool = False) -> Any:
    """Return a function for compiled code: tile(a, b, out, i, j, start, stop).

    It writes sum_k step(a[i + r, k], b[k, j + c]) over start <= k < stop to out[i + r, j + c],
    for r < 4 and as many c as `vectors` vectors hold. For `product`, start and stop count pairs,
    and out is int32; for the others out is int16. With `accumulate` it adds to out, int32.
    """
    lanes = WIDE if step is product else NARROW

    def generate(context: Any, build: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        a, b, out = (
            _indexer(context, build, kind, value)
            for kind, value in zip(signature.args[:3], arguments[:3], strict=True)
        )
        i, j, start, stop = arguments[3:]
        integer = i.type
        rows = [build.add(i, integer(r)) for r in range(ROWS)]
        columns = [build.add(j, integer(c * lanes.count)) for c in range(vectors)]
        totals = [
            [cgutils.alloca_once_value(build, ir.Constant(lanes, None)) for _ in columns]
            for _ in rows
        ]
        with cgutils.for_range_slice(build, start, stop, integer(1)) as (k, _):
            if step is product:
                loaded = [_load(build, b(k, column, integer(0)), NARROW) for column in columns]
            else:
                loaded = [_load(build, b(k, column), NARROW) for column in columns]
            for row, sums in zip(rows, totals, strict=True):
                if step is product:
                    pair = _load(build, a(row, build.mul(k, integer(2))), INT32)
                    spread = build.bitcast(_splat(build, pair, WIDE), NARROW)
                else:
                    spread = _splat(build, _load(build, a(row, k), INT16), NARROW)
                for total, vector in zip(sums, loaded, strict=True):
                    build.store(step(build, build.load(total), spread, vector), total)
        for row, sums in zip(rows, totals, strict=True):
            for column, total in zip(columns, sums, strict=True):
                value = build.load(total)
                if accumulate:
                    value = build.sext(value, ir.VectorType(INT32, lanes.count))
                    value = build.add(value, _load(build, out(row, column), value.type))
                _store(build, value, out(row, column))
        return context.get_dummy_value()

    @intrinsic
    def tile(typing: Any, a: Any, b: Any, out: Any, i: Any, j: Any, start: Any, stop: Any) -> Any:
        return types.void(a, b, out, *[types.intp] * 4), generate

    return tile


def _exponentials(
    typing: Any, scores: Any, weights: Any, table: Any, i: Any, j: Any, top: Any, shift: Any
) -> Any:
    """Write table[t % 32] >> (t // 32), t = min((top - scores[i, j]) >> shift, 511).

    As many j as a vector holds. scores: int32. weights: int16. table: 32 values, int16, kept in
    registers. Needs AVX2.
    """

    def generate(context: Any, build: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Value:
        scores, weights, table = (
            _indexer(context, build, kind, value)
            for kind, value in zip(signature.args[:3], arguments[:3], strict=True)
        )
        i, j = arguments[3:5]
        top, shift = (_splat(build, value, WIDE) for value in arguments[5:])
        longest = ir.Constant(WIDE, [16 * TABLE_ENTRIES - 1] * WIDE.count)
        halves = []
        for half in range(2):
            score = _load(build, scores(i, build.add(j, j.type(half * WIDE.count))), WIDE)
            steps = build.ashr(build.sub(top, score), shift)
            steps = build.select(build.icmp_signed("<", steps, longest), steps, longest)
            halves.append(build.trunc(steps, ir.VectorType(INT16, WIDE.count)))
        steps = build.shuffle_vector(*halves, _lanes(range(LANES)))
        entries = build.and_(steps, ir.Constant(NARROW, [TABLE_ENTRIES - 1] * LANES))
        octaves = build.lshr(steps, ir.Constant(NARROW, [TABLE_ENTRIES.bit_length() - 1] * LANES))
        found = build.lshr(_look_up(build, table, entries, j.type), octaves)
        _store(build, found, weights(i, j))
        return context.get_dummy_value()

    arguments = (scores, weights, table, types.intp, types.intp, types.int32, types.int32)
    return types.void(*arguments), generate


exponentials: Any = intrinsic(_exponentials)


def _look_up(build: ir.IRBuilder, table: Any, entries: ir.Value, index: ir.Type) -> ir.Value:
    """Return table[entry] of each lane.

    AVX-512 has one instruction for 32 entries of 16 bits, AVX2 one for 16 entries of 8: there,
    the low and high bytes of either half are looked up apart.
    """
    if LANES == 32:
        name = "llvm.x86.avx512.permvar.hi.512"
        return _call(build, name, NARROW, _load(build, table(index(0)), NARROW), entries)
    half_bytes, n_bytes = ir.VectorType(ir.IntType(8), LANES), ir.VectorType(ir.IntType(8), 32)
    eight = ir.Constant(NARROW, [8] * LANES)
    wanted = build.bitcast(build.or_(entries, build.shl(entries, eight)), n_bytes)
    low_byte = ir.Constant(ir.VectorType(ir.IntType(1), 32), [1, 0] * LANES)
    halves = []
    for half in range(2):
        values = _load(build, table(index(half * LANES)), NARROW)
        found = []
        for part in (values, build.lshr(values, eight)):
            part = build.trunc(part, half_bytes)
            both = build.shuffle_vector(part, part, _lanes([*range(LANES), *range(LANES)]))
            found.append(_call(build, "llvm.x86.avx2.pshuf.b", n_bytes, both, wanted))
        halves.append(build.bitcast(build.select(low_byte, *found), NARROW))
    in_first = build.icmp_signed("<", entries, ir.Constant(NARROW, [LANES] * LANES))
    return build.select(in_first, *halves)


def _indexer(context: Any, build: ir.IRBuilder, kind: Any, value: ir.Value) -> Any:
    """Return a function of indices that gives the address of an element of an array."""
    array = context.make_array(kind)(context, build, value=value)
    shape, strides = (cgutils.unpack_tuple(build, part) for part in (array.shape, array.strides))

    def address(*index: ir.Value) -> ir.Value:
        return cgutils.get_item_pointer2(
            context, build, array.data, shape, strides, kind.layout, index
        )

    return address


def _load(build: ir.IRBuilder, address: ir.Value, kind: ir.Type) -> ir.Value:
    return build.load(build.bitcast(address, kind.as_pointer()), align=2)


def _store(build: ir.IRBuilder, value: ir.Value, address: ir.Value) -> None:
    build.store(value, build.bitcast(address, value.type.as_pointer()), align=2)


def _call(build: ir.IRBuilder, name: str, kind: ir.Type, *vectors: ir.Value) -> ir.Value:
    declared = ir.FunctionType(kind, [vector.type for vector in vectors])
    return build.call(cgutils.get_or_insert_function(build.module, declared, name), vectors)


def _maximum(build: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return build.select(build.icmp_signed(">", a, b), a, b)


def _splat(build: ir.IRBuilder, value: ir.Value, kind: ir.VectorType) -> ir.Value:
    one = build.insert_element(ir.Constant(kind, ir.Undefined), value, INT32(0))
    return build.shuffle_vector(one, ir.Constant(kind, ir.Undefined), _lanes([0] * kind.count))


def _every_second(build: ir.IRBuilder, vector: ir.Value, first: int) -> ir.Value:
    empty = ir.Constant(NARROW, ir.Undefined)
    return build.shuffle_vector(vector, empty, _lanes(range(first, LANES, 2)))


def _lanes(lanes: Iterable[int]) -> ir.Value:
    chosen = list(lanes)
    return ir.Constant(ir.VectorType(INT32, len(chosen)), chosen)
