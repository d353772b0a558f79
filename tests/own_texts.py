"""Labelled texts made from templates, of three kinds: topics, questions by type, three sentiments.

They are nobody's texts. Words of a class stand in templates that classes share, so that a model has
to read words, and a text is made once.

    python -m tests.own_texts topics 600 topics.jsonl
    python -m tests.own_texts reviews 600 reviews.jsonl ../shared/data/glue/sst2/train.tsv

The second has SST-2's own sentences, and between them neutral ones from the templates.
`docs/own_texts.md` has what builds from them gave.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fhe_inhibitor.text.data import full_sentences, read_tsv
from fhe_inhibitor.training.distillation import DistillationConfig
from fhe_inhibitor.training.hyperparameters import SIZES, Size

# The kind of network that nano is, as small as it gets.
TINY = Size(
    {
        **SIZES["nano"].student,
        "dim": 4,
        "n_layers": 1,
        "n_heads": 1,
        "key_head_dim": 2,
        "value_head_dim": 2,
        "attention_window": 0,
        "n_tokens": 4,
        "default_tokens": 4,
        "buckets": [4],
        "quantization": {"key_bits": 3, "value_bits": 3, "weight_bits": 4, "table_bits": 4},
    },
    DistillationConfig(steps=8, batch_size=16, token_counts=(4,), token_weights=(1.0,)),
    embedding_width=8,
)

Slots = Mapping[str, Sequence[str]]

TOPICS: dict[str, Slots] = {
    "cooking": {
        "thing": ("soup", "bread", "stew", "sauce", "pie", "dough", "roast", "salad", "curry"),
        "part": ("salt", "flour", "butter", "onion", "garlic", "pepper", "oven", "pan", "cream"),
        "act": ("baked", "boiled", "fried", "seasoned", "stirred", "tasted", "chopped"),
    },
    "gardening": {
        "thing": ("lawn", "hedge", "rose", "tulip", "apple tree", "lettuce bed", "orchard"),
        "part": ("soil", "compost", "seeds", "roots", "weeds", "leaves", "watering can", "spade"),
        "act": ("planted", "watered", "pruned", "weeded", "mulched", "dug up", "sowed"),
    },
    "astronomy": {
        "thing": ("comet", "galaxy", "planet", "nebula", "moon", "star cluster", "asteroid"),
        "part": ("telescope", "orbit", "crater", "lens", "night sky", "eclipse", "spectrum"),
        "act": ("observed", "photographed", "tracked", "catalogued", "discovered", "measured"),
    },
    "cycling": {
        "thing": ("bicycle", "race", "mountain stage", "tandem", "sprint", "peloton", "tour"),
        "part": ("chain", "pedals", "saddle", "gears", "brakes", "front wheel", "handlebar"),
        "act": ("rode", "won", "repaired", "finished", "overtook", "led", "crashed in"),
    },
}
STATEMENTS = (
    "Last {day} we {act} the {thing}.",
    "The {part} of the {thing} was {quality}.",
    "My {person} said that the {part} is {quality}, so we {act} it again.",
    "I never {act} a {thing} with such a {quality} {part}!",
    "Has anybody here {act} the {thing} without the {part}?",
    "It's {quality}: the {thing} didn't need any {part}.",
    "{Person} {act} the {thing} on {day}, and the {part} was {quality}",
    "Could you tell my {person} about the {part} and the {thing}?",
)
SHARED: Slots = {
    "day": ("Monday", "Tuesday", "Friday", "Sunday", "weekend", "week"),
    "quality": ("excellent", "strange", "too old", "perfect", "a bit small", "new", "expensive"),
    "person": ("sister", "neighbour", "uncle", "teacher", "friend", "daughter"),
    "Person": ("Maria", "Our neighbour", "The old man", "My brother", "A colleague"),
}
QUESTIONS: dict[str, tuple[Sequence[str], Slots]] = {
    "person": (("Who {did} the {thing}?", "Which {role} {did} the {thing}?",
                "Whose {thing} is it?"),
               {"role": ("painter", "engineer", "king", "singer", "writer")}),
    "place": (("Where was the {thing} found?", "In which {role} is the {thing}?",
               "What {role} has the first {thing}?"),
              {"role": ("city", "country", "village", "state", "river valley")}),
    "number": (("How many {role} does the {thing} have?", "How {role} is the {thing}?",
                "What share of the {thing} is lost?"),
               {"role": ("doors", "wheels", "old", "heavy", "parts", "long")}),
    "reason": (("Why was the {thing} {state}?", "For what reason is the {thing} {state}?",
                "What made the {thing} so {state}?"),
               {"state": ("closed", "famous", "sold", "moved", "feared", "rebuilt")}),
}  # fmt: skip
THINGS: Slots = {
    "thing": ("bridge", "tower", "steam engine", "printing press", "castle", "violin", "harbour",
              "lighthouse", "telephone", "windmill", "library", "submarine", "cathedral", "clock"),
    "did": ("invented", "designed", "bought", "described", "saved", "painted"),
}  # fmt: skip
SENTIMENTS: dict[str, Slots] = {
    "negative": {"judged": ("dull", "a waste of time", "awful", "clumsy", "far too long", "weak"),
                 "felt": ("hated", "left", "regretted", "could n't stand")},
    "neutral": {"judged": ("two hours long", "shot in Rome", "a remake", "the third part",
                           "in black and white", "from a novel"),
                "felt": ("watched", "saw", "rented", "recorded")},
    "positive": {"judged": ("brilliant", "a delight", "wonderful", "funny and warm", "gripping"),
                 "felt": ("loved", "adored", "enjoyed", "recommend")},
}  # fmt: skip
REVIEWS = (
    "the {part} is {judged}", "i {felt} this {genre} .", "a {genre} whose {part} is {judged}",
    "we {felt} the {part} of this {genre} , which is {judged} .", "{judged} , from the {part} on",
)  # fmt: skip
FILMS: Slots = {
    "part": ("plot", "acting", "music", "script", "ending", "opening scene", "dialogue"),
    "genre": ("comedy", "thriller", "western", "drama", "documentary", "musical"),
}


def topics(n: int, seed: int = 0) -> list[tuple[str, str]]:
    """Return `n` texts with one of four topics each."""
    return _make(n, seed, {label: (STATEMENTS, {**SHARED, **own}) for label, own in TOPICS.items()})


def questions(n: int, seed: int = 0) -> list[tuple[str, str]]:
    """Return `n` questions with one of four types each."""
    return _make(n, seed, {label: (forms, {**THINGS, **own}) for label, (forms, own) in
                           QUESTIONS.items()})  # fmt: skip


def sentiments(n: int, seed: int = 0) -> list[tuple[str, str]]:
    """Return `n` texts that are negative, neutral or positive."""
    return _make(n, seed, {label: (REVIEWS, {**FILMS, **own}) for label, own in SENTIMENTS.items()})


KINDS: dict[str, Callable[[int, int], list[tuple[str, str]]]] = {
    "topics": topics,
    "questions": questions,
    "sentiments": sentiments,
}


def reviews(n: int, train: Path, seed: int = 0) -> list[tuple[str, str]]:
    """Return `n` texts: as many sentences of each label of SST-2 as neutral ones of ours."""
    rng = random.Random(seed)
    rows = read_tsv(train)
    whole = [rows[index] for index in full_sentences([row.text for row in rows])]
    found = [text for text in sentiments(n, seed) if text[1] == "neutral"]
    for index, label in enumerate(("negative", "positive")):
        texts = [row.text for row in whole if row.label == index]
        found += [(text, label) for text in rng.sample(texts, n // 3)]
    return rng.sample(found, len(found))


def write_jsonl(path: Path, texts: Sequence[tuple[str, str]]) -> Path:
    """Write texts and labels as JSON lines; return the path."""
    lines = [json.dumps({"text": text, "label": label}) for text, label in texts]
    path.write_text("\n".join(lines) + "\n")
    return path


def _make(
    n: int, seed: int, classes: Mapping[str, tuple[Sequence[str], Slots]]
) -> list[tuple[str, str]]:
    rng = random.Random(seed)
    labels = list(classes)
    made: dict[str, str] = {}
    while len(made) < n:
        label = labels[len(made) % len(labels)]
        forms, slots = classes[label]
        chosen = {name: rng.choice(words) for name, words in slots.items()}
        made.setdefault(rng.choice(forms).format(**chosen), label)
    return list(made.items())


def words_of(texts: Sequence[tuple[str, str]], lowercase: bool = True) -> list[str]:
    """Return all words of texts, for a tokenizer that is to know them."""
    found = {word for text, _ in texts for word in re.findall(r"\w+|[^\w\s]", text)}
    return sorted({word.lower() if lowercase else word for word in found})


if __name__ == "__main__":
    kind, number, path, *train = sys.argv[1:]
    n = int(number)
    write_jsonl(Path(path), reviews(n, Path(train[0])) if train else KINDS[kind](n, 0))
