"""The parts of the page as HTML, from what is known; each text in it is escaped.

What is told by a colour is told by words or lines as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from fhe_inhibitor.app.reading import Reading
from fhe_inhibitor.app.run import Crossing, Progress, Step
from fhe_inhibitor.integer.public import PublicModel
from fhe_inhibitor.runtime.classifier import Classification

ROW_BYTES = 8
SETUP = ("load circuits", "compile", "keygen", "load keys", "check circuits", "download")
AT_THE_CLIENT = ("encrypt", "decrypt", *SETUP, "send evaluation keys")
MARKS = {"read": "mark", "cut": "del"}


@dataclass(frozen=True)
class Place:
    """Where the layers run: on a server, or in this process if it is None."""

    server: str | None = None

    @property
    def name(self) -> str:
        """What to call it in a sentence."""
        return self.server or "this process"


def titled(title: str, content: str) -> str:
    """Return a part with its heading; nothing for no content."""
    return f"<h2>{escape(title)}</h2>{content}" if content else ""


def show_reading(reading: Reading) -> str:
    """Show the text with each token marked as read or as cut."""
    tokens = reading.tokens
    words = []
    for part in reading.parts:
        tag = MARKS.get(part.kind)
        words.append(f"<{tag}>{escape(part.text)}</{tag}>" if tag else escape(part.text))
    n_read = len(tokens.tokens)
    if tokens.n_cut:
        said = (
            f"The text has {tokens.n_total} tokens. The {n_read} most important are "
            f"<mark>read</mark>, {tokens.n_cut} are <del>cut</del>, by a public list."
        )
    else:
        said = f"All {n_read} tokens are <mark>read</mark>."
    return (
        f'<p class="text">{"".join(words)}</p><p>{said} They take circuits for '
        f"{reading.bucket} positions.</p>"
    )


def show_error(message: str) -> str:
    """Show what is wrong, in words."""
    sentence = message[:1].upper() + message[1:]
    return f'<p class="error" role="alert">{escape(sentence.rstrip("."))}.</p>'


def show_progress(progress: Progress, place: Place) -> str:
    """Show each step with its time, and how long the rest takes."""
    if not progress.has_begun and not progress.has_ended:
        return "<p>Waiting: another text is being classified.</p>"
    notes = "".join(f"<p>Note: {escape(note)}</p>" for note in progress.notes)
    rows = "".join(_step(step, place) for step in progress.steps.values())
    return (
        f"<p>{escape(_how_far(progress))}</p>"
        f'<progress max="1" value="{progress.share:.4f}" aria-label="Lookups done"></progress>'
        f"{notes}<table><caption>Stages, in their order</caption><thead><tr>"
        '<th scope="col">stage</th><th scope="col">where</th><th scope="col">lookups</th>'
        f'<th scope="col">seconds</th></tr></thead><tbody>{rows}</tbody></table>'
    )


def with_times(progress: Progress, result: Classification) -> Progress:
    """Return progress whose steps are the stages of a result, with the times that it gives."""
    known = [step for step in progress.steps.values() if step.name in SETUP]
    stages = [
        Step(stage.name, 0.0, sum(stage.lookups.values()), stage.seconds) for stage in result.stages
    ]
    return Progress(
        has_begun=True,
        steps={step.name: step for step in [*known, *stages]},
        notes=progress.notes,
        result=result,
    )


def show_wire(crossings: Mapping[str, Crossing], place: Place) -> str:
    """Show what goes over to the other side, and what comes back: sizes and first bytes."""
    rows = (
        ("evaluation keys", "sent once, when the page started"),
        ("request", "sent: the encrypted text"),
        ("response", "received: the encrypted logits"),
    )
    parts = []
    for name, said in rows:
        crossing = crossings.get(name)
        if crossing is None:
            parts.append(f"<dt>{name}</dt><dd>{said}. Not yet.</dd>")
            continue
        if crossing.first:
            dump = f'<pre tabindex="0" aria-label="First bytes">{hex_dump(crossing.first)}</pre>'
            shown = f" The first {len(crossing.first)}:{dump}"
        else:
            shown = " The server had them from before." if place.server else ""
        parts.append(f"<dt>{name}</dt><dd>{said}. {crossing.n_bytes:,} bytes.{shown}</dd>")
    return f"<dl>{''.join(parts)}</dl>"


def hex_dump(data: bytes) -> str:
    r"""Return bytes as lines of hexadecimal digits, with what is printable of them, escaped.

    >>> hex_dump(b"FHEI\x02<&>x")
    '46 48 45 49 02 3c 26 3e  FHEI.&lt;&amp;&gt;\n78                       x'
    """
    lines = []
    for start in range(0, len(data), ROW_BYTES):
        row = data[start : start + ROW_BYTES]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{row.hex(' '):{3 * ROW_BYTES - 1}}  {escape(text)}")
    return "\n".join(lines)


def show_label(result: Classification) -> str:
    """Show the label, and how sure the model is."""
    return (
        f'<p class="label">{escape(result.label)}</p>'
        f"<p>Probability {result.probability:.1%}. {result.seconds:.1f} s from encryption to "
        f"label, {sum(sum(stage.lookups.values()) for stage in result.stages):,} lookups.</p>"
    )


def show_logits(
    public: PublicModel, logits: Sequence[int], clear: Sequence[int] | None, place: Place
) -> str:
    """Compare decrypted logits with those of the integer model in the clear, where it is here."""
    rows = []
    clear_values: Sequence[int | None] = [None] * len(logits) if clear is None else clear
    for label, decrypted, exact in zip(public.labels, logits, clear_values, strict=True):
        cells = [f'<th scope="row">{escape(label)}</th>', f"<td>{decrypted}</td>"]
        if exact is not None:
            cells += [f"<td>{exact}</td>", f"<td>{decrypted - exact:+d}</td>"]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    heads = ["label", "decrypted", *(["in the clear", "difference"] if clear is not None else [])]
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    if clear is None:
        said = f"Only {place.name} has this model, so there is nothing to compare with."
    elif list(logits) == list(clear):
        said = "They are equal."
    else:
        said = "Encrypted rounding can go either way at the border of two values: they differ."
    return (
        f"<table><caption>Logits, in integer steps of {public.logit_scale:.3g}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table><p>{escape(said)}</p>"
    )


def show_learned(public: PublicModel, reading: Reading, request_bytes: int, place: Place) -> str:
    """Say what the side that runs the layers could learn of this text, and what it couldn't."""
    bucket = reading.bucket
    shorter = max((other for other in public.buckets if other < bucket), default=0)
    numbers = f"{shorter + 1} to {bucket}" if shorter + 1 < bucket else f"{bucket}"
    longer = " or would fill more" if reading.is_longest else ""
    who = (
        f"who asked, by the token, and from which address; this server is {place.name}"
        if place.server
        else "nobody else is there: both sides run in this process and exchange only these bytes"
    )
    learned = (
        f"the length of the circuits: the text fills {numbers} positions{longer}",
        f"the size of the request, {request_bytes:,} bytes, which each text of these circuits has",
        "when it was asked, how often, and how long it took, which doesn't depend on the words",
        who,
        "the evaluation keys, with which nobody can decrypt",
    )
    hidden = ("the text", "its tokens, and which were cut", "the logits", "the label")
    return (
        f"<p>The side that runs the layers could learn:</p>{_items(learned)}"
        f"<p>It could not learn:</p>{_items(hidden)}"
        "<p>It is taken to compute what it should. Nothing proves that it did. This page tells "
        "nobody what came out; whoever saw the ciphertexts must not learn it.</p>"
    )


def _items(items: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"


def _how_far(progress: Progress) -> str:
    if progress.result is not None:
        return f"Done in {progress.result.seconds:.1f} s."
    if progress.error is not None:
        return "Stopped."
    step = progress.current.name if progress.current else "starting"
    left = progress.remaining_s()
    return f"Now: {step}." + (f" About {left:.0f} s left." if left is not None else "")


def _step(step: Step, place: Place) -> str:
    at_client = step.name in AT_THE_CLIENT
    where = "client" if at_client else "server"
    lookups = "" if at_client else f"{step.lookups:,}"
    seconds = "now" if step.seconds is None else f"{step.seconds:.2f}"
    return (
        f'<tr><th scope="row">{escape(step.name)}</th><td>{where}</td><td>{lookups}</td>'
        f"<td>{seconds}</td></tr>"
    )
