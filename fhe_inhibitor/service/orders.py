"""What the supervisor tells a worker, and what a worker tells it back."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from fhe_inhibitor.cluster.options import Cluster
from fhe_inhibitor.runtime.protocol import Failure

DATABASE_FILE = "service.db"


class Order(BaseModel):
    """What a worker is told when it starts. models: folders by circuits hash."""

    lease: str
    data_dir: Path
    models: dict[str, Path]
    keys_bytes: int
    memory_bytes: int
    reserved_bytes: int
    max_unfinished_jobs: int
    job_ttl_s: float
    scheduler: str | None = None
    insecure_cluster: bool = False
    cluster_shared: Path | None = None

    @property
    def cluster(self) -> Cluster | None:
        """Where tasks run, None for the worker itself. A job waits for it until it times out."""
        if self.scheduler is None:
            return None
        return Cluster(
            self.scheduler, self.insecure_cluster, self.cluster_shared, math.inf, self.keys_bytes
        )


class Report(BaseModel):
    """What a worker tells: it is ready; a task, or a job, has ended."""

    kind: Literal["ready", "task", "done", "failed", "dropped"]
    job: str | None = None
    stage: str | None = None
    seconds: float | None = None
    lookups: int | None = None
    error: Failure | None = None
    message: str | None = None
