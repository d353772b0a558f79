"""Removes what has expired, and what an interruption left over."""

from __future__ import annotations

import logging

from fhe_inhibitor.runtime.protocol import Status
from fhe_inhibitor.service.database import Database
from fhe_inhibitor.service.jobs import Jobs
from fhe_inhibitor.service.logs import fields
from fhe_inhibitor.service.storage import Storage
from fhe_inhibitor.service.uploads import Uploads

LOG = logging.getLogger(__name__)
DROPPED = (Status.FAILED, Status.CANCELLED, Status.EXPIRED)


def clean(database: Database, storage: Storage, jobs: Jobs, uploads: Uploads) -> None:
    """Let keys and jobs expire; remove files that no keys and no job need."""
    n_keys = uploads.expire()
    jobs.expire()
    n_files = 0
    with database.transaction():  # no job is submitted between the two lists
        names, statuses = storage.jobs(), jobs.statuses()
    for name in names:
        status = statuses.get(name)
        if status is None or status in DROPPED:
            storage.remove_job(name)
            n_files += 1
        elif status is Status.DONE:
            storage.keep_result(name)
    with database.transaction():
        orphans = set(storage.all_keys()) - uploads.announced()
    for user, sha256 in orphans:
        storage.remove_keys(user, sha256)
    if n_keys or n_files or orphans:
        LOG.info("cleaned", extra=fields(keys=n_keys, jobs=n_files, leftovers=len(orphans)))
