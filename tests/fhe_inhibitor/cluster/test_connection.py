"""Without TLS a cluster is for this machine alone, unless somebody says otherwise."""

from __future__ import annotations

import dask
import pytest

from fhe_inhibitor.cluster.connection import check_address
from fhe_inhibitor.errors import InputError

CERTIFICATES = {"distributed.comm.tls.ca-file": "ca.pem"}


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:8786", "tcp://localhost:1", "tcp://[::1]:1"])
def test_loopback_needs_no_tls(address: str) -> None:
    check_address(address)


@pytest.mark.parametrize(
    "address", ["tcp://10.0.0.1:8786", "tcp://[2001:db8::1]:8786", "tcp://h:1"]
)
def test_another_machine_needs_tls_or_a_word(address: str) -> None:
    with pytest.raises(InputError, match="any code"):
        check_address(address)
    check_address(address, insecure=True)


def test_tls_needs_certificates() -> None:
    with pytest.raises(InputError, match="CA_FILE"):
        check_address("tls://10.0.0.1:8786")
    with dask.config.set(CERTIFICATES):
        check_address("tls://10.0.0.1:8786")


@pytest.mark.parametrize(
    "address", ["", "10.0.0.1:8786", "tcp://10.0.0.1", "http://h:1", "tcp://h:x", "tls://:1", "inproc://x"]
)  # fmt: skip
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="is no scheduler"):
        check_address(address, insecure=True)
