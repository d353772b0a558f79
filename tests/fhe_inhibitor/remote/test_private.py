"""The token goes where nobody on the way can read it, unless the user says otherwise."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from fhe_inhibitor.cli.main import main
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.remote.client import AsyncRemoteClient, RemoteClient, RemoteOptions
from fhe_inhibitor.remote.errors import RemoteError

TOKEN, PASSWORD = "fhei_secret", "hunter2"


class Listener:
    """Takes what is sent to a port of all this machine's addresses, and hangs up."""

    def __init__(self) -> None:
        self.heard = b""
        self._socket = socket.create_server(("0.0.0.0", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with suppress(OSError):  # closed before
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._socket.close()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self.heard += connection.recv(4096)


@pytest.fixture
def listener() -> Iterator[Listener]:
    """A server that is not on loopback, as far as its address says."""
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture
def remote(listener: Listener) -> str:
    return f"http://0.0.0.0:{listener.port}"


def test_no_byte_goes_in_the_clear_to_another_machine(listener: Listener, remote: str) -> None:
    for kind in (RemoteClient, AsyncRemoteClient):
        with pytest.raises(InputError, match=r"others could read the token.*--insecure"):
            kind(remote, TOKEN)
    listener.close()
    assert listener.heard == b""


def test_it_does_if_the_user_says_so(listener: Listener, remote: str) -> None:
    with RemoteClient(remote, TOKEN, RemoteOptions(insecure=True, patience_s=0.1)) as client:
        assert not client.is_private
        with pytest.raises(RemoteError):
            client.connect()
    assert TOKEN.encode() in listener.heard


def test_a_server_that_nobody_verified_gets_no_token() -> None:
    with pytest.raises(InputError, match="verify the certificate"):
        RemoteClient("https://host", TOKEN, RemoteOptions(verify=False))
    with RemoteClient("https://host", TOKEN) as client:
        assert client.is_private


def test_a_proxy_gets_no_token_for_a_server_on_this_machine(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{listener.port}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    options = RemoteOptions(patience_s=0.1)
    with RemoteClient(url, TOKEN, options) as client, pytest.raises(RemoteError):
        client.connect()
    listener.close()
    assert listener.heard == b""


@pytest.mark.parametrize("address", ["host", "host:99999", "host/v1", "[::1"])
@pytest.mark.parametrize("scheme", ["http://", "https://", ""])
def test_a_password_in_the_address_is_refused_and_never_shown(address: str, scheme: str) -> None:
    with pytest.raises(InputError, match="no name and password") as caught:
        RemoteClient(f"{scheme}user:{PASSWORD}@{address}", TOKEN)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("command", [("classify", "good"), ("keys", "new")])
def test_commands_refuse_it_too(
    remote: str,
    listener: Listener,
    command: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FHE_INHIBITOR_TOKEN", TOKEN)
    with pytest.raises(SystemExit) as exit_:
        main([*command, "--server", remote])
    out, err = capsys.readouterr()
    assert (exit_.value.code, out, err.count("\n")) == (2, "", 1)
    assert "--insecure" in err and listener.heard == b""
    monkeypatch.setattr("fhe_inhibitor.remote.connection.FIRST_ATTEMPTS", 1)
    with pytest.raises(SystemExit) as exit_:
        main([*command, "--server", remote, "--insecure"])
    assert exit_.value.code == 1 and TOKEN.encode() in listener.heard
