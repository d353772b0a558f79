"""One tiny model, three clients with keys and one server, for all tests that need a server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from circuits.intervals import interval, interval_lookup
from circuits.network import run
from compile.local.prepared import prepare_circuits
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.runtime.client import Client
from fhe_inhibitor.runtime.messages import Response
from tests.browsing import missing, open_browser
from tests.fhe_inhibitor.remote.remote_user import RemoteUser, remote_user
from tests.fhe_inhibitor.service.api import Api
from tests.fhe_inhibitor.service.serving import Serving, serve
from tests.networks import NetworkShape
from tests.tiny_model import write_tiny_model

TEXT = "a good film"
# Lookups of 4 bits instead of 5 halve keys and times; with this seed the bounds that a result is
# checked against stay narrow: 6 and 5 values of 46.
SEED = 2
SHAPE = NetworkShape(
    n_layers=1, dim=2, n_heads=1, key_dim=1, value_dim=1, last_key_dim=1, max_tokens=4,
    lookup_bits=4,
)  # fmt: skip


@dataclass(frozen=True)
class Tiny:
    """A tiny model: its folder, a cache with its circuits, and those."""

    folder: Path
    cache: Path
    circuits: Path
    model: IntegerModel


class User:
    """Somebody with keys and one encrypted text, whose result must be right.

    Right, not equal: each worker picks the FFT that it finds fastest when it starts, those differ
    in their last bits, and so do rounding's borderline cases after them.
    """

    def __init__(self, tiny: Tiny, text: str = TEXT) -> None:
        self.client = Client(tiny.circuits)
        self.client.generate_keys()
        self.keys = self.client.evaluation_keys()
        x, padding = tiny.model.encode(tiny.model.tokenize(text))
        self.request = self.client.encrypt(x, padding).to_bytes()
        network = tiny.model.network
        self._bounds = run(network, interval(x), interval(padding), interval_lookup)

    def check(self, response: bytes) -> None:
        """Check that a response is the result of the request."""
        logits = self.client.decrypt(Response.from_bytes(response))
        assert (self._bounds.low <= logits).all()
        assert (logits <= self._bounds.high).all()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = write_tiny_model(tmp_path_factory.mktemp("model") / "tiny", SEED, shape=SHAPE)
    model, cache = IntegerModel.load(folder), tmp_path_factory.mktemp("cache")
    return Tiny(folder, cache, prepare_circuits(model, cache), model)


@pytest.fixture(scope="module")  # its event loop would be in the way of others
def browser() -> Iterator[Any]:
    """A headless Chromium; tests that want one are skipped where there is none."""
    if lacking := missing("playwright"):
        pytest.skip(f"tests of pages need {lacking}")
    with open_browser() as running:
        yield running


@pytest.fixture(scope="session")
def user(tiny: Tiny) -> User:
    return User(tiny)


@pytest.fixture(scope="session")
def other_user(tiny: Tiny) -> User:
    return User(tiny)


@pytest.fixture(scope="session")
def server(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server that no test may stop or fill."""
    data_dir = tmp_path_factory.mktemp("service") / "data"
    with serve(tiny.folder, tiny.cache, data_dir) as serving:
        yield serving


@pytest.fixture(scope="session")
def alice(server: Serving, user: User) -> Api:
    """A user of that server whose keys are there."""
    api = Api(server.url, server.token, user.keys)
    api.upload()
    return api


@pytest.fixture(scope="session")
def bob(server: Serving, other_user: User) -> Api:
    """Another one."""
    api = Api(server.url, server.other_token, other_user.keys)
    api.upload()
    return api


@pytest.fixture(scope="session")
def carol(server: Serving, tmp_path_factory: pytest.TempPathFactory) -> RemoteUser:
    """A user whose keys are made and uploaded, and whose cache is full."""
    user = remote_user(server, "carol", tmp_path_factory.mktemp("carol"))
    with user.client() as client:
        client.prepare()
    return user
