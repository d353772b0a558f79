"""The commands `fhe-inhibitor cluster ...`: Dask's own, set right.

cluster scheduler   what sends tasks to workers; it sees no keys
cluster worker      what runs them, on this machine
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from typing import Annotated

import typer

from fhe_inhibitor.cluster.orders import CORES_VARIABLE
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.extras import needs
from fhe_inhibitor.system.machine import usable_cores
from fhe_inhibitor.system.programs import program
from fhe_inhibitor.system.signals import exit_code_of

app = typer.Typer(no_args_is_help=True)

# Dask's own is 3. A forged ciphertext ends an engine beside a worker, not the worker: one that dies
# is a machine's fault, and its tasks are whoever's happened to be there.
ALLOWED_FAILURES = 20
PAUSE_S = 1.0
WORKER_TTL = "60s"  # until a worker that says nothing is given up

InsecureOption = Annotated[
    bool,
    typer.Option(
        "--insecure-cluster",
        help="Go without TLS even where others can reach it: who does can run any code there.",
    ),
]


@app.callback()
def options() -> None:
    """Run a Dask cluster for encrypted tasks. Certificates are those of Dask's configuration."""


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def scheduler(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8786,
    insecure_cluster: InsecureOption = False,
) -> None:
    """Start a scheduler. What follows -- goes to `dask scheduler`."""
    with needs("cluster"):
        from fhe_inhibitor.cluster.connection import check_address, has_certificates
    scheme = "tls" if has_certificates() else "tcp"
    check_address(f"{scheme}://{_bracketed(host)}:{port}", insecure_cluster)
    settings = {
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": str(ALLOWED_FAILURES),
        "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": WORKER_TTL,
    }
    arguments = ["--host", f"{scheme}://{_bracketed(host)}:{port}"]
    dashboard = ["--dashboard-address", "127.0.0.1:0"]  # it has no TLS, whatever the scheduler has
    # Whoever set Dask's own variables meant them.
    _run("scheduler", [*arguments, *dashboard, *context.args], {**settings, **os.environ})


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def worker(
    context: typer.Context,
    address: Annotated[str, typer.Argument(metavar="tls://HOST:PORT", help="The scheduler's.")],
    cores: Annotated[
        int | None,
        typer.Option(
            min=1,
            envvar=CORES_VARIABLE,
            help="Cores to compute with; all of the machine if not given.",
        ),
    ] = None,
    tasks: Annotated[
        int, typer.Option(min=1, help="At once. Each has its part of the cores, and its own keys.")
    ] = 1,
    insecure_cluster: InsecureOption = False,
) -> None:
    """Start a worker, again and again where it loses its scheduler, until Ctrl-C or SIGTERM.

    What follows -- goes to `dask worker`.
    """
    with needs("cluster"):
        from fhe_inhibitor.cluster.connection import check_address
    check_address(address, insecure_cluster)
    cores = cores or usable_cores()
    if tasks > cores:
        raise InputError(f"{tasks} tasks at once on {cores} cores: a task takes one at least")
    arguments = [address, "--nthreads", str(tasks), "--nworkers", "1", "--no-dashboard"]
    environment = {**os.environ, CORES_VARIABLE: str(cores)}
    while True:
        _run("worker", [*arguments, *context.args], environment)
        time.sleep(PAUSE_S)  # Dask's own ends with its scheduler, which may be started again


def _run(what: str, arguments: list[str], environment: Mapping[str, str]) -> None:
    """Run one of Dask's commands until it ends; end as it did if that was no success."""
    command = [*program("distributed.cli.dask_" + what), *arguments]
    process = subprocess.Popen(command, env=environment)
    try:
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if code:
        raise typer.Exit(code if code > 0 else exit_code_of(-code))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
