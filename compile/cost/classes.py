"""Lookups that cost the same: classes of traced lookups, with the encoding of what they read.

Heads, lengths and most layers are alike but for how many values they hold. So lookups are put into
one class where they have the same widths and encodings, and what they read, and what reads them,
looks alike too, three steps far (refinement of colours). Of a class only the largest weights count,
since those alone bound its noise.

Values that are added have one encoding, as wide as the widest sum that any of them is part of
(`compile.lookup_counts`). A sum of b bits in an encoding of e is moved up by e - b bits before a
lookup reads it, and its weights with it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from compile.cost.trace import Port, TracedFunction, TracedLookup

Value = Port | TracedLookup
ROUNDS = 3  # how far around a lookup its class looks; more only part layers that are alike


@dataclass(frozen=True)
class Argument:
    """One kind of value in a sum.

    norm: squared 2-norm of its weights. sources: indices of the classes that it may come from,
    none where it comes from the client.
    """

    norm: int
    sources: tuple[int, ...]


@dataclass(frozen=True)
class LookupClass:
    """Lookups that cost the same.

    bit_width: of a lookup, 0 for sums that leave the circuits as they are. count: lookups of one
    call of every function. encoding: bits of what is read. output_encoding: of what comes out,
    None where no function gives it.
    """

    bit_width: int
    count: int
    encoding: int
    output_encoding: int | None
    arguments: tuple[Argument, ...]


@dataclass(frozen=True)
class Classes:
    """All classes, and where in them each lookup and each input of a function is.

    index: of a lookup's class. place: of a port, one of the classes that read it and which of its
    arguments it is. encoding: of every value, in bits.
    """

    listed: list[LookupClass]
    index: dict[TracedLookup, int]
    place: dict[Port, tuple[int, int]]
    encoding: dict[Value, int]


def classify_lookups(functions: Iterable[TracedFunction]) -> Classes:
    """Return the classes of the lookups of these functions."""
    functions = list(functions)
    lookups = [lookup for function in functions for lookup in function.lookups]
    encoding = _encodings(lookups)
    leaving = {lookup for function in functions for lookup in function.outputs.values()}
    colour = _colours(lookups, encoding, leaving)
    members: dict[int, list[TracedLookup]] = defaultdict(list)
    for lookup in lookups:
        members[colour[lookup]].append(lookup)
    number = {of_class: position for position, of_class in enumerate(members)}
    index = {lookup: number[colour[lookup]] for lookup in lookups}
    listed, place = [], {}
    for position, alike in enumerate(members.values()):
        norms, sources = _arguments(alike, encoding, colour, index)
        first = alike[0]
        for lookup in alike:
            for term in lookup.terms:
                for value in _with_sources(term) if isinstance(term, Port) else ():
                    if isinstance(value, Port):  # what is joined is where the joined one is
                        place[value] = (position, list(norms).index(colour[term]))
        listed.append(
            LookupClass(
                bit_width=first.bit_width,
                count=sum(lookup.count for lookup in alike),
                encoding=_encoding_read(first, encoding),
                output_encoding=encoding[first] if first in leaving else None,
                arguments=tuple(Argument(norms[c], tuple(sorted(sources[c]))) for c in norms),
            )
        )
    return Classes(listed, index, place, encoding)


def _arguments(
    alike: Sequence[TracedLookup],
    encoding: dict[Value, int],
    colour: dict[Value, int],
    index: dict[TracedLookup, int],
) -> tuple[dict[int, int], dict[int, set[int]]]:
    """Return, by colour of what a class adds, the largest norm and the classes that it is of."""
    norms: dict[int, int] = {}
    sources: dict[int, set[int]] = defaultdict(set)
    for lookup in alike:
        own: dict[int, int] = defaultdict(int)
        shift = _encoding_read(lookup, encoding) - lookup.sum_bits
        for term, norm in lookup.terms.items():
            own[colour[term]] += norm << 2 * shift
            sources[colour[term]] |= {index[source] for source in _lookups_behind(term)}
        for of_term, norm in own.items():
            norms[of_term] = max(norm, norms.get(of_term, 1))
    return norms, sources


def _encodings(lookups: Sequence[TracedLookup]) -> dict[Value, int]:
    """Return the bits of the encoding of every value."""
    parent: dict[Value, Value] = {}

    def root(value: Value) -> Value:
        while parent.setdefault(value, value) is not value:
            parent[value] = value = parent[parent[value]]
        return value

    for lookup in lookups:
        root(lookup)
        first = root(next(iter(lookup.terms)))
        for term in lookup.terms:
            for value in _with_sources(term):
                parent[root(value)] = root(first)
    bits: dict[Value, int] = defaultdict(int)
    for value in parent:
        bits[root(value)] = max(bits[root(value)], value.bits)
    for lookup in lookups:
        read = root(next(iter(lookup.terms)))
        bits[read] = max(bits[read], lookup.sum_bits)
    return {value: bits[root(value)] for value in list(parent)}


def _encoding_read(lookup: TracedLookup, encoding: dict[Value, int]) -> int:
    return encoding[next(iter(lookup.terms))]


def _with_sources(value: Value) -> Iterable[Value]:
    """Yield a value and, of a port, all that it may be."""
    yield value
    if isinstance(value, Port):
        for source in value.sources:
            yield from _with_sources(source)


def _lookups_behind(value: Value) -> Iterable[TracedLookup]:
    return (source for source in _with_sources(value) if isinstance(source, TracedLookup))


def _colours(
    lookups: Sequence[TracedLookup], encoding: dict[Value, int], leaving: set[TracedLookup]
) -> dict[Value, int]:
    """Return a number for each value, the same for values that look alike."""
    before: dict[Value, list[Value]] = {}
    after: dict[Value, list[Value]] = defaultdict(list)
    signature: dict[Value, tuple] = {}
    for lookup in lookups:
        for value in (lookup, *(v for term in lookup.terms for v in _with_sources(term))):
            if value in before:
                continue
            if isinstance(value, Port):
                before[value], signature[value] = list(value.sources), (encoding[value],)
            else:
                before[value] = list(value.terms)
                shape = value.bit_width, value.sum_bits, _encoding_read(value, encoding)
                signature[value] = (*shape, encoding[value], value in leaving)
            for source in before[value]:
                after[source].append(value)
    colour = _numbered(signature)
    for _ in range(ROUNDS):
        signature = {
            value: (
                colour[value],
                frozenset(colour[x] for x in before[value]),
                frozenset(colour[x] for x in after[value]),
            )
            for value in colour
        }
        colour = _numbered(signature)
    return colour


def _numbered(signature: dict[Value, tuple]) -> dict[Value, int]:
    numbers: dict[tuple, int] = {}
    return {value: numbers.setdefault(own, len(numbers)) for value, own in signature.items()}
