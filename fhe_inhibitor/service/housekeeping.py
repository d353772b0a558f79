"""Removes what has expired, and what an interruption left over."""

from __future__ import annotations

import logging
from collections.abc import Callable

from fhe_inhibitor.runtime.protocol import Status
from fhe_inhibitor.service.database import Database
from fhe_inhibitor.service.jobs import Jobs
from fhe_inhibitor.service.logs import fields
from fhe_inhibitor.service.storage import Storage
from fhe_inhibitor.service.uploads import Uploads
from fhe_inhibitor.service.watchers import log_failure

LOG = logging.getLogger(__name__)
DROPPED = (Status.FAILED, Status.CANCELLED, Status.EXPIRED)


def clean(database: Database, storage: Storage, jobs: Jobs, uploads: Uploads) -> None:
    """Let keys and jobs expire; remove files that no keys and no job need.

    A step that fails keeps none of the others from being done.
    """
    steps: dict[str, Callable[[], int]] = {
        "keys": uploads.expire,
        "expired": jobs.expire,
        "jobs": lambda: _remove_files_of_jobs(database, storage, jobs),
        "leftovers": lambda: _remove_other_keys(database, storage, uploads),
    }
    counts = {}
    for name, step in steps.items():
        try:
            counts[name] = step()
        except Exception as error:
            log_failure(f"cleaning {name}", error)
    if any(counts.values()):
        LOG.info("cleaned", extra=fields(**counts))


def _remove_files_of_jobs(database: Database, storage: Storage, jobs: Jobs) -> int:
    with database.transaction():  # no job is submitted between the two lists
        names, statuses = storage.jobs(), jobs.statuses()
    n_removed = 0
    for name in names:
        status = statuses.get(name)
        if status is None or status in DROPPED:
            storage.remove_job(name)
            n_removed += 1
        elif status is Status.DONE:
            storage.keep_result(name)
    return n_removed


def _remove_other_keys(database: Database, storage: Storage, uploads: Uploads) -> int:
    with database.transaction():  # nobody announces them meanwhile, and begins to send
        others = set(storage.all_keys()) - uploads.announced()
        for user, sha256 in others:
            storage.remove_keys(user, sha256)
    return len(others)
