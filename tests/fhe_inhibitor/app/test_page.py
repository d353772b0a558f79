"""The page in a real browser: a sentence goes in, the label comes out, and nobody else is asked."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fhe_inhibitor.app.page import EXAMPLES
from fhe_inhibitor.service.access import new_token
from tests.browsing import NARROW, PACKAGES, Visit, missing, open_browser, visit
from tests.conftest import REPOSITORY
from tests.fhe_inhibitor.conftest import Tiny
from tests.fhe_inhibitor.service.serving import Serving, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
if lacking := missing(*PACKAGES):
    pytestmark.append(pytest.mark.skip(reason=f"tests of this page need {lacking}"))

TEXT = "a good film and a dull film"
START_S = RUN_MS = 240_000


@contextmanager
def app(folder: Path, cache: Path, *arguments: str, **environment: str) -> Iterator[str]:
    """Run `fhe-inhibitor app` with keys of its own; yield its address."""
    folder.mkdir(exist_ok=True)
    out = folder / "out"
    places = {"FHE_INHIBITOR_CACHE": str(cache), "FHE_INHIBITOR_KEYS": str(folder / "keys")}
    with open(out, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "fhe_inhibitor", "app", "--port", "0", *arguments],
            cwd=REPOSITORY,
            env={**os.environ, **places, **environment},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )

    def url() -> str:
        assert process.poll() is None, out.read_text()
        return "".join(re.findall(r"Open (\S+);", out.read_text()))

    try:
        wait_until(url, START_S / 1000)
        yield url()
        assert "Traceback" not in out.read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@pytest.fixture(scope="module")
def url(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("app") / "here"
    with app(folder, tiny.cache, "--model", str(tiny.folder)) as url:
        yield url


def type_and_enter(seen: Visit, text: str) -> None:
    """Type a text, and send it by keyboard alone."""
    seen.page.wait_for_selector("#text textarea")
    seen.tab_to("#text textarea")
    seen.page.keyboard.type(text)
    seen.page.keyboard.press("Enter")


def logits(page: Any) -> list[list[int]]:
    """Return the numbers of the table of logits, a row for each label."""
    rows = page.locator("#logits tbody tr").all_inner_texts()
    return [[int(cell) for cell in row.split("\t")[1:]] for row in rows]


@pytest.mark.parametrize("dark", [False, True])
def test_a_sentence_goes_in_and_the_label_comes_out(
    browser: Any, url: str, tiny: Tiny, dark: bool
) -> None:
    with visit(browser, url, NARROW, dark) as seen:
        page = seen.page
        type_and_enter(seen, TEXT)
        page.wait_for_selector("#outcome .label", timeout=RUN_MS)
        tokens = tiny.model.tokenize(TEXT)
        clear = tiny.model.integer_logits(*tiny.model.encode(tokens)).tolist()
        shown = logits(page)
        assert [row[1] for row in shown] == clear
        assert all(decrypted - exact == off for decrypted, exact, off in shown)
        decrypted = [row[0] for row in shown]
        label = tiny.model.labels[decrypted.index(max(decrypted))]
        assert page.inner_text("#outcome .label") == label
        assert page.locator("#tokens .text mark").all_inner_texts() == list(tokens.tokens)
        assert page.locator("#tokens .text del").count() == tokens.n_cut
        steps = page.locator("#steps tbody th").all_inner_texts()
        assert steps == [
            "encrypt",
            "layer0.project",
            "layer0.attend",
            "layer0.feed_forward",
            "classify",
            "decrypt",
        ]
        begins = [sent[:11] for sent in page.locator("#wire pre").all_inner_texts()]
        assert begins == ["46 48 45 4b", "46 48 45 49", "46 48 45 49"], "FHEK, FHEI, FHEI"
        assert "fills 3 to 4 positions" in page.inner_text("#learned")
        assert seen.pale() == []
        seen.check(url)


def test_all_is_reached_by_keyboard(browser: Any, url: str) -> None:
    with visit(browser, url) as seen:
        page = seen.page
        page.wait_for_selector("#text textarea")
        assert seen.tab_to("#text textarea") == 1
        page.keyboard.type(TEXT)
        page.wait_for_selector("#tokens del")
        seen.tab_to("#most input")
        assert seen.tab_to("#send") <= 2
        assert seen.tab_to("#stop") == 1
        assert seen.tab_to("button.gallery-item") == 1
        page.keyboard.press("Enter")
        picked = f"document.querySelector('#text textarea').value == {EXAMPLES[0]!r}"
        page.wait_for_function(picked)
        assert page.evaluate("document.documentElement.lang") == "en"
        seen.check(url)


def test_what_is_wrong_is_told_in_plain_english(browser: Any, url: str) -> None:
    with visit(browser, url) as seen:
        type_and_enter(seen, "  ")
        seen.page.wait_for_selector("#outcome [role=alert]")
        said = seen.page.inner_text("#outcome [role=alert]")
        assert said == "The text is empty: pass a sentence with at least one word."
        seen.check(url)


def test_a_text_that_is_stopped_makes_room_for_the_next(browser: Any, url: str) -> None:
    with visit(browser, url) as first, visit(browser, url) as second:
        type_and_enter(first, TEXT)
        first.page.wait_for_selector("#steps td >> text=server")
        type_and_enter(second, "bad")
        second.page.wait_for_selector("#steps >> text=another text")
        first.page.click("#stop")
        second.page.wait_for_selector("#outcome .label", timeout=RUN_MS)
        assert second.page.locator("#tokens .text mark").all_inner_texts() == ["bad"]
        assert first.page.locator("#outcome .label").count() == 0
        first.check(url)
        second.check(url)


def classify_in_a_window(url: str, text: str) -> tuple[list[str], list[list[int]]]:
    """Classify in a browser of one's own; return the tokens that are marked, and the logits."""
    with open_browser() as browser, visit(browser, url) as seen:
        type_and_enter(seen, text)
        seen.page.wait_for_selector("#outcome .label", timeout=RUN_MS)
        return seen.page.locator("#tokens .text mark").all_inner_texts(), logits(seen.page)


def test_two_visitors_at_once_do_not_mix(url: str, tiny: Tiny) -> None:
    texts = ["good film", "bad"]
    with ThreadPoolExecutor(2) as threads:
        shown = list(threads.map(lambda text: classify_in_a_window(url, text), texts))
    for text, (marked, rows) in zip(texts, shown, strict=True):
        tokens = tiny.model.tokenize(text)
        assert marked == text.split()
        clear = tiny.model.integer_logits(*tiny.model.encode(tokens)).tolist()
        assert [row[1] for row in rows] == clear


def test_a_server_runs_the_layers(
    browser: Any, server: Serving, tiny: Tiny, tmp_path: Path
) -> None:
    token = new_token(Path(str(server.settings["tokens_file"])), "dora")
    with (
        app(tmp_path / "there", tmp_path, "--server", server.url, FHE_INHIBITOR_TOKEN=token) as url,
        visit(browser, url) as seen,
    ):
        page = seen.page
        type_and_enter(seen, "good film")
        page.wait_for_selector("#outcome .label", timeout=RUN_MS)
        assert server.url in page.inner_text("body")
        assert "by the token" in page.inner_text("#learned")
        assert token not in page.content()
        assert "nothing to compare with" in page.inner_text("#logits")
        assert page.locator("#wire pre").count() == 3
        seen.check(url)
