"""Bytes between client and server: named ciphertexts behind a JSON header.

    "FHEI" | format, 1 byte | length of the header, 4 bytes | header, JSON | ciphertexts
    | SHA-256, 32 bytes

The SHA-256 is of all before it. TLS protects what is on its way; the digest is for what lay on a
disk, because a damaged ciphertext decrypts to a wrong label, not to an error. The header gives the
number of tokens, that of pieces if there are several, then name and size of each ciphertext. A
ciphertext is a serialized Concrete value; what is inside is for the server's circuits to check.

Evaluation keys are Concrete's bytes behind

    "FHEK" | format, 1 byte | hash of the keys' parameters, 32 bytes

because keys of other circuits crash the process that uses them, instead of being refused. They are
known by the SHA-256 of all of it. A client's own keys have it with them, format 2:

    "FHEK" | format, 1 byte | hash of the keys' parameters, 32 bytes | SHA-256, 32 bytes

of the parameters' hash and of the keys behind it. It tells damage. Who can write to the file can
write another digest: against that a passphrase helps (`system.private_files`), and the file's mode.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from fhe_inhibitor.errors import InputError

MAGIC, KEYS_MAGIC = b"FHEI", b"FHEK"
FORMAT, KEYS_FORMAT, SECRET_KEYS_FORMAT = 2, 1, 2
_PREFIX = struct.Struct("<4sBI")
_KEYS_PREFIX = struct.Struct("<4sB32s")
_DIGEST_BYTES = 32
KEYS_HEADER_BYTES = _KEYS_PREFIX.size
MAX_HEADER_BYTES = 1 << 16
MAX_COUNT = 1 << 31  # of tokens or pieces


@dataclass(frozen=True)
class Message:
    """Ciphertexts by name, for a sequence of n tokens, or for several pieces of n tokens each.

    >>> Message.from_bytes(Message(4, {"x": b"..."}).to_bytes())
    Message(n=4, ciphertexts={'x': b'...'}, pieces=1)
    """

    n: int
    ciphertexts: Mapping[str, bytes]
    pieces: int = 1

    def to_bytes(self) -> bytes:
        """Return the message as bytes."""
        sizes = {name: len(data) for name, data in self.ciphertexts.items()}
        several = {"pieces": self.pieces} if self.pieces > 1 else {}
        header = json.dumps({"n": self.n, **several, "sizes": sizes}).encode()
        prefix = _PREFIX.pack(MAGIC, FORMAT, len(header))
        content = b"".join([prefix, header, *self.ciphertexts.values()])
        return content + _sha256(content)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote. Raises InputError for anything else, damage included."""
        kind = cls.__name__.lower()
        if len(data) < _PREFIX.size:
            raise InputError(f"a {kind} of {len(data)} bytes is cut: send all of it")
        magic, version, header_size = _PREFIX.unpack_from(data)
        if (magic, version) != (MAGIC, FORMAT) or header_size > MAX_HEADER_BYTES:
            raise InputError(f"these {len(data)} bytes are no {kind} of format {FORMAT}")
        start = _PREFIX.size + header_size
        try:
            header = json.loads(data[_PREFIX.size : start])
            n, pieces, sizes = header["n"], header.get("pieces", 1), header["sizes"]
            valid = all(_is_number(count, MAX_COUNT) for count in (n, pieces))
            valid = valid and all(_is_number(size, len(data)) for size in sizes.values())
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"the header of a {kind} can't be read: send it again") from error
        size = start + sum(sizes.values()) + _DIGEST_BYTES if valid else -1
        if len(data) != size:
            raise InputError(f"a {kind} has {len(data)} bytes, its header says {size}")
        if data[-_DIGEST_BYTES:] != _sha256(data[:-_DIGEST_BYTES]):
            raise InputError(f"a {kind} was damaged: its SHA-256 is another one; send it again")
        ciphertexts = {}
        for name, size in sizes.items():
            ciphertexts[name] = data[start : start + size]
            start += size
        return cls(n, ciphertexts, pieces)


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
    """Return evaluation keys behind the hash, 64 hexadecimal digits, of their parameters."""
    return _KEYS_PREFIX.pack(KEYS_MAGIC, KEYS_FORMAT, bytes.fromhex(parameters_hash)) + keys


def unpack_keys(parameters_hash: str, data: bytes) -> bytes:
    """Return the keys in what `pack_keys` gave.

    Raises InputError for anything else, and for keys with other parameters.

    >>> unpack_keys("ab" * 32, pack_keys("ab" * 32, b"..."))
    b'...'
    """
    version = _read_keys_prefix(parameters_hash, data)
    if version != KEYS_FORMAT:
        raise InputError(f"these {len(data)} bytes are no evaluation keys of format {KEYS_FORMAT}")
    return data[_KEYS_PREFIX.size :]


def pack_secret_keys(parameters_hash: str, keys: bytes) -> bytes:
    """Return a client's keys behind the hash of their parameters and their own SHA-256."""
    parameters = bytes.fromhex(parameters_hash)
    prefix = _KEYS_PREFIX.pack(KEYS_MAGIC, SECRET_KEYS_FORMAT, parameters)
    return prefix + _sha256(parameters + keys) + keys


def unpack_secret_keys(parameters_hash: str, data: bytes) -> bytes:
    """Return the keys in what `pack_secret_keys` gave.

    Raises InputError for anything else, for damaged keys, and for other parameters. Format 1, which
    version 0.1 wrote, has no SHA-256 that would show damage: it is refused, too.
    """
    version = _read_keys_prefix(parameters_hash, data)
    if version != SECRET_KEYS_FORMAT:
        raise InputError(f"keys of format {version}, this version reads {SECRET_KEYS_FORMAT}")
    start = _KEYS_PREFIX.size + _DIGEST_BYTES
    digest, keys = data[_KEYS_PREFIX.size : start], data[start:]
    if digest != _sha256(bytes.fromhex(parameters_hash) + keys):
        raise InputError("damaged: their SHA-256 is another one")
    return keys


def _read_keys_prefix(parameters_hash: str, data: bytes) -> int:
    """Return the format of keys. Raises InputError if they have other parameters, or are none."""
    if len(data) < _KEYS_PREFIX.size:
        raise InputError(f"keys of {len(data)} bytes are cut: send all of them")
    magic, version, digest = _KEYS_PREFIX.unpack_from(data)
    if magic != KEYS_MAGIC:
        raise InputError(f"these {len(data)} bytes are no keys")
    if digest.hex() != parameters_hash:
        raise InputError(
            f"keys for parameters {digest.hex()[:12]}, wanted {parameters_hash[:12]}: they belong "
            "to other circuits; generate new ones"
        )
    return version


def _is_number(value: object, most: int) -> bool:
    """Whether a number of a header is one, and not so large that Python can't print sums of it."""
    return type(value) is int and 0 <= value <= most


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
