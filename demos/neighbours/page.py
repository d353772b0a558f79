"""The page: accuracy, costs, who learns what, and when a neighbour is the better choice."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from demos.neighbours.results import (
    DOT_PRODUCT,
    ENCODER,
    ENCODER_HIDDEN,
    HEADS,
    INHIBITOR,
    STUDENTS,
    SUMMED_ROWS,
    TEACHER,
    WORDS,
    Neighbour,
    Results,
)
from fhe_inhibitor.system.pages import markdown_table
from fhe_inhibitor.system.statistics import Share

KINDS = (*STUDENTS, *HEADS)
TITLES = {
    INHIBITOR: "inhibitor student",
    DOT_PRODUCT: "dot-product student",
    WORDS: "bag of words, linear",
    ENCODER: "public encoder, linear head",
    ENCODER_HIDDEN: "public encoder, head with hidden units",
}
MISSING = {
    DOT_PRODUCT: "missing: `fhe-inhibitor train` makes it beside the inhibitor student, in the "
    "folder `<out>-dot-product`; name that with `--baseline`",
}
IN_THE_CLEAR = {
    SUMMED_ROWS: "the bag of words of `train`, distilled from the teacher, same tokens",
    TEACHER: "the teacher, the same encoder fine-tuned on the task, all tokens",
}
# What each protects, what the client learns and needs, and what stays secret.
PROTECTS = {
    INHIBITOR: (
        "The weights of all layers after the embedding. Every sum goes through lookups before it "
        "comes back, though the scheme does not promise to hide what went into it.",
        "The embedding, the tokenizer and the importance list, which are public; the logits.",
    ),
    DOT_PRODUCT: ("The same.", "The same."),
    WORDS: (
        "**Nothing, from a client that wants to know.** The weight of each word is in the one "
        "sum that comes back; see [below](#a-sum-hides-no-weights).",
        "The list of words, which is public; the score; with some linear algebra, the weights.",
    ),
    ENCODER: (
        "**Nothing, from a client that wants to know**: a linear head is a sum as well.",
        "The encoder, which is public; the score; with some linear algebra, the head.",
    ),
    ENCODER_HIDDEN: (
        "The weights of the head, behind lookups as the inhibitor's are. The encoder is public, "
        "so a client that has labels of its own can train such a head itself.",
        "The encoder; the score.",
    ),
}
SECRET = (
    "The text, its tokens or its embedding, the score and the label stay with the client in all "
    "rows."
)
SUMS = """## A sum hides no weights

A linear head is compiled without any lookup. Then the server only adds up the client's
ciphertexts, each times its weight. A ciphertext is a list of hundreds of random numbers, the mask,
and one number that holds the message. The mask of the sum is the same sum of the masks. The client
knows all masks, because it drew them. So each number of the response is a linear equation for the
weights. One response holds more equations than a head of 384 weights has unknowns; a head on words
takes several. `tests/compile/test_sentence_head.py` finds the weights of an encrypted head in that
way.

A lookup makes a new ciphertext out of the evaluation keys, and these equations are gone. Without
one, encryption hides the client's text from the server, but not the head from the client. **Then
the server might as well publish the head**: the client computes everything in the clear, nothing
is sent, and nothing has to be encrypted. The rows *in the clear* have what a client can do alone
with a bag of words, or with the fine-tuned encoder.
"""


def to_markdown(results: Results) -> str:
    """Return the page, all of whose figures are the results'."""
    parts = [
        _head(results),
        _accuracy(results),
        _costs(results),
        _protection(results),
        [SUMS],
        _verdict(results),
    ]
    return "\n".join("\n".join(part) for part in parts if part)


