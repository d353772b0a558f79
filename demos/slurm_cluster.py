"""Workers of a Slurm cluster classify one sentence: Dask's own `SLURMCluster`, set right.

    python -m demos.slurm_cluster --jobs 16 --cores 64 --queue normal "a gripping , funny film"
    python -m demos.slurm_cluster --show          # prints the job's script, submits nothing

Run it where jobs are submitted, with this package installed in an environment that the nodes see.
The scheduler lives in this process; it and its workers speak TLS, with certificates that Dask makes
for this run and puts into a folder that the nodes share. Workers fetch keys and circuits from
here, once each.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from dask_jobqueue import SLURMCluster
from distributed import Client, Security

from compile.local.session import Session
from fhe_inhibitor.cluster.options import Cluster
from fhe_inhibitor.cluster.orders import CORES_VARIABLE
from fhe_inhibitor.integer.model import DEFAULT_MODEL
from fhe_inhibitor.system.child import silence_dependencies
from fhe_inhibitor.system.progress import Observer


def main(
    text: Annotated[str, typer.Argument()] = "a gripping , funny film",
    model: str = DEFAULT_MODEL,
    jobs: Annotated[int, typer.Option(min=1, help="Slurm jobs, each one worker.")] = 2,
    cores: Annotated[int, typer.Option(min=1, help="Of each job.")] = 32,
    tasks: Annotated[int, typer.Option(min=1, help="At once in each job, with keys each.")] = 4,
    memory: Annotated[str, typer.Option(help="Of each job.")] = "32GB",
    walltime: Annotated[str, typer.Option(help="Of each job.")] = "02:00:00",
    queue: Annotated[str | None, typer.Option(help="Slurm's partition.")] = None,
    interface: Annotated[
        str | None, typer.Option(help="Network of scheduler and workers, such as ib0.")
    ] = None,
    shared: Annotated[
        Path, typer.Option(help="A folder that all nodes see: certificates, scripts.")
    ] = Path("~/.fhe-inhibitor-slurm"),
    show: Annotated[bool, typer.Option("--show", help="Print the job's script alone.")] = False,
) -> None:
    """Start workers with Slurm, classify, and end them."""
    silence_dependencies()
    shared = shared.expanduser()
    shared.mkdir(mode=0o700, parents=True, exist_ok=True)
    security = Security.temporary()
    with make_cluster(cores, tasks, memory, walltime, queue, interface, shared, security) as slurm:
        if show:
            print(slurm.job_script())
            return
        slurm.scale(jobs=jobs)
        with (
            Client(slurm, security=security, set_as_default=False) as client,
            Session(model, observer=Printed(), cluster=Cluster(client)) as session,
        ):
            result = session.classify(text)
    print(f"{result.label} ({result.probability:.0%}), {result.seconds:.0f} s")


def make_cluster(
    cores: int,
    tasks: int,
    memory: str,
    walltime: str,
    queue: str | None,
    interface: str | None,
    shared: Path,
    security: Security,
) -> SLURMCluster:
    """Return a cluster without workers. Each job is one worker: `tasks` at once on `cores`.

    Dask counts a worker's threads, which are tasks at once here; the variable says how many cores
    these share.
    """
    return SLURMCluster(
        cores=tasks,
        processes=1,
        job_cpu=cores,
        memory=memory,
        walltime=walltime,
        queue=queue,
        interface=interface,
        job_script_prologue=[f"export {CORES_VARIABLE}={cores}"],
        python=sys.executable,
        protocol="tls://",
        security=security,
        shared_temp_directory=str(shared),
        log_directory=str(shared / "logs"),
        scheduler_options={"dashboard_address": "127.0.0.1:0"},
    )


class Printed(Observer):
    """Prints what is to be known: who is left out, what moved."""

    def note(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    typer.run(main)
