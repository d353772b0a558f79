"""The parts of the service put together: what the routes call, and what runs beside them."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.messages import Request
from fhe_inhibitor.runtime.protocol import Job, Status
from fhe_inhibitor.service.access import AtOnce, Rates, Tokens
from fhe_inhibitor.service.database import Database
from fhe_inhibitor.service.housekeeping import clean
from fhe_inhibitor.service.jobs import Jobs, NewJob
from fhe_inhibitor.service.metrics import Metrics
from fhe_inhibitor.service.models import ServedModel, load_models
from fhe_inhibitor.service.orders import DATABASE_FILE, Report
from fhe_inhibitor.service.refusals import Refused, not_found, wrong_model
from fhe_inhibitor.service.settings import Settings
from fhe_inhibitor.service.status import (
    Overview,
    Remembered,
    ServedCircuits,
    Speed,
    WorkersCount,
    our_versions,
)
from fhe_inhibitor.service.storage import Storage
from fhe_inhibitor.service.supervisor import Supervisor
from fhe_inhibitor.service.uploads import Uploads
from fhe_inhibitor.service.watchers import Watchers, log_failure, repeat

POLL_S = 0.05  # between looks for changes of the database
CLEAN_S = 60.0


class Service:
    """One server: its models, users, keys, jobs and workers.

    Raises InputError for folders, tokens or a database that can't be read.
    """

    def __init__(self, settings: Settings, folders: Iterable[Path]) -> None:
        self.settings = settings
        self.models = load_models(folders, settings.limits)
        self.tokens = Tokens(settings.tokens)
        self.rates = Rates(settings.requests_per_s, settings.burst_requests)
        self.streams = AtOnce(
            settings.max_streams,
            "too_many_streams",
            f"{settings.max_streams} streams of events are open; close one, or ask for the job",
        )
        # Each is in memory until it is a job. More jobs would be refused anyway.
        self.bodies = AtOnce(
            settings.max_unfinished_jobs,
            "too_many_bodies",
            f"{settings.max_unfinished_jobs} requests of yours have not all arrived; send this "
            "one when one of those has been answered",
        )
        self.database = Database(settings.data_dir / DATABASE_FILE)
        self.storage = Storage(settings.data_dir, settings.reserved_bytes)
        self.jobs = Jobs(self.database, settings.max_unfinished_jobs, settings.job_ttl_s)
        self.uploads = Uploads(self.database, self.storage, settings)
        self.metrics = Metrics()
        self._by_hash = {model.hash: model for model in self.models.values()}
        self.supervisor = Supervisor(
            settings,
            self.jobs,
            {digest: model.folder for digest, model in self._by_hash.items()},
            self._on_report,
        )
        self.metrics.watch_workers(lambda: self.supervisor.n_ready)
        self._changed = asyncio.Event()
        self.metrics.watch_jobs(self.jobs.counts)
        self.speed = Speed()
        self.overview = Remembered(self._overview)
        self._started_at = time.monotonic()
        self._version = -1  # of the database, as it was last seen
        self._watchers = Watchers()

    def recover(self) -> None:
        """Take up what the last server left; to be called once, before `start`.

        Raises sqlite3.Error for a database that can't be written.
        """
        self.jobs.recover(self._by_hash)
        self.uploads.recover()

    async def start(self) -> None:
        """Start the workers, and the watches over them and the database."""
        self.supervisor.start()
        pause_s = min(CLEAN_S, self.settings.job_ttl_s / 4, self.settings.keys_ttl_s / 4)
        self._watchers.start("watch over the database", repeat(self._watch_database, POLL_S))
        self._watchers.start("cleaning", repeat(self._clean, pause_s))

    async def close(self) -> None:
        """End workers and watchers; the jobs that ran are queued again."""
        await self._watchers.close()
        await self.supervisor.close()
        try:
            self.jobs.put_back()
        except sqlite3.Error as error:  # the next server counts it as a death, and goes on
            log_failure("putting jobs back", error)

    def why_not_ready(self) -> str | None:
        """Return why jobs would wait for ever, or for now; None if they won't."""
        if ended := [*self._watchers.ended(), *self.supervisor.watchers.ended()]:
            return f"start this server again: it lost its {', '.join(ended)}"
        return None if self.supervisor.n_ready else "no worker is ready yet"

    def next_change(self) -> asyncio.Event:
        """Return what is set when something of jobs or keys has changed after now."""
        return self._changed

    def model(self, name: str) -> ServedModel:
        """Return a model by name; refuses with 404 an unknown one."""
        if name not in self.models:
            raise not_found("model")
        return self.models[name]

    def model_by_circuits_hash(self, digest: str) -> ServedModel:
        """Return a model by its hash; refuses with 409 an unknown one."""
        if digest not in self._by_hash:
            raise wrong_model(digest)
        return self._by_hash[digest]

    def submit(
        self, user: str, digest: str, keys: str, body: bytes, idempotency_key: str | None
    ) -> Job:
        """Queue a request that fits the model, under keys that are here and complete."""
        model = self.model_by_circuits_hash(digest)
        self.uploads.get(user, keys)  # refused before all else; what counts is `admit`
        try:
            request = Request.from_bytes(body)
            program = model.manifest.program(request.n, request.pieces)
        except InputError as error:
            raise Refused(422, "invalid", str(error)) from error
        if set(request.ciphertexts) != {encryption.name for encryption in program.encryptions}:
            raise Refused(422, "invalid", "the request has other ciphertexts than these circuits")
        new = NewJob(
            user=user,
            circuits_hash=digest,
            keys=keys,
            n=request.n,
            tasks_total=len(program.tasks),
            request_sha256=hashlib.sha256(body).hexdigest(),
            idempotency_key=idempotency_key,
        )

        def admit(job: str) -> None:
            self.uploads.use(user, keys, digest)
            self.storage.write(self.storage.request(job), body)

        return self.jobs.submit(new, admit)

    def remove_job(self, user: str, job: str) -> None:
        """Cancel or forget a user's job, with its files."""
        self.jobs.remove(user, job)
        self.storage.remove_job(job)

    def _on_report(self, report: Report) -> None:
        self.metrics.report(report)
        self.speed.report(report)

    def _overview(self) -> Overview:
        """Count what the status page shows."""
        jobs = {Status(name): n for name, n in self.jobs.counts().items()}
        n_ready, wait_s = self.supervisor.n_ready, self.jobs.longest_wait_s()
        return Overview(
            uptime_s=int(time.monotonic() - self._started_at),
            jobs=jobs,
            longest_wait_s=None if wait_s is None else int(wait_s),
            workers=WorkersCount(
                wanted=self.settings.workers,
                ready=n_ready,
                busy=min(n_ready, jobs[Status.RUNNING]),
            ),
            keys=self.uploads.count(),
            lookups_per_s=self.speed.lookups_per_s(),
            models=[
                ServedCircuits(
                    name=model.info.name, circuits_hash=model.hash, buckets=model.info.buckets
                )
                for model in self.models.values()
            ],
            versions=our_versions(),
        )

    async def _watch_database(self) -> None:
        """Set the event if somebody has written to the database."""
        version = self.database.data_version()
        if version != self._version:
            self._version = version
            self._changed.set()
            self._changed = asyncio.Event()

    async def _clean(self) -> None:
        """Remove what has expired."""
        await asyncio.to_thread(clean, self.database, self.storage, self.jobs, self.uploads)
