"""Which cluster, and what of it a user chooses. Needs no Dask: that is imported when it is used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fhe_inhibitor.cluster.orders import KEYS_BYTES
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.extras import needs
from fhe_inhibitor.system.progress import Observer

if TYPE_CHECKING:
    from distributed import Client

    from fhe_inhibitor.cluster.executor import ClusterExecutor

PATIENCE_S = 300.0


class ClusterError(InputError):
    """No scheduler answers, or no worker that fits is there: later it may be."""


@dataclass(frozen=True)
class Cluster:
    """A Dask scheduler whose workers run tasks: `Session(model, cluster=Cluster("tls://..."))`.

    scheduler: its address, or a `dask.distributed.Client` of it. insecure: take an address without
    TLS even where others can reach it. shared: a folder that all machines share, where workers find
    keys and circuits; None to be asked by them. patience_s: for a scheduler that is gone, and for a
    first worker. keys_bytes: of packed keys that each engine keeps ready.
    """

    scheduler: str | Client
    insecure: bool = False
    shared: Path | None = None
    patience_s: float = PATIENCE_S
    keys_bytes: int = KEYS_BYTES

    def check(self) -> None:
        """Raise InputError for an address that is none or that wants TLS, and without Dask."""
        with needs("cluster"):
            from fhe_inhibitor.cluster.connection import check_address

        if isinstance(self.scheduler, str):
            check_address(self.scheduler, self.insecure)

    def executor(
        self, folder: Path, keys: bytes, observer: Observer | None = None
    ) -> ClusterExecutor:
        """Return what runs tasks of the circuits in a folder.

        keys: as `runtime.client.Client.evaluation_keys` gives them. Raises InputError as `check`,
        ClusterError if no scheduler answers, and if no worker can run the circuits.
        """
        self.check()
        from fhe_inhibitor.cluster.executor import ClusterExecutor

        return ClusterExecutor(self, folder, keys, observer)