def _head(results: Results) -> list[str]:
    accuracy = [row.machine for row in results.neighbours.values()]
    times = [row.times.machine for row in results.neighbours.values() if row.times]
    lines = [
        "# Fair neighbours, SST-2",
        "",
        "What could a researcher do instead of the inhibitor student? Made by "
        "`python -m demos.neighbours --data FOLDER`; no figure was entered by hand. Every "
        "sentence is encrypted with 128 bits of security.",
        "",
        "- *inhibitor student*, *dot-product student*: every layer after the embedding is "
        f"encrypted. They read the {results.tokens} most important tokens.",
        "- *bag of words*: a weight for each word of train, by logistic regression on all its "
        "texts, less what is held out. The client encrypts which words of that list a text has.",
        "- *public encoder*: all-MiniLM-L6-v2, not fine-tuned, the mean of its last hidden states, "
        "scaled to length 1. The client runs it in the clear and encrypts the embedding. Heads "
        f"learn from {results.train_texts:,} texts of train, full sentences first.",
        "",
    ]
    for what, machines in (("Accuracies", accuracy), ("Times", times)):
        described = dict.fromkeys(machine.describe() for machine in machines)
        lines += [f"{what}: {'; '.join(described) or 'not taken yet'}.", ""]
    return lines


def _accuracy(results: Results) -> list[str]:
    rows: list[list[str]] = []
    for kind in KINDS:
        row = results.neighbours.get(kind)
        if row is None:
            rows.append([TITLES[kind], MISSING.get(kind, "missing"), "", "", ""])
            continue
        a = row.accuracy
        splits = a.validation, a.held_out, a.float_validation, a.float_held_out
        rows.append([TITLES[kind], *map(_percent, splits)])
    for kind, shares in results.in_the_clear.items():
        title = f"in the clear, nothing encrypted: {IN_THE_CLEAR[kind]}"
        rows.append([title, _percent(shares["validation"]), _percent(shares["held_out"]), "", ""])
    head = "", "validation, % (95%)", "held out, % (95%)", "in float, validation", "held out"
    return [
        "## Accuracy",
        "",
        "Integers as they are encrypted, with the noise of encrypted rounding drawn where there "
        "are lookups. Intervals are Wilson's. All rows are measured on the same sentences, so a "
        "difference between two of them is surer than their intervals suggest. Penalties of the "
        "heads were chosen on the held-out sentences, so those figures are a little too good.",
        "",
        *markdown_table(head, rows),
        "",
    ]


def _costs(results: Results) -> list[str]:
    rows = []
    for kind in KINDS:
        row = results.neighbours.get(kind)
        if row is None or row.times is None:
            rows.append([TITLES[kind], "not timed yet" if row else "missing", *[""] * 9])
            continue
        rows.append([TITLES[kind], *_cost(row)])
    head = (
        "", "seconds", "sentences", "lookups", "complexity", "keys made, s", "evaluation keys",
        "integers", "request", "response", "labels as in the clear",
    )  # fmt: skip
    return [
        "## One sentence, encrypted",
        "",
        "Seconds: median, from encryption to label. Students take turns, sentence by sentence. "
        "Complexity is that of Concrete's optimizer. Without lookups there are no evaluation keys.",
        "",
        *markdown_table(head, rows),
        "",
    ]


def _cost(row: Neighbour) -> Iterator[str]:
    times = row.times
    assert times is not None
    widths = ", ".join(f"{count:,} of {width} bits" for width, count in times.lookups.items())
    n = len(times.encrypted_s)
    yield f"{median(times.encrypted_s):.2f}"
    yield str(n)
    yield widths or "0"
    yield f"{times.complexity:.2e}" if times.lookups else "0"
    yield "" if times.keygen_s is None else f"{times.keygen_s:.1f}"
    yield _bytes(times.evaluation_keys_bytes) if times.lookups else "none"
    yield f"{row.n_encrypted:,}"
    yield _bytes(times.request_bytes)
    yield _bytes(times.response_bytes)
    yield "" if times.equal is None else f"{times.equal} of {n}"


