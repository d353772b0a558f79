"""A bare client of the protocol: one method for each step, no retries, nothing hidden."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from typing import Any

import httpx

from fhe_inhibitor.runtime.protocol import IDEMPOTENCY_KEY, OCTETS, UPLOAD_OFFSET, Job, Status
from tests.fhe_inhibitor.service.serving import wait_until

JOB_S = 120


@dataclass
class Api:
    """One user of a server, with evaluation keys for one of its models."""

    url: str
    token: str
    keys: bytes
    circuits_hash: str = ""

    def __post_init__(self) -> None:
        headers = {"Authorization": f"Bearer {self.token}"}
        self.http = httpx.Client(
            base_url=f"{self.url}/v1",
            headers=headers,
            timeout=60,
            limits=httpx.Limits(max_keepalive_connections=0),  # so that nothing needs closing
        )
        self.keys_id = hashlib.sha256(self.keys).hexdigest()
        self.circuits_hash = self.circuits_hash or self.model()["circuits_hash"]

    def model(self) -> dict[str, Any]:
        """Return the server's only model."""
        return self.http.get("/models").raise_for_status().json()["models"][0]

    def announce(self, **changes: Any) -> httpx.Response:
        """Announce the keys, or what differs from them."""
        new = {"sha256": self.keys_id, "size": len(self.keys), "circuits_hash": self.circuits_hash}
        return self.http.post("/keys", json={**new, **changes})

    def append(self, offset: int, data: bytes) -> httpx.Response:
        """Send bytes of the keys."""
        headers = {UPLOAD_OFFSET: str(offset), "Content-Type": OCTETS}
        return self.http.patch(f"/keys/{self.keys_id}", content=data, headers=headers)

    def upload(self) -> None:
        """Send what the server lacks of the keys."""
        state = self.announce().raise_for_status().json()
        chunk = self.model()["limits"]["max_chunk_bytes"]
        while not state["complete"]:
            start = state["received"]
            state = self.append(start, self.keys[start : start + chunk]).raise_for_status().json()

    def submit(self, body: bytes, key: str | None = None, **changes: str) -> httpx.Response:
        """Submit a request under an idempotency key, a new one if None."""
        asked = {"circuits_hash": self.circuits_hash, "keys": self.keys_id, **changes}
        headers = {IDEMPOTENCY_KEY: key or uuid.uuid4().hex, "Content-Type": OCTETS}
        return self.http.post("/jobs", params=asked, content=body, headers=headers)

    def start(self, body: bytes) -> str:
        """Submit a request; return the job's id."""
        return self.submit(body).raise_for_status().json()["id"]

    def job(self, job: str) -> Job:
        """Return a job."""
        return Job.model_validate(self.http.get(f"/jobs/{job}").raise_for_status().json())

    def wait(self, job: str, timeout_s: float = JOB_S) -> Job:
        """Return a job when it has ended."""
        wait_until(lambda: self.job(job).status.final, timeout_s)
        return self.job(job)

    def result(self, job: str) -> bytes:
        """Return the response of a job that must be done."""
        ended = self.wait(job)
        assert ended.status is Status.DONE, ended
        return self.http.get(f"/jobs/{job}/result").raise_for_status().content

    def error(self, response: httpx.Response) -> tuple[int, str]:
        """Return status and code of a refusal, which must have one line for people."""
        content = response.json()
        assert set(content) == {"error", "message"}
        assert "\n" not in content["message"]
        return response.status_code, content["error"]
