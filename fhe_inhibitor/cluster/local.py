"""Workers on this machine, for what measures them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from distributed import LocalCluster


@contextmanager
def one_thread_workers(number: int) -> Iterator[LocalCluster]:
    """Run so many workers of one thread each, and their scheduler, for the block."""
    with LocalCluster(
        n_workers=number,
        threads_per_worker=1,
        dashboard_address="127.0.0.1:0",
        silence_logs=logging.ERROR,
    ) as cluster:
        yield cluster
