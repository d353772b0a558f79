"""What the environment says about the way to a server is used, or named where it is wrong."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from fastapi import Response

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.remote.address import find_proxy, parse_address
from fhe_inhibitor.remote.client import AsyncRemoteClient, RemoteClient, RemoteOptions
from fhe_inhibitor.remote.connection import Connection
from fhe_inhibitor.remote.errors import NotFound, ServerUnreachable
from fhe_inhibitor.runtime.protocol import ModelList
from tests.fhe_inhibitor.remote.test_connection import MODEL, ask, json
from tests.fhe_inhibitor.runtime.scripted import scripted_server

VARIABLES = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "SSLKEYLOGFILE",
)


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:99999", "http://127.0.0.1:0", "http://a..b", f"http://{'a' * 70}.example"],
)
def test_what_no_socket_takes_is_no_address(url: str) -> None:
    with pytest.raises(InputError, match="is no address"):
        parse_address(url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8765/v1", "https://host/behind/v1/"])
def test_the_prefix_is_to_be_left_out(url: str) -> None:
    with pytest.raises(InputError, match="leave out /v1"):
        parse_address(url)
    assert parse_address(url.rstrip("/").removesuffix("/v1"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NO_PROXY", "localhost,[::1]"),
        ("HTTP_PROXY", "http://127.0.0.1:9"),
        ("ALL_PROXY", "socks5://127.0.0.1:9"),
        ("SSL_CERT_FILE", "/nonexistent"),
    ],
)
def test_this_machine_needs_neither_proxies_nor_certificates(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with scripted_server() as server:
        server.answers = {"GET /models": [json(ModelList(models=[MODEL]))]}
        assert ask(server, Connection.models) == [MODEL]


@pytest.mark.parametrize(
    ("no_proxy", "found"),
    [
        ("", "http://proxy:3128"),
        ("other.example", "http://proxy:3128"),
        ("[::1],host.example", None),
        (".example", None),
        ("*", None),
    ],
)
def test_a_proxy_is_asked_unless_the_host_is_excepted(
    monkeypatch: pytest.MonkeyPatch, no_proxy: str, found: str | None
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "proxy:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert find_proxy(httpx.URL("https://host.example:8765")) == found
    assert find_proxy(httpx.URL("http://host.example:8765")) is None


def test_a_proxy_that_is_not_there_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch, closed_port: int
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://user:secret@127.0.0.1:{closed_port}")
    words = f"through the proxy http://127.0.0.1:{closed_port} "
    with pytest.raises(ServerUnreachable, match=words) as caught:
        ask("http://host.example", Connection.models, insecure=True)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("proxy", ["socks5://u:secret@proxy:9", "ftp://proxy", "http://proxy:port"])
def test_a_proxy_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(
        InputError, match=r"the proxy .*proxy.* ALL_PROXY\) can't be used"
    ) as caught:
        ask("http://host.example", Connection.models, insecure=True)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SSL_CERT_FILE", "/nonexistent/x, which SSL_CERT_FILE names, holds no certificates"),
        ("SSL_CERT_DIR", "/nonexistent/x, which SSL_CERT_DIR names, is no folder"),
        ("SSLKEYLOGFILE", "/nonexistent/x, which SSLKEYLOGFILE names, cannot be written"),
    ],
)
def test_files_for_https_that_the_environment_names_are_blamed(
    monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    monkeypatch.setenv(name, "/nonexistent/x")
    with pytest.raises(InputError, match=words):
        ask("https://host.example", Connection.models)


def test_another_program_at_the_address_is_told() -> None:
    with scripted_server() as server:
        server.answers = {"GET /models": [Response("nothing here", 404)]}
        with pytest.raises(NotFound, match="404: Not Found, but not as a server of fhe-inhibitor"):
            ask(server, Connection.models)


def test_a_name_of_a_model_is_one_part_of_the_path() -> None:
    file = MODEL.files[0].model_copy(
        update={"sha256": "5feceb66ffc86f38d952786c6d696c79c2dbc239dd4e91b46729d73a27fb57e9"}
    )
    with scripted_server() as server:
        server.answers = {f"GET /models/a%2Fb/files/{file.name}": [Response(b"0")]}
        assert ask(server, lambda c: c.model_file("a%2Fb", file)) == b"0"


def test_a_client_that_nobody_closes_is_quiet_and_ends_with_the_program(closed_port: int) -> None:
    code = f"""
from fhe_inhibitor.remote.client import RemoteClient
from fhe_inhibitor.remote.errors import ServerUnreachable
try:
    RemoteClient("http://127.0.0.1:{closed_port}", "token").connect()
except ServerUnreachable:
    pass
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == done.stderr == ""


def test_a_closed_client_says_so(tmp_path: Path) -> None:
    arguments = ("http://127.0.0.1:1", "token", RemoteOptions(keys_dir=tmp_path))
    client = RemoteClient(*arguments)
    client.close()
    with pytest.raises(InputError, match="closed"):
        client.classify("a film")

    async def close_then_ask() -> None:
        async with AsyncRemoteClient(*arguments) as client:
            pass
        await client.classify("a film")

    with pytest.raises(InputError, match="closed"):
        asyncio.run(close_then_ask())
