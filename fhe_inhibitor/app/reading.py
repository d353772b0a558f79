"""Which parts of a text the model reads, which it cuts, and what is between tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fhe_inhibitor.integer.public import PublicModel, Tokens
from fhe_inhibitor.text.markup import without_markup


@dataclass(frozen=True)
class Part:
    """A part of a text: a token that is read or cut, or what is between two."""

    text: str
    kind: Literal["read", "cut", "between"]


@dataclass(frozen=True)
class Reading:
    """A text as the model reads it.

    parts: they join to the text, as it is without markup. bucket: positions of the circuits that
    it takes, of which the text fills the first `len(tokens.ids)`. is_longest: whether any longer
    text takes the same ones.
    """

    parts: tuple[Part, ...]
    tokens: Tokens
    bucket: int
    is_longest: bool


def read(public: PublicModel, text: str, max_tokens: int | None = None) -> Reading:
    """Return what the model reads of a text. Raises InputError as `PublicModel.tokenize` does.

    That gives the tokens that are read, not their places. Equal tokens are equally important, and
    of those the first are read, of a causal model the last, so the places follow.
    """
    tokens = public.tokenize(text, max_tokens)
    plain = without_markup(text)
    encoding = public.tokenizer.encode(plain, add_special_tokens=False)
    n_first = len(tokens.ids) - len(tokens.tokens)
    places = _places(encoding.ids, tokens.ids[n_first:].tolist(), public.causal)
    parts: list[Part] = []
    end = 0
    for place, (start, stop) in enumerate(encoding.offsets):
        start = max(start, end)  # tokens of one character can share it
        token = plain[start:stop]
        start += len(token) - len(token.lstrip())  # some take the space before them along
        stop = start + len(token.strip())
        if start > end:
            parts.append(Part(plain[end:start], "between"))
        if stop > start:
            parts.append(Part(plain[start:stop], "read" if place in places else "cut"))
            end = stop
    if end < len(plain):
        parts.append(Part(plain[end:], "between"))
    bucket = public.bucket(len(tokens.ids))
    is_longest = bucket == public.bucket(public.token_limit(max_tokens))
    return Reading(tuple(parts), tokens, bucket, is_longest)


def _places(ids: Sequence[int], read: Sequence[int], last: bool) -> set[int]:
    """Return the places of the tokens that are read: of equal ones the first, or the last.

    >>> sorted(_places([5, 7, 5, 5], [5, 5], last=False))
    [0, 2]
    >>> sorted(_places([5, 7, 5, 5], [5, 5], last=True))
    [2, 3]
    """
    left = Counter(read)
    places = set()
    for place in reversed(range(len(ids))) if last else range(len(ids)):
        if left[ids[place]] > 0:
            left[ids[place]] -= 1
            places.add(place)
    return places
