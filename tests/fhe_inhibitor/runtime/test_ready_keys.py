"""Keys are read once while they fit, and never those that are damaged."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.ready_keys import ReadyKeys


class Reads:
    """A server for which any bytes are keys; remembers which it read."""

    def __init__(self) -> None:
        self.read: list[bytes] = []

    def read_evaluation_keys(self, data: bytes) -> bytes:
        self.read.append(data)
        return data


def get(keys: ReadyKeys, server: Any, data: bytes) -> Any:
    return keys.get(data, hashlib.sha256(data).hexdigest(), lambda: data, server)


def test_those_used_last_stay_within_the_limit() -> None:
    keys, server = ReadyKeys(25), Reads()
    a, b, c = b"a" * 10, b"b" * 10, b"c" * 10
    for data in (a, b, a, c, a):  # c takes the place of b
        assert get(keys, server, data) == data
    assert server.read == [a, b, c]
    get(keys, server, b)
    assert server.read == [a, b, c, b]


def test_one_client_s_keys_are_kept_however_large() -> None:
    keys, server = ReadyKeys(0), Reads()
    for _ in range(3):
        get(keys, server, b"large")
    assert server.read == [b"large"]


def test_damaged_keys_are_refused_and_not_kept() -> None:
    keys, server = ReadyKeys(100), Reads()
    for _ in range(2):
        with pytest.raises(InputError, match="damaged"):
            keys.get("name", "0" * 64, lambda: b"others", server)
    assert server.read == []
