"""What came of a build: accuracies with their intervals, sizes, seconds, and what to be warned of.

Few texts say little: of 100 texts, 85 right mean 77 to 91%. So each accuracy has its interval.
What the encrypted layers are worth is told against what costs less: always the same label, and a
bag of words.
"""

from __future__ import annotations

from collections.abc import Iterator

from fhe_inhibitor.system.files import Record
from fhe_inhibitor.system.statistics import Share
from fhe_inhibitor.training.own_texts import Prepared

FINISHED_FILE, PAGE_FILE = "build.json", "build.md"
FEW_CLASS_TEXTS, FEW_VALIDATION_TEXTS = 50, 200


class Scores(Record):
    """Accuracies over all validation texts, at the model's default number of tokens.

    most_frequent: always the class that is most frequent in training. teacher: in float, all
    tokens. bag_of_words: a sum of one row a token, which needs no lookup; None if it wasn't asked
    for. float_student: nothing quantized; None where it can't be read. integers: with the noise of
    encrypted rounding drawn, mean over draws.
    """

    most_frequent: Share
    teacher: Share
    bag_of_words: Share | None
    float_student: Share | None
    integers: Share


class Encrypted(Record):
    """What encryption made of the first validation texts.

    integers: of the same texts, exact rounding. n_equal: labels equal to those. seconds: median of
    a text, on the machine as it was.
    """

    accuracy: Share
    integers: Share
    n_equal: int
    seconds: float
    evaluation_keys_bytes: int


class Circuits(Record):
    """Of one text of the default number of tokens; bytes without headers."""

    lookups: int
    request_bytes: int
    response_bytes: int


class Built(Record):
    """All results of a build.

    tokens: that are read of a text by default. by_tokens: accuracy of the integers, noise drawn, by
    number of tokens. encrypted: None if no text was. seconds: by step, of this call alone.
    """

    model: str
    prepared: Prepared
    tokens: int
    scores: Scores
    by_tokens: dict[int, float]
    encrypted: Encrypted | None
    circuits: Circuits
    model_bytes: int
    seconds: dict[str, float]


def accuracies(built: Built) -> Iterator[tuple[str, Share]]:
    """Yield what was measured, in words, and its accuracy, from what costs least upwards."""
    scores, n = built.scores, built.tokens
    yield "always the most frequent class", scores.most_frequent
    if scores.bag_of_words is not None:
        yield f"bag of words, {n} tokens, no lookup", scores.bag_of_words
    yield "teacher, all tokens, float", scores.teacher
    if scores.float_student is not None:
        yield f"student, {n} tokens, float", scores.float_student
    yield f"student, {n} tokens, integers with noise", scores.integers
    if built.encrypted is not None:
        yield "the same, encrypted", built.encrypted.accuracy


def warnings(built: Built) -> Iterator[str]:
    """Yield what a user should know before the figures are believed."""
    prepared, scores = built.prepared, built.scores
    few = [
        f"{label} ({n})"
        for label, n in zip(prepared.labels, prepared.train, strict=True)
        if n < FEW_CLASS_TEXTS
    ]
    if few:
        yield (
            f"few texts to train on: {', '.join(few)}; with fewer than {FEW_CLASS_TEXTS} a class "
            "is often confused with others"
        )
    n = scores.integers.n
    if n < FEW_VALIDATION_TEXTS:
        yield (
            f"accuracy was measured on {n} texts, so the true one may be anywhere from "
            f"{scores.integers.low:.0%} to {scores.integers.high:.0%}"
        )
    if unseen := [
        label for label, n in zip(prepared.labels, prepared.validation, strict=True) if not n
    ]:
        yield f"no text to measure on is of {', '.join(unseen)}"
    for name, score in (("student", scores.integers), ("teacher", scores.teacher)):
        if score.low <= scores.most_frequent.value:
            yield (
                f"the {name} is not proved to be better than always answering the most frequent "
                f"class ({scores.most_frequent.value:.1%}): add texts, or check the labels"
            )
    bag = scores.bag_of_words
    if bag is not None and bag.value >= scores.integers.value:
        yield (
            f"the bag of words, which needs no lookup, is as good ({bag.value:.1%}): the encrypted "
            "layers add nothing for these texts"
        )


def to_markdown(built: Built) -> str:
    """Return the results as a page."""
    prepared = built.prepared
    counts = [
        f"| {label} | {train:,} | {validation:,} |"
        for label, train, validation in zip(
            prepared.labels, prepared.train, prepared.validation, strict=True
        )
    ]
    rows = [
        f"| {what} | {x.value:.1%} | {x.low:.1%} to {x.high:.1%} | {x.n:,} |"
        for what, x in accuracies(built)
    ]
    parts = [
        f"# {built.model}",
        "\n".join(["| class | to train on | to measure on |", "|---|---|---|", *counts]),
        "\n".join(
            ["| | accuracy | 95% interval | texts |", "|---|---|---|---|", *rows],
        ),
        "\n".join(f"- {line}" for line in costs(built)),
    ]
    if warned := list(warnings(built)):
        parts.append("\n".join(f"- **Warning**: {line}." for line in warned))
    return "\n\n".join(parts) + "\n"


def costs(built: Built) -> Iterator[str]:
    """Yield sizes and times, in words."""
    circuits = built.circuits
    by_tokens = ", ".join(f"{n}: {value:.1%}" for n, value in built.by_tokens.items())
    yield f"accuracy of the integers by number of tokens: {by_tokens}"
    yield (
        f"one text of {built.tokens} tokens: {circuits.lookups:,} lookups, request "
        f"{circuits.request_bytes / 1e3:.1f} kB, response {circuits.response_bytes / 1e3:.1f} kB"
    )
    yield f"integer model {built.model_bytes / 1e6:.2f} MB"
    if (encrypted := built.encrypted) is not None:
        yield f"evaluation keys {encrypted.evaluation_keys_bytes / 1e6:.1f} MB"
        yield (
            f"encrypted: {encrypted.seconds:.1f} s a text (median, this machine as it was), "
            f"{encrypted.n_equal} of {encrypted.accuracy.n} labels equal to the exact integers'"
        )
    steps = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in built.seconds.items())
    yield f"this call took {sum(built.seconds.values()) / 60:.1f} minutes: {steps}"
