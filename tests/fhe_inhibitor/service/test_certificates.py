"""The files for HTTPS are checked before anything is listened to, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.service.certificates import check_certificate
from fhe_inhibitor.service.settings import load_settings
from tests.fhe_inhibitor.remote.test_tls import write_certificate


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return write_certificate(tmp_path, "127.0.0.1")


def test_good_files_pass_together_or_as_one(files: tuple[Path, Path], tmp_path: Path) -> None:
    certificate, key = files
    check_certificate(None, None)
    check_certificate(certificate, key)
    both = tmp_path / "both.pem"
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    check_certificate(both, None)
    assert load_settings(certificate=certificate, certificate_key=key).certificate == certificate


def test_what_is_wrong_is_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    certificate, key = files
    other_folder = tmp_path / "other"
    other_folder.mkdir()
    _, other = write_certificate(other_folder, "127.0.0.1")
    empty, missing, locked = (tmp_path / name for name in ("empty", "missing", "locked"))
    empty.write_bytes(b"")
    locked.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    for pair, words in (
        ((missing, key), f"{missing} can't be read"),
        ((certificate, missing), f"{missing} can't be read"),
        ((empty, key), f"{empty} holds no certificate"),
        ((key, key), f"{key} holds no certificate"),
        ((certificate, empty), f"{empty} holds no private key"),
        ((certificate, None), f"{certificate} holds no private key"),
        ((certificate, other), f"{other} holds another key than that of {certificate}"),
        ((certificate, locked), f"the key in {locked} is locked with a passphrase"),
        ((None, key), f"{key}, without its certificate"),
    ):
        with pytest.raises(InputError, match=words):
            load_settings(certificate=pair[0], certificate_key=pair[1])
