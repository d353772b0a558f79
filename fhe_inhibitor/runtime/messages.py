"""Bytes between client and server: named ciphertexts behind a JSON header.

    "FHEI" | format, 1 byte | length of the header, 4 bytes | header, JSON | ciphertexts

The header gives the number of tokens, then name and size of each ciphertext. A ciphertext is a
serialized Concrete value; what is inside is for the server's circuits to check.

Keys, both those for evaluation and a client's own file, are Concrete's bytes behind

    "FHEK" | format, 1 byte | hash of the keys' parameters, 32 bytes

because keys of other circuits crash the process that uses them, instead of being refused.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from fhe_inhibitor.errors import InputError

MAGIC, KEYS_MAGIC = b"FHEI", b"FHEK"
FORMAT = 1
_PREFIX = struct.Struct("<4sBI")
_KEYS_PREFIX = struct.Struct("<4sB32s")
KEYS_HEADER_BYTES = _KEYS_PREFIX.size
MAX_HEADER_BYTES = 1 << 16


@dataclass(frozen=True)
class Message:
    """Ciphertexts by name, for a sequence of n tokens.

    >>> Message.from_bytes(Message(4, {"x": b"..."}).to_bytes())
    Message(n=4, ciphertexts={'x': b'...'})
    """

    n: int
    ciphertexts: Mapping[str, bytes]

    def to_bytes(self) -> bytes:
        """Return the message as bytes."""
        sizes = {name: len(data) for name, data in self.ciphertexts.items()}
        header = json.dumps({"n": self.n, "sizes": sizes}).encode()
        return b"".join(
            [_PREFIX.pack(MAGIC, FORMAT, len(header)), header, *self.ciphertexts.values()]
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote. Raises InputError for anything else, cut data included."""
        kind = cls.__name__.lower()
        if len(data) < _PREFIX.size:
            raise InputError(f"a {kind} of {len(data)} bytes is cut: send all of it")
        magic, version, header_size = _PREFIX.unpack_from(data)
        if (magic, version) != (MAGIC, FORMAT) or header_size > MAX_HEADER_BYTES:
            raise InputError(f"these {len(data)} bytes are no {kind} of format {FORMAT}")
        start = _PREFIX.size + header_size
        try:
            header = json.loads(data[_PREFIX.size : start])
            n, sizes = header["n"], header["sizes"]
            valid = all(type(size) is int and size >= 0 for size in [n, *sizes.values()])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"the header of a {kind} can't be read: send it again") from error
        size = start + sum(sizes.values()) if valid else -1
        if len(data) != size:
            raise InputError(f"a {kind} has {len(data)} bytes, its header says {size}")
        ciphertexts = {}
        for name, size in sizes.items():
            ciphertexts[name] = data[start : start + size]
            start += size
        return cls(n, ciphertexts)


class Request(Message):
    """A client's encrypted input."""


class Response(Message):
    """A server's encrypted logits."""


def whole_stream(data: bytes) -> bytes:
    """Return bytes that are one whole Cap'n Proto stream, as Concrete serializes all it has.

    Little-endian uint32: number of segments less 1, size of each in words of 8 bytes; then the
    segments, from a multiple of 8 on. Concrete itself believes a forged size: its reader takes
    16 GB, or writes error messages for half a minute. Raises RuntimeError for other bytes, as that
    reader does.

    >>> whole_stream(bytes([0, 0, 0, 0, 1, 0, 0, 0]) + bytes(8)).hex()
    '00000000010000000000000000000000'
    >>> whole_stream(b"garbage")
    Traceback (most recent call last):
    ...
    RuntimeError: not a whole Cap'n Proto stream
    """
    n_segments = int.from_bytes(data[:4], "little") + 1
    start = 8 * (n_segments // 2 + 1)
    if len(data) >= start:
        sizes = struct.unpack_from(f"<{n_segments}I", data, 4)
        if len(data) == start + 8 * sum(sizes):
            return data
    raise RuntimeError("not a whole Cap'n Proto stream")


def pack_keys(parameters_hash: str, keys: bytes) -> bytes:
    """Return keys behind the hash, 64 hexadecimal digits, of their parameters."""
    return _KEYS_PREFIX.pack(KEYS_MAGIC, FORMAT, bytes.fromhex(parameters_hash)) + keys


def unpack_keys(parameters_hash: str, data: bytes) -> bytes:
    """Return the keys in what `pack_keys` gave.

    Raises InputError for anything else, and for keys with other parameters.

    >>> unpack_keys("ab" * 32, pack_keys("ab" * 32, b"..."))
    b'...'
    """
    if len(data) < _KEYS_PREFIX.size:
        raise InputError(f"keys of {len(data)} bytes are cut: send all of them")
    magic, version, digest = _KEYS_PREFIX.unpack_from(data)
    if (magic, version) != (KEYS_MAGIC, FORMAT):
        raise InputError(f"these {len(data)} bytes are no keys of format {FORMAT}")
    if digest.hex() != parameters_hash:
        raise InputError(
            f"keys for parameters {digest.hex()[:12]}, wanted {parameters_hash[:12]}: they belong "
            "to other circuits; generate new ones"
        )
    return data[_KEYS_PREFIX.size :]
