"""Which cluster, and what of it a user chooses. Needs no Dask: that is imported when it is used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fhe_inhibitor.cluster.orders import KEYS_BYTES

if TYPE_CHECKING:
    from distributed import Client, Security

PATIENCE_S = 300.0


@dataclass(frozen=True)
class Cluster:
    """A Dask scheduler whose workers run tasks: `Session(model, cluster=Cluster("tls://..."))`.

    scheduler: its address, or a `dask.distributed.Client` of it. insecure: take an address without
    TLS even where others can reach it. shared: a folder that all machines share, where workers find
    keys and circuits; None to be asked by them. patience_s: for a scheduler that is gone, and for a
    first worker. keys_bytes: of packed keys that each engine keeps ready. security: certificates,
    where an address is given; None for those of Dask's configuration.
    """

    scheduler: str | Client
    insecure: bool = False
    shared: Path | None = None
    patience_s: float = PATIENCE_S
    keys_bytes: int = KEYS_BYTES
    security: Security | None = None
