"""Messages and keys survive the way; whatever else arrives is one clear error."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.messages import (
    Request,
    Response,
    pack_keys,
    pack_secret_keys,
    unpack_keys,
    unpack_secret_keys,
)

MESSAGE = Request(8, {"x.0": b"abc", "padding.0": b""})
HASH = "0f" * 32
LONG = int("9" * 4300)  # Python reads and prints a number of no more digits


@given(st.integers(0, 1000), st.dictionaries(st.text(max_size=9), st.binary(max_size=99)))
def test_a_message_comes_back(n: int, ciphertexts: dict[str, bytes]) -> None:
    assert Response.from_bytes(Response(n, ciphertexts).to_bytes()) == Response(n, ciphertexts)


def test_pieces_come_back_and_are_told_where_there_are_several() -> None:
    several = Request(8, {"x": b"abc"}, 3)
    assert Request.from_bytes(several.to_bytes()) == several
    assert b"pieces" in several.to_bytes() and b"pieces" not in MESSAGE.to_bytes()
    assert Request.from_bytes(MESSAGE.to_bytes()).pieces == 1


@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        Request.from_bytes(data)
    with pytest.raises(InputError):
        unpack_keys(HASH, data)


def test_every_cut_is_refused() -> None:
    data = MESSAGE.to_bytes()
    for end in range(len(data)):
        with pytest.raises(InputError, match="cut|no request|header|bytes"):
            Request.from_bytes(data[:end])
    with pytest.raises(InputError, match="its header says"):
        Request.from_bytes(data + b"!")


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"n": 8},
        {"n": "8", "sizes": {}},
        {"n": 8, "sizes": {"x": -1}},
        {"n": 8, "sizes": [1]},
        {"n": 8, "pieces": "2", "sizes": {}},
        {"n": LONG, "sizes": {}},
        {"n": 8, "pieces": LONG, "sizes": {}},
        {"n": 8, "sizes": {"x": LONG, "y": LONG}},
        '{"n": 8, "sizes": {"x": %s}}' % ("9" * 5000),
        "[" * 60_000,
    ],
)
def test_a_wrong_header_is_refused(header: object) -> None:
    data = (header if isinstance(header, str) else json.dumps(header)).encode()
    data = b"FHEI\x02" + len(data).to_bytes(4, "little") + data
    with pytest.raises(InputError, match="header"):
        Request.from_bytes(data + hashlib.sha256(data).digest())


def test_a_damaged_message_is_refused() -> None:
    data = bytearray(MESSAGE.to_bytes())
    data[-33] ^= 1
    with pytest.raises(InputError, match="a request was damaged"):
        Request.from_bytes(bytes(data))


def test_keys_of_other_circuits_are_refused() -> None:
    packed = pack_keys(HASH, b"secret")
    assert unpack_keys(HASH, packed) == b"secret"
    with pytest.raises(InputError, match="belong to other circuits"):
        unpack_keys("1f" * 32, packed)
    secret = pack_secret_keys(HASH, b"secret")
    assert unpack_secret_keys(HASH, secret) == b"secret"
    with pytest.raises(InputError, match="belong to other circuits"):
        unpack_secret_keys("1f" * 32, secret)
    with pytest.raises(InputError, match="no evaluation keys"):
        unpack_keys(HASH, secret)
    for version in (1, 3):
        with pytest.raises(InputError, match=f"format {version}, this version reads 2"):
            unpack_secret_keys(HASH, secret[:4] + bytes([version]) + secret[5:])


@given(st.integers(0, 74), st.integers(1, 255))
def test_a_changed_byte_of_secret_keys_is_noticed(place: int, change: int) -> None:
    data = bytearray(pack_secret_keys(HASH, b"secret"))
    data[place] ^= change
    with pytest.raises(InputError):
        unpack_secret_keys(HASH, bytes(data))
