"""The parts of the page: true to what is known, and no text becomes markup."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest

from fhe_inhibitor.app import panels
from fhe_inhibitor.app.panels import Place
from fhe_inhibitor.app.reading import Part, Reading, read
from fhe_inhibitor.app.run import Crossing, Progress
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.integer.public import PublicModel
from fhe_inhibitor.runtime.classifier import Classification
from fhe_inhibitor.runtime.costs import StageCost
from tests.tiny_model import write_tiny_model

HERE, THERE = Place(), Place("https://host:8765")
EVIL = "<script>alert(1)</script>"
RESULT = Classification(
    text="good", label="positive", probability=0.75, tokens=("good",), n_tokens=1, n_positions=2,
    logits=(-5, 9), clear_logits=(-5, 7), logit_scale=0.01,
    stages=(StageCost("encrypt", 0.01), StageCost("layer0.attend", 1.5, {4: 30, 5: 10}),
            StageCost("decrypt", 0.002)),
    seconds=1.6, request_bytes=1234, response_bytes=99,
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PublicModel:
    return IntegerModel.load(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny"))


class Text(HTMLParser):
    """Text and tags of a part, which must be balanced."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data.split()

    @property
    def said(self) -> str:
        return " ".join(self.words)


def test_read_and_cut_tokens_are_told_apart_without_colours(model: PublicModel) -> None:
    text = Text(panels.show_reading(read(model, "good film dull but bad", 2)))
    assert text.tags.count("mark") == 2 + 1 and text.tags.count("del") == 3 + 1, "and the legend"
    assert "5 tokens. The 2 most important are read , 3 are cut" in text.said
    assert "2 positions" in text.said
    assert "All 1 tokens" in Text(panels.show_reading(read(model, "good", 2))).said


def test_no_text_becomes_markup(model: PublicModel) -> None:
    reading = read(model, "good", 2)
    evil = Reading((Part(EVIL, "read"), Part(EVIL, "cut")), reading.tokens, 2, True)
    result = replace(RESULT, label=EVIL)
    progress = Progress(has_begun=True, notes=[EVIL])
    progress.begin(0.0, EVIL)
    place = Place(f"https://{EVIL}")
    shown = [
        panels.show_reading(evil),
        panels.show_error(EVIL),
        panels.show_progress(progress, place),
        panels.show_wire({"request": Crossing(24, EVIL.encode())}, place),
        panels.show_label(result),
        panels.show_logits(replace(model, labels=(EVIL, "b")), (1, 2), None, place),
        panels.show_learned(model, reading, 100, place),
    ]
    for html in shown:
        assert "<script" not in html
        assert "script" not in Text(html).tags


def test_bytes_are_shown_as_they_are() -> None:
    first = bytes(range(20))
    crossings = {"request": Crossing(12345, first), "evaluation keys": Crossing(10**6, b"")}
    html = panels.show_wire(crossings, THERE)
    said = Text(html).said
    assert "12,345 bytes. The first 20: 00 01 02 03 04 05 06 07 ........" in said
    dumped = html.partition("<pre")[2].partition(">")[2].partition("</pre>")[0]
    digits = "".join(line[: 3 * panels.ROW_BYTES - 1] for line in dumped.splitlines())
    assert bytes.fromhex(digits) == first
    assert "1,000,000 bytes. The server had them from before" in said
    assert "encrypted logits. Not yet" in said


def test_logits_are_compared_where_both_are_here(model: PublicModel) -> None:
    said = Text(panels.show_logits(model, (-5, 9), (-5, 7), HERE)).said
    assert "negative -5 -5 +0 positive 9 7 +2" in said and "they differ" in said
    assert "They are equal" in Text(panels.show_logits(model, (1, 2), (1, 2), HERE)).said
    alone = Text(panels.show_logits(model, (-5, 9), None, THERE)).said
    assert "negative -5 positive 9" in alone and "Only https://host:8765 has" in alone


def test_what_is_learned_is_the_length_of_the_circuits(model: PublicModel) -> None:
    def said(text: str, most: int, place: Place = HERE) -> str:
        return Text(panels.show_learned(model, read(model, text, most), 777, place)).said

    assert "the text fills 1 to 2 positions the size of the request, 777" in said("good", 4)
    assert "fills 3 to 4 positions or would fill more" in said("good film is", 4)
    assert "fills 1 to 2 positions or would fill more" in said("good film is", 2)
    assert "by the token" in said("good", 4, THERE) and "nobody else is there" in said("good", 4)
    for hidden in ("good", "positive"):
        assert hidden not in said("good", 4)


def test_progress_says_where_it_is_and_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("fhe_inhibitor.app.run.time.monotonic", lambda: now[0])
    progress = Progress()
    assert "another text" in Text(panels.show_progress(progress, HERE)).said
    progress.has_begun = True
    assert "Now: starting." in Text(panels.show_progress(progress, HERE)).said
    progress.plan(100.0, 40, "lookups")
    progress.begin(100.0, "encrypt")
    progress.begin(101.0, "layer0.attend.head0")
    progress.finish(105.0, 10)
    progress.begin(105.0, "layer0.attend.head1")
    now[0] = 107.0
    said = Text(panels.show_progress(progress, HERE)).said
    assert "Now: layer0.attend. About 13 s left." in said
    assert "encrypt client 1.00 layer0.attend server 10 now" in said
    done = panels.with_times(progress, RESULT)
    said = Text(panels.show_progress(done, HERE)).said
    assert "Done in 1.6 s." in said and "layer0.attend server 40 1.50" in said
    assert "About" not in said
