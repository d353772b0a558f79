"""Without TLS a cluster is for this machine alone, unless somebody says otherwise."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import dask
import pytest
from distributed import Client, Security

from fhe_inhibitor.cluster.connection import check_address, for_children
from fhe_inhibitor.cluster.options import Cluster
from fhe_inhibitor.cluster.orders import ClusterError
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


def test_another_process_gets_a_client_s_address_and_certificates() -> None:
    security: Any = Security(tls_client_cert="cert.pem", require_encryption=True)
    client: Any = SimpleNamespace(
        status="running",
        scheduler=SimpleNamespace(address="tls://10.0.0.1:8786"),
        security=security,
    )
    given = pickle.loads(pickle.dumps(for_children(Cluster(client, patience_s=7))))
    assert (given.scheduler, given.patience_s) == ("tls://10.0.0.1:8786", 7)
    assert given.security.tls_client_cert == security.tls_client_cert
    check_address(given.scheduler, given.insecure, given.security)
    client.scheduler.address = "inproc://10.0.0.1/1/1"
    with pytest.raises(InputError, match="is no scheduler"):
        for_children(Cluster(client))
    client.status = "closed"
    with pytest.raises(ClusterError, match="the client is closed"):
        for_children(Cluster(client))


def test_an_address_is_tried_before_it_is_given_on(here: Client) -> None:
    address = str(here.scheduler.address)  # type: ignore[union-attr]
    cluster = Cluster(address)
    assert for_children(cluster) is cluster
    with pytest.raises(InputError, match="any code"):
        for_children(Cluster("tcp://10.0.0.1:8786"))
