"""Text as characters, for language models that are small enough to run encrypted.

    "A gripping, funny film!"  ->  "a gripping, funny film"  ->  2 + place in CHARACTERS

Everything that isn't in `CHARACTERS` is left out. A stream is one sentence after another, each with
a space behind it. `generate_sentences` makes text of a small grammar: what tests learn, and whoever
has no text of their own.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable

import numpy as np
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel

CHARACTERS = " abcdefghijklmnopqrstuvwxyz'.,"
SPECIAL = ("[PAD]", "[UNK]")
FIRST_ID = len(SPECIAL)  # the token id of the first character
VOCAB_SIZE = FIRST_ID + len(CHARACTERS)
LABELS = ("space", *CHARACTERS[1:])  # what a model predicts, by place in CHARACTERS

GRAMMAR = {
    "S": (
        "the N V .", "the J N V .", "a J N , and a J N .", "the N V and the N V .", "it is A J N .",
    ),
    "N": ("film", "plot", "story", "cast", "script", "camera", "sound", "ending", "director"),
    "J": ("slow", "dull", "bright", "gripping", "funny", "quiet", "clever", "tired", "warm"),
    "V": ("works", "drags", "shines", "fails", "never ends", "keeps its promise", "is J"),
    "A": ("not a", "such a", "at last a", "only a"),
}  # fmt: skip
NOT_CHARACTERS = re.compile(f"[^{CHARACTERS}]")


def character_tokenizer() -> Tokenizer:
    """Return a tokenizer of one token a character.

    >>> character_tokenizer().encode("Ab-c").ids
    [3, 4, 5]
    """
    entries = [*SPECIAL, *CHARACTERS]
    vocabulary = {token: index for index, token in enumerate(entries)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=SPECIAL[1]))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(Regex(NOT_CHARACTERS.pattern), "")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    return tokenizer


def character_stream(sentences: Iterable[str]) -> np.ndarray:
    """Return the token ids of all sentences, one after the other: int64 `[n]`.

    >>> character_stream(["Ab-c", "a"]).tolist()
    [3, 4, 5, 2, 3, 2]
    """
    text = "".join(NOT_CHARACTERS.sub("", sentence.lower()) + " " for sentence in sentences)
    codes = np.frombuffer(text.encode("ascii"), np.uint8)
    places = np.zeros(128, np.int64)
    places[np.frombuffer(CHARACTERS.encode("ascii"), np.uint8)] = range(len(CHARACTERS))
    return places[codes] + FIRST_ID


def generate_sentences(n: int, seed: int = 0) -> list[str]:
    """Return n sentences of a small grammar; the same ones for the same seed.

    >>> generate_sentences(2)
    ['the sound works and the script never ends.', 'the sound is funny and the ending shines.']
    """
    rng = random.Random(seed)

    def expand(symbol: str) -> str:
        if symbol not in GRAMMAR:
            return symbol
        return " ".join(expand(part) for part in rng.choice(GRAMMAR[symbol]).split())

    return [re.sub(r" (?=[.,])", "", expand("S")) for _ in range(n)]
