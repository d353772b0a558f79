"""A connection to a Dask scheduler, and what is refused without TLS.

Certificates are named where Dask names them: `distributed.comm.tls` of its configuration, in a YAML
file or in variables such as DASK_DISTRIBUTED__COMM__TLS__CA_FILE.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from urllib.parse import urlsplit

import dask
from distributed import Client, Security

from fhe_inhibitor.cluster.options import Cluster
from fhe_inhibitor.cluster.orders import ClusterError
from fhe_inhibitor.errors import InputError, first_line
from fhe_inhibitor.runtime.protocol import LOOPBACK

CONNECT_S = 30.0
SCHEMES = ("tcp", "tls")


def check_address(address: str, insecure: bool = False, security: Security | None = None) -> None:
    """Refuse an address that is none, and one whose traffic others can read and change.

    insecure: whether that was asked for. Whoever reaches a scheduler without TLS can run any code
    on all its workers. security: certificates, those of Dask's configuration if None.

    >>> check_address("tcp://127.0.0.1:8786")
    >>> check_address("tcp://10.0.0.1:8786", insecure=True)
    """
    try:
        parts = urlsplit(address)
        valid = parts.scheme in SCHEMES and parts.hostname and parts.port
    except ValueError:
        valid = False
    if not valid:
        raise InputError(
            f"{address!r} is no scheduler: wanted tls://HOST:PORT, or tcp://127.0.0.1:PORT here"
        )
    if parts.scheme == "tls" and security is None and not has_certificates():
        raise InputError(
            f"{address} wants certificates: name them in Dask's configuration, such as "
            "DASK_DISTRIBUTED__COMM__TLS__CA_FILE"
        )
    if parts.scheme == "tcp" and not insecure and parts.hostname not in LOOPBACK:
        raise InputError(
            f"whoever reaches {address} can run any code on its workers: use tls://, or "
            "--insecure-cluster in a network that is yours alone"
        )


def has_certificates() -> bool:
    """Whether Dask's configuration names certificates."""
    return bool(dask.config.get("distributed.comm.tls.ca-file"))


def connect(
    address: str,
    insecure: bool = False,
    timeout_s: float = CONNECT_S,
    security: Security | None = None,
) -> Client:
    """Return a client of a scheduler.

    Raises InputError as `check_address`, ClusterError if none answers.
    """
    check_address(address, insecure, security)
    # What is lost is told by who loses it, in one line; Dask would show pages.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    security = (security or Security()) if address.startswith("tls:") else None
    try:
        return Client(address, security=security, timeout=timeout_s, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise ClusterError(
            f"no scheduler answers at {address} ({first_line(error) or type(error).__name__}): "
            "start one with `fhe-inhibitor cluster scheduler`"
        ) from error


def for_children(cluster: Cluster) -> Cluster:
    """Return the same cluster as child processes can reach it: by address, with its certificates.

    Raises InputError for an address as `check_address` does, ClusterError if nothing answers there.
    """
    client = cluster.scheduler
    if isinstance(client, str):
        connect(client, cluster.insecure, security=cluster.security).close()
        return cluster
    if client.status != "running":
        raise ClusterError(f"the client is {client.status}: give one that is connected")
    address = scheduler_address(client)
    check_address(address, True, client.security)
    return replace(cluster, scheduler=address, insecure=True, security=client.security)


def scheduler_address(client: Client) -> str:
    """Return the address of a client's scheduler."""
    return str(getattr(client.scheduler, "address", ""))
