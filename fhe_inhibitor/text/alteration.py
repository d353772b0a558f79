"""Altered copies of a task's texts, for the teacher to label: more text where a task has little.

`augmentation` makes fluent texts, but only of SST-2's phrases. This works for any texts, pairs too,
and its copies aren't fluent: a student that learns from a teacher only has to see varied inputs.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from fhe_inhibitor.text.tasks import UNKNOWN, Example

DROPPED, REPLACED, SWAPPED = 0.1, 0.1, 0.05
OTHER_PARTNER = 0.25


def alter(examples: Sequence[Example], copies: int, seed: int) -> list[Example]:
    """Return `copies` altered examples of each, without labels. Same seed, same texts.

    Of the words a tenth is left out, a tenth replaced by any word of the texts, and one in
    twenty changes places with the next. A quarter of the pairs gets its second text from
    another pair.
    """
    random_ = random.Random(seed)
    words = [word for example in examples for text in example.texts for word in text.split()]
    altered = []
    for example in [example for example in examples for _ in range(copies)]:
        first, *second = example.texts
        if second and random_.random() < OTHER_PARTNER:
            second = [random_.choice(examples).texts[-1]]
        texts = tuple(_alter(text, words, random_) for text in (first, *second))
        altered.append(Example(texts, UNKNOWN))
    return altered


def _alter(text: str, words: Sequence[str], random_: random.Random) -> str:
    kept: list[str] = []
    for word in text.split():
        chance = random_.random()
        if chance < DROPPED:
            continue
        if chance < DROPPED + REPLACED:
            word = random_.choice(words)
        if kept and random_.random() < SWAPPED:
            kept.insert(-1, word)
        else:
            kept.append(word)
    return " ".join(kept) or text
