"""Over HTTPS a client believes the certificates that it is told to, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fhe_inhibitor.remote.errors import ServerUnreachable
from tests.fhe_inhibitor.conftest import Tiny
from tests.fhe_inhibitor.remote.remote_user import RemoteUser, remote_user
from tests.fhe_inhibitor.service.serving import Serving

pytestmark = pytest.mark.fhe


def write_certificate(folder: Path, host: str) -> tuple[Path, Path]:
    """Write a certificate that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tiny")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / f"{host}.pem", folder / f"{host}.key"
    pem, traditional = serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL
    paths[0].write_bytes(certificate.public_bytes(pem))
    paths[1].write_bytes(key.private_bytes(pem, traditional, serialization.NoEncryption()))
    return paths


@pytest.fixture(scope="module")
def ivan(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteUser]:
    """A user of a server with a certificate, which lies in the user's folder."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = write_certificate(folder, "127.0.0.1")
    settings = {"certificate": certificate, "certificate_key": key}
    server = Serving(tiny.folder, tiny.cache, folder / "data", settings)
    server.start()
    yield remote_user(server, "ivan", folder)
    server.stop()


def test_a_certificate_that_is_named_is_believed(ivan: RemoteUser) -> None:
    assert ivan.server.url.startswith("https://")
    with ivan.client(ca=ivan.folder / "127.0.0.1.pem") as client:
        assert client.is_private and client.public_model().name == "tiny"
    with ivan.client(verify=False) as client:
        assert client.connect().name == "tiny"


def test_any_other_is_not_and_that_is_said_at_once(ivan: RemoteUser) -> None:
    other, _ = write_certificate(ivan.folder, "127.0.0.2")
    for options in ({}, {"ca": other}):
        with (
            ivan.client(**options) as client,
            pytest.raises(ServerUnreachable, match="its certificate isn't trusted: .*--ca"),
        ):
            client.connect()
