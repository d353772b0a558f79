"""What a server costs beside the same run in one process: seconds, and bytes on the wire.

    python -m demos.service_overhead --runs 5

A server is started on this machine with the shipped model, with circuits from the cache, and a new
client comes to it through a relay that counts bytes. Then the client and a session in this process
classify the same text in turns; the ratio of their medians is the service's overhead. Nothing else
may run meanwhile.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import httpx
import typer

from compile.local.session import Session
from demos.relay import DOWN, UP, Relay
from fhe_inhibitor.remote.client import RemoteClient, RemoteOptions
from fhe_inhibitor.service.access import new_token
from fhe_inhibitor.service.settings import load_settings
from fhe_inhibitor.system.child import silence_dependencies
from fhe_inhibitor.system.huge_pages import restart_with_huge_pages

START_S = 60


@dataclass(frozen=True)
class Costs:
    """What was measured. Bytes are all that crossed the wire, up and down.

    ready_s: from the server's start until a worker is ready. first_s: of a new client, from
    its first question to its first label, keys made and sent. local_s, remote_s: from encryption
    to decryption, in turns; overhead is the ratio of their medians, less 1.
    """

    ready_s: float
    first_s: float
    first_setup_s: dict[str, float]
    first_bytes: tuple[int, int]
    later_bytes: list[tuple[int, int]]
    local_s: list[float]
    remote_s: list[float]
    overhead: float


def main(
    text: str = "a gripping , funny film",
    runs: Annotated[int, typer.Option(min=1, help="Texts of each.")] = 5,
) -> None:
    """Measure and print JSON."""
    silence_dependencies()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(asdict(measure_overhead(text, runs, Path(folder))), indent=1))


def measure_overhead(text: str, runs: int, folder: Path) -> Costs:
    """Return what `runs` texts cost, each in both ways."""
    session = Session()
    session.classify(text)  # makes what is missing in the cache, unpacks keys
    token = new_token(load_settings(data_dir=folder).tokens, "alice")
    options = RemoteOptions(keys_dir=folder / "keys", cache_dir=folder / "cache")
    start = time.perf_counter()
    with running_server(folder) as port, Relay(port) as relay:
        ready_s = time.perf_counter() - start

        def counted() -> tuple[int, int]:
            return relay.n_bytes[UP], relay.n_bytes[DOWN]

        start = time.perf_counter()
        url = f"http://127.0.0.1:{relay.port}"
        with RemoteClient(url, token, options) as client:
            client.classify(text)
            first_s, first_bytes = time.perf_counter() - start, counted()
            local_s, remote_s, later_bytes = [], [], []
            for _ in range(runs):
                local_s.append(session.classify(text).seconds)
                up, down = counted()
                remote_s.append(client.classify(text).seconds)
                later_bytes.append((relay.n_bytes[UP] - up, relay.n_bytes[DOWN] - down))
            return Costs(
                ready_s,
                first_s,
                {stage.name: stage.seconds for stage in client.cost().setup},
                first_bytes,
                later_bytes,
                local_s,
                remote_s,
                statistics.median(remote_s) / statistics.median(local_s) - 1,
            )


@contextmanager
def running_server(data: Path) -> Iterator[int]:
    """Run `fhe-inhibitor serve` on a free port, which is given when a worker is ready."""
    command = [sys.executable, "-m", "fhe_inhibitor", "serve", "--data", str(data), "--port", "0"]
    with (data / "log").open("w+") as log:
        process = subprocess.Popen(command, stderr=log, env=os.environ)
        try:
            url = _wait_until_ready(process, data / "log")
            yield int(url.rpartition(":")[2])
        finally:
            process.terminate()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        for line in log.read_text().splitlines():
            url = json.loads(line).get("url") if line.startswith("{") and line[-1] == "}" else None
            if url and httpx.get(f"{url}/ready").status_code == httpx.codes.OK:
                return url
        time.sleep(0.02)
    raise RuntimeError(f"no server within {START_S} s:\n{log.read_text()}")


if __name__ == "__main__":
    restart_with_huge_pages()
    typer.run(main)