def _protection(results: Results) -> list[str]:
    rows = []
    for kind in KINDS:
        row = results.neighbours.get(kind)
        needs = "" if row is None else f"{_bytes(row.client_bytes)} to download"
        if row is not None and row.times is not None:
            needs += f", {1e3 * median(row.times.clear_s):.1f} ms in the clear"
        rows.append([TITLES[kind], *PROTECTS[kind], needs])
    head = "", "what is protected of the server's model", "what the client learns", "what it needs"
    return [
        "## Who learns what",
        "",
        f"{SECRET} The rows differ in what becomes of the server's model.",
        "",
        *markdown_table(head, rows),
        "",
    ]


def _verdict(results: Results) -> list[str]:
    inhibitor = results.neighbours.get(INHIBITOR)
    if inhibitor is None:
        return []
    lines = ["## Which is the better choice", ""]
    for kind in KINDS[1:]:
        row = results.neighbours.get(kind)
        if row is not None:
            lines.append(f"- **{TITLES[kind]}**: {_compare(kind, row, inhibitor)}")
    teacher = results.in_the_clear.get(TEACHER)
    if teacher:
        points = 100 * (teacher["validation"].value - inhibitor.accuracy.validation.value)
        lines.append(
            f"- **Nothing encrypted**: {points:+.1f} points on validation with the fine-tuned "
            "encoder. If nothing of the model is a secret and the client can run it, publish it: "
            "that is the better choice, the text never leaves the client, and all encryption is "
            "needless. What is encrypted here is for a model whose owner keeps it."
        )
    return [*lines, ""]


def _compare(kind: str, row: Neighbour, inhibitor: Neighbour) -> str:
    """Return how a neighbour does against the inhibitor, and what follows from that."""
    own = row.accuracy.validation, row.accuracy.held_out
    other = inhibitor.accuracy.validation, inhibitor.accuracy.held_out
    points = [100 * (a.value - b.value) for a, b in zip(own, other, strict=True)]
    names = "on validation", "held out"
    overlap = [
        name
        for name, a, b in zip(names, own, other, strict=True)
        if a.low <= b.high and b.low <= a.high
    ]
    text = f"{points[0]:+.1f} points on validation, {points[1]:+.1f} held out, "
    text += f"intervals overlap {' and '.join(overlap)}." if overlap else "outside the intervals."
    factor = None
    if row.times and inhibitor.times:
        mine, others = (median(t.encrypted_s) for t in (row.times, inhibitor.times))
        factor = others / mine
        text += f" {mine:.2f} s a sentence, where the inhibitor takes {others:.2f} s."
    return f"{text} {advise(kind, max(points) < 0 or min(points) < -1, factor)}"


def advise(kind: str, less_accurate: bool, factor: float | None) -> str:
    """Return what a reader should do. factor: by how much it is faster; None if not known."""
    if kind == DOT_PRODUCT:
        if factor is None:
            return "It has not been timed, so nothing is said here."
        if factor > 1.0 and not less_accurate:
            return "**It is the better choice.**"
        if factor > 1.0:
            return "It is the better choice where seconds count more than these points."
        return (
            "The inhibitor is the better choice."
            if less_accurate
            else ("The inhibitor is the better choice where seconds count.")
        )
    if kind == ENCODER_HIDDEN:
        if less_accurate:
            return (
                "Take it where seconds count more than these points, the client can run the "
                "encoder, and the head's weights are a secret; else take the inhibitor."
            )
        return (
            "**It is the better choice where the client can run the encoder.** The inhibitor is "
            "left where a client can't, or where the layers themselves are the secret."
        )
    if less_accurate:
        return (
            "It hides nothing of the model, so the client can do this in the clear. That is the "
            "better choice where the weights are no secret and these points don't matter."
        )
    return (
        "**It is the better choice where the weights are no secret**, and then in the clear on the "
        "client, with nothing sent. It hides nothing of the model; the inhibitor does."
    )


def _percent(share: Share | None) -> str:
    if share is None:
        return ""
    return f"{100 * share.value:.1f} ({100 * share.low:.1f} to {100 * share.high:.1f})"


def _bytes(n: int) -> str:
    return f"{n / 1e6:.1f} MB" if n >= 1e6 else f"{n / 1e3:.1f} kB"
