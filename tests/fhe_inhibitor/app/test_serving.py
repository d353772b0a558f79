"""The web server of the page, without a browser: what it answers, and to whom."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import socket
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fhe_inhibitor.app.engine import Engine, Here
from fhe_inhibitor.app.run import Crossing, Run
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.system.extras import install_command
from tests.fhe_inhibitor.app.test_panels import RESULT
from tests.tiny_model import write_tiny_model

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
pytest.importorskip("gradio", reason=f"needs the extra app: {install_command('app')}")


@pytest.fixture(scope="module", autouse=True)
def loops_that_gradio_leaves_open() -> Iterator[None]:
    """Gradio makes event loops for its locks and closes none; here they are no news."""
    yield
    asyncio.set_event_loop(None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


class ToldEngine(Engine):
    """An engine that tells what a text would have, without encrypting it."""

    def __init__(self) -> None:
        super().__init__(Here("tiny"))
        self.keys = Crossing(1000, b"FHEK")
        self.texts: list[str] = []
        self.stopped: list[Run] = []

    def start(self, text: str, max_tokens: int) -> Run:
        run = Run()
        self.texts.append(text)
        run.start()
        run.cross("request", 10, text.encode())
        run.end(RESULT, None)
        return run

    def stop(self, run: Run) -> None:
        self.stopped.append(run)


@pytest.fixture(scope="module")
def engine() -> Iterator[ToldEngine]:
    engine = ToldEngine()
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def asked() -> Iterator[list[str]]:
    """The hosts whose address this process asks for, and the addresses that it connects to."""
    hosts: list[str] = []
    connect = socket.socket.connect

    def note(host: Any, *_: Any, **__: Any) -> list[Any]:
        hosts.append(str(host))
        raise socket.gaierror

    def note_connection(self: socket.socket, address: Any) -> None:
        hosts.append(str(address))
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("socket.getaddrinfo", note)
        patch.setattr("socket.socket.connect", note_connection)
        yield hosts


@pytest.fixture(scope="module")
def page(asked: list[str], engine: ToldEngine, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from fhe_inhibitor.app.page import build_page

    model = IntegerModel.load(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny"))
    return build_page(engine, model, model)


@pytest.fixture(scope="module")
def client(page: Any) -> Iterator[Any]:
    from starlette.testclient import TestClient

    from fhe_inhibitor.app.serving import create_app

    with TestClient(create_app(page, ["127.0.0.1"]), base_url="http://127.0.0.1:7860") as client:
        yield client


def test_the_page_comes_from_here_alone(client: Any) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy
    loaded = re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"([^\"]+)\"", answer.text)
    assert loaded and not [address for address in loaded if "//" in address]
    style = client.get("/theme.css").text
    assert "@import" not in style and "googleapis" not in style
    config = client.get("/config").json()
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert config["analytics_enabled"] is False and config["run_history"] is False


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/upload", "/gradio_api/file=/etc/passwd", "/gradio_api/proxy=https://x.org/",
        "/gradio_api/info", "/gradio_api/runs", "/monitoring", "/docs", "/openapi.json", "/login",
    ],
)  # fmt: skip
def test_what_the_page_does_not_need_is_closed(client: Any, path: str) -> None:
    assert client.get(path).status_code == 404
    assert client.post(path, content=b"x").status_code == 404


def test_the_server_asks_nobody(client: Any, asked: list[str]) -> None:
    """Not while the page is made, nor while the application starts and shows it."""
    assert client.get("/").status_code == client.get("/config").status_code == 200
    time.sleep(0.2)  # Gradio would report in a thread
    assert asked == []
    with pytest.raises(OSError):
        socket.create_connection(("host.invalid", 80))
    assert asked.pop() == "host.invalid"


def test_other_names_and_other_pages_are_refused(client: Any) -> None:
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    for origin, status in (("http://127.0.0.1:7860", 200), ("https://evil.example", 403)):
        assert client.get("/", headers={"Origin": origin}).status_code == status


def test_two_visitors_do_not_mix(page: Any, engine: ToldEngine) -> None:
    """Each gets what came of its own text, whoever else asks meanwhile."""
    from fhe_inhibitor.app.page import TITLES

    (classify,) = [fn for fn in page.fns.values() if fn.fn is not None and fn.fn.__name__ == "run"]
    texts = [f"good film {'bad ' * n}" for n in range(8)]
    with ThreadPoolExecutor(8) as threads:
        shown = list(threads.map(lambda text: list(classify.fn(text, "4"))[-1], texts))
    assert sorted(engine.texts) == sorted(texts)
    assert len(engine.stopped) == len(texts), "a run that has ended is let go of"
    for text, parts in zip(texts, shown, strict=True):
        of = dict(zip(TITLES, parts, strict=True))
        assert of["tokens"].count(">bad<") == text.count("bad")
        assert f"{len(text.split())} tokens" in of["tokens"]
        assert "positive" in of["outcome"] and "+2" in of["logits"]


@pytest.mark.parametrize("text", ["", "   ", "\ud800", "x" * 20_001])
def test_a_text_that_is_none_is_told_in_words(page: Any, text: str) -> None:
    (classify,) = [fn for fn in page.fns.values() if fn.fn is not None and fn.fn.__name__ == "run"]
    (parts,) = classify.fn(text, "4")
    assert 'role="alert"' in parts[1] and "Error" not in parts[1]
    assert not any(parts[2:])
