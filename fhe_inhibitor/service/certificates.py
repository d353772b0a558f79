"""The files for HTTPS, checked before the server listens: each error names the file."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from fhe_inhibitor.errors import InputError, first_line


def check_certificate(certificate: Path | None, key: Path | None) -> None:
    """Refuse files that no TLS server can use.

    key: of the certificate; in its file if None. Raises InputError for a file that can't be read or
    holds something else, a key that a passphrase locks, and a key of another certificate.
    """
    if certificate is None:
        if key is not None:
            raise InputError(
                f"a certificate's key, {key}, without its certificate: name both, or the server "
                "would speak HTTP"
            )
        return
    content = _read(certificate)
    try:
        first = x509.load_pem_x509_certificates(content)[0]
    except ValueError as error:
        raise InputError(f"{certificate} holds no certificate: pass a PEM file") from error
    if first.public_key() != _read_key(key or certificate):
        raise InputError(
            f"{key or certificate} holds another key than that of {certificate}: pass the one that "
            "the certificate was made with"
        )


def _read_key(path: Path) -> object:
    """Return the public part of a private key."""
    content = _read(path)
    try:
        return serialization.load_pem_private_key(content, password=None).public_key()
    except TypeError as error:
        raise InputError(
            f"the key in {path} is locked with a passphrase, which nobody can type: store it "
            "without one, for the server's user alone"
        ) from error
    except ValueError as error:
        raise InputError(
            f"{path} holds no private key ({first_line(error)[:80]}): pass a PEM file, as the "
            "certificate's key"
        ) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} can't be read ({error.strerror}): pass a PEM file that the server may read"
        ) from error
