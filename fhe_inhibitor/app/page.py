"""The page in Gradio: what is on it, and what happens when somebody types, picks, sends, stops.

Nothing is kept between two texts, and nothing is shared between two visitors but the engine, which
takes one text after the other. Gradio's own records of what was run are off.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from html import escape
from typing import Any

from fhe_inhibitor.app import panels
from fhe_inhibitor.app.engine import KEYS, Engine
from fhe_inhibitor.app.panels import Place
from fhe_inhibitor.app.reading import Reading, read
from fhe_inhibitor.app.run import Progress
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.integer.public import PublicModel
from fhe_inhibitor.runtime.classifier import Classification

TITLE = "fhe-inhibitor"
MAX_CHARACTERS = 20_000
EXAMPLES = (
    "a gripping , funny film",
    "too long , too loud , and dull",
    "the acting is fine , but nothing in this story ever surprised me , and i looked at my watch "
    "twice before the end",
)
FONTS = {
    "font": ["system-ui", "sans-serif"],
    "font_mono": ["ui-monospace", "monospace"],
}
CSS = """
.gradio-container { max-width: 62rem !important; margin: 0 auto !important; }
.said h2 { font-size: 1.1rem; margin: 0 0 0.5rem; }
.said .text { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 2; font-size: 1.1rem; }
.said mark { background: #1a5fb4; color: #ffffff; padding: 0.1rem 0.2rem; border-radius: 3px; }
.said del { color: inherit; text-decoration: line-through 2px; }
.said .error { font-weight: 600; padding: 0.5rem 0.8rem; border-left: 4px solid #a51d2d; }
.said .label { font-size: 1.6rem; font-weight: 700; margin: 0; }
.said table { width: 100%; border-collapse: collapse; margin: 0.5rem 0; font-size: 0.9rem; }
.said table, .said thead, .said tbody, .said tr { border: 0 !important; background: none; }
.said caption { text-align: left; }
.said th, .said td { text-align: left; font-weight: 400; padding: 0.2rem 0.5rem 0.2rem 0;
  border: 0; border-bottom: 1px solid var(--border-color-primary) !important; }
.said th[scope=row] { overflow-wrap: anywhere; }
.said td { font-variant-numeric: tabular-nums; white-space: nowrap; }
.said pre { font-size: 0.8rem; overflow: auto; max-height: 11rem;
  margin: 0.3rem 0 0.8rem !important; padding: 0.5rem;
  border: 1px solid var(--border-color-primary); }
.said dt { font-weight: 600; }
.said dd { margin: 0; }
.said ul { padding-left: 1.2rem; list-style: disc; }
.said progress { width: 100%; height: 1rem; accent-color: #1a5fb4; }
:focus-visible { outline: 3px solid #3584e4 !important; outline-offset: 2px; }
"""
# Gradio has no way to say so of an HTML part.
ANNOUNCE = """() => {
  document.documentElement.lang = "en";
  for (const id of ["outcome", "tokens"])
    document.getElementById(id)?.setAttribute("aria-live", "polite");
}"""
TITLES = {
    "tokens": "What is read",
    "outcome": "Result",
    "steps": "Stages",
    "wire": "What passes between client and server",
    "logits": "Decrypted logits and those in the clear",
    "learned": "What the server could learn",
}


def gradio() -> Any:
    """Return Gradio, which reports nothing to its makers.

    Raises ModuleNotFoundError without the extra `app`.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    import gradio

    return gradio


def build_page(engine: Engine, public: PublicModel, clear: IntegerModel | None) -> Any:
    """Return the page, Gradio's Blocks. clear: the integer model to compare with, if any."""
    gr = gradio()
    place = Place(getattr(engine.source, "server", None))
    classify = _Classify(engine, public, clear, place)
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.HTML(_introduction(public, place), elem_classes="said", padding=False)
        text = gr.Textbox(
            label="Text", lines=1, max_lines=6, max_length=MAX_CHARACTERS, submit_btn=False,
            elem_id="text", placeholder="Type a sentence, or pick one below",
        )  # fmt: skip
        tokens = gr.Radio(
            [str(bucket) for bucket in public.buckets],
            value=str(public.bucket(public.default_tokens)),
            label="Tokens read at most; fewer are faster",
            elem_id="most",
        )
        with gr.Row():
            send = gr.Button("Classify, encrypted", variant="primary", elem_id="send")
            stop = gr.Button("Stop", elem_id="stop")
        gr.Examples([[example] for example in EXAMPLES], text, label="Or pick a sentence")
        parts = [gr.HTML(elem_classes="said", elem_id=name) for name in TITLES]
        given, quiet = [text, tokens], {"show_progress": "hidden", "api_visibility": "private"}
        gr.on(
            [text.change, tokens.change], classify.mark, given, parts[0], queue=False,
            trigger_mode="always_last", **quiet,
        )  # fmt: skip
        started = gr.on(
            [text.submit, send.click], classify.run, given, parts, concurrency_limit=16,
            trigger_mode="once", **quiet,
        )  # fmt: skip
        stop.click(None, cancels=[started], queue=False, api_visibility="private")
        page.load(None, js=ANNOUNCE, api_visibility="private")
    return page


class _Classify:
    """What the page does with a text."""

    def __init__(
        self, engine: Engine, public: PublicModel, clear: IntegerModel | None, place: Place
    ) -> None:
        self._engine, self._public, self._clear, self._place = engine, public, clear, place

    def mark(self, text: str, most: str) -> str:
        """Return the text with its tokens marked; nothing while there is none."""
        if not text.strip():
            return ""
        try:
            return _titled(panels.show_reading(read(self._public, _limited(text), int(most))))[0]
        except InputError as error:
            return _titled(panels.show_error(str(error)))[0]

    def run(self, text: str, most: str) -> Iterator[tuple[str, ...]]:
        """Yield the parts of the page until the label is there."""
        try:
            reading = read(self._public, _limited(text), int(most))
        except InputError as error:
            yield _titled("", panels.show_error(str(error)))
            return
        marked, crossings = panels.show_reading(reading), {KEYS: self._engine.keys}
        run = self._engine.start(text, int(most))
        try:
            for progress in run.follow():
                crossings |= progress.crossings
                wire = panels.show_wire(crossings, self._place)
                if progress.result is not None:
                    yield _titled(marked, *self._show(progress, progress.result, wire, reading))
                    continue
                outcome = "<p>Working on ciphertexts.</p>"
                if progress.error is not None:
                    outcome = panels.show_error(progress.error)
                yield _titled(marked, outcome, panels.show_progress(progress, self._place), wire)
        finally:
            self._engine.stop(run)

    def _show(
        self, progress: Progress, result: Classification, wire: str, reading: Reading
    ) -> tuple[str, ...]:
        """Return the parts from the result on."""
        clear = result.clear_logits
        if clear is None and self._clear is not None:
            encoded = self._clear.encode(reading.tokens)
            clear = tuple(self._clear.integer_logits(*encoded).tolist())
        place, public = self._place, self._public
        return (
            panels.show_label(result),
            panels.show_progress(panels.with_times(progress, result), place),
            wire,
            panels.show_logits(public, result.logits or (), clear, place),
            panels.show_learned(public, reading, result.request_bytes, place),
        )


def _titled(*contents: str) -> tuple[str, ...]:
    """Return all parts of the page with their headings; those that are not given are empty."""
    given = (*contents, *[""] * (len(TITLES) - len(contents)))
    return tuple(panels.titled(*part) for part in zip(TITLES.values(), given, strict=True))


def _limited(text: str) -> str:
    """Return a text that isn't too long to be shown. Raises InputError."""
    if len(text) > MAX_CHARACTERS:
        raise InputError(
            f"the text has {len(text):,} characters, this page takes {MAX_CHARACTERS:,}: shorten it"
        )
    return text


def _introduction(public: PublicModel, place: Place) -> str:
    where = (
        f"The layers run on <strong>{escape(place.name)}</strong>, which gets ciphertexts alone."
        if place.server
        else "The layers run in the same process here, on ciphertexts alone, as a server would run "
        "them."
    )
    return (
        f"<h1>A text that stays encrypted</h1><p>Model <strong>{escape(public.name)}</strong>. "
        f"This page is the client: it has your text, the secret keys and the label. {where}</p>"
    )


def theme() -> Any:
    """Return how the page looks: fonts of the system, which nobody else is asked for."""
    look = gradio().themes.Default(primary_hue="blue", **FONTS)
    strong = {f"button_primary_background_fill{end}": "*primary_700" for end in ("", "_dark")}
    return look.set(**strong)
