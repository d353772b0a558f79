"""The server's own page in a real browser: what users with a token see, and nobody else does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.browsing import NARROW, missing, visit
from tests.fhe_inhibitor.conftest import Tiny, User
from tests.fhe_inhibitor.service.api import Api
from tests.fhe_inhibitor.service.serving import Serving, serve

pytestmark = [pytest.mark.browser]
if lacking := missing("playwright"):
    pytestmark.append(pytest.mark.skip(reason=f"tests of this page need {lacking}"))
READY = "#state.good"


@pytest.fixture(scope="module")
def worked(
    tiny: Tiny, user: User, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Serving, str]]:
    """A server of this file's own that did one job; its id."""
    with serve(tiny.folder, tiny.cache, tmp_path_factory.mktemp("status") / "data") as serving:
        alice = Api(serving.url, serving.token, user.keys)
        alice.upload()
        job = alice.start(user.request)
        user.check(alice.result(job))
        yield serving, job


def by_name(page: Any, section: str) -> dict[str, str]:
    """Return what a section shows, by its names."""
    names = page.locator(f"#{section} dt").all_inner_texts()
    return dict(zip(names, page.locator(f"#{section} dd").all_inner_texts(), strict=True))


def give_token(page: Any, token: str) -> None:
    page.locator("#token").fill(token)
    page.keyboard.press("Enter")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", [NARROW, (1280, 800)])
def test_a_user_sees_the_counts(
    browser: Any, worked: tuple[Serving, str], user: User, size: tuple[int, int], dark: bool
) -> None:
    server, job = worked
    with visit(browser, server.url, size, dark) as seen:
        page = seen.page
        page.wait_for_selector(READY)
        assert not page.locator("#overview").is_visible()
        assert seen.pale() == []
        give_token(page, server.token)
        page.wait_for_selector("#overview")
        assert by_name(page, "queue") == {"waiting": "0", "longest wait": "none", "running": "0"}
        assert by_name(page, "jobs")["done"] == "1"
        assert by_name(page, "workers")["ready"] == "1 of 1"
        assert float(by_name(page, "workers")["lookups per second"]) > 0
        assert by_name(page, "keys")["complete"] == "1"
        digest = hashlib.sha256(user.keys).hexdigest()
        text = page.inner_text("body")
        assert not any(hidden in text for hidden in (job, digest, "alice", server.token))
        assert seen.pale() == []
        seen.check(server.url)


def test_the_page_goes_by_keyboard_and_keeps_no_token(
    browser: Any, worked: tuple[Serving, str]
) -> None:
    server, _ = worked
    with visit(browser, server.url) as seen:
        page = seen.page
        page.wait_for_selector("#ask")
        assert seen.tab_to("#token") == 1
        page.keyboard.type(server.token)
        assert seen.tab_to("button") == 1
        page.keyboard.press("Enter")
        page.wait_for_selector("#overview")
        assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [
            0,
            0,
            "",
        ]
        page.reload()
        page.wait_for_selector("#ask")
        seen.check(server.url)


def test_a_wrong_token_is_told_in_plain_english(browser: Any, worked: tuple[Serving, str]) -> None:
    server, _ = worked
    with visit(browser, server.url) as seen:
        seen.page.wait_for_selector("#ask")
        give_token(seen.page, "wrong")
        seen.page.wait_for_selector("#refused:not(:empty)")
        assert seen.page.inner_text("#refused") == "The server doesn't know this token."
        assert not seen.page.locator("#overview").is_visible()


def test_a_server_that_is_gone_is_told_and_its_return_noticed(
    browser: Any, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data_dir = tmp_path_factory.mktemp("gone") / "data"
    with (
        serve(tiny.folder, tiny.cache, data_dir, open_status=True) as server,
        visit(browser, server.url) as seen,
    ):
        seen.page.wait_for_selector("#overview")
        server.stop()
        seen.page.wait_for_selector("#state.bad")
        assert "can't be reached" in seen.page.inner_text("#state")
        server.start()
        seen.page.wait_for_selector(READY)
