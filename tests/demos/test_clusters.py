"""What is given to Slurm and to Kubernetes says what it should."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from distributed import Security
from pydantic import BaseModel, ConfigDict, Field

from demos import cluster_overhead
from demos.slurm_cluster import main, make_cluster
from fhe_inhibitor.cluster.orders import CORES_VARIABLE
from fhe_inhibitor.runtime.execution import run_tasks
from fhe_inhibitor.runtime.manifest import Task
from tests.conftest import REPOSITORY


def test_the_job_of_slurm_is_one_worker_with_all_its_cores(tmp_path: Path) -> None:
    security = Security.temporary()
    with make_cluster(64, 4, "32GB", "02:00:00", "normal", "lo", tmp_path, security) as cluster:
        script = cluster.job_script()
    lines = script.splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    wanted = ["#SBATCH -p normal", "#SBATCH -n 1", "#SBATCH --cpus-per-task=64"]
    assert {*wanted, "#SBATCH -t 02:00:00", "#SBATCH --mem=30G"} <= set(lines)
    command = lines.index(f"export {CORES_VARIABLE}=64") + 1
    assert re.search(r"distributed\.cli\.dask_worker tls://127\.0\.0\.1:\d+ ", lines[command])
    for option in ("--nthreads 4 ", "--nanny", "--tls-cert ", "--tls-key ", "--tls-ca-file "):
        assert option in lines[command]
    # The certificate's key lies in a file, not in the script that Slurm shows to others.
    assert "PRIVATE KEY" not in script


def test_a_dry_run_starts_the_scheduler_and_submits_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # where no sbatch is
    main(interface="lo", shared=tmp_path / "shared", show=True)
    assert "--cpus-per-task=32" in capsys.readouterr().out


class Strict(BaseModel):
    """Fields of Kubernetes 1.30 that the manifest uses; one that is misspelt is none of them."""

    model_config = ConfigDict(extra="forbid")


class Metadata(Strict):
    name: str | None = Field(None, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
    labels: dict[str, str] = {}


class Port(Strict):
    name: str
    port: int
    targetPort: int


class ServiceSpec(Strict):
    selector: dict[str, str]
    ports: list[Port]


class Service(Strict):
    apiVersion: Literal["v1"]
    kind: Literal["Service"]
    metadata: Metadata
    spec: ServiceSpec


class Variable(Strict):
    name: str
    value: str  # a number, or true, without quotes is refused by Kubernetes


class Mount(Strict):
    name: str
    mountPath: str
    readOnly: bool = False


class Quantities(Strict):
    cpu: str | None = Field(None, pattern=r"^\d+m?$")
    memory: str = Field(pattern=r"^\d+[MG]i$")


class Resources(Strict):
    requests: Quantities
    limits: Quantities


class Capabilities(Strict):
    drop: list[str]


class Confined(Strict):
    allowPrivilegeEscalation: Literal[False]
    runAsNonRoot: Literal[True]
    runAsUser: int = Field(gt=0)
    capabilities: Capabilities


class ContainerPort(Strict):
    containerPort: int


class Container(Strict):
    name: str
    image: str
    command: list[str]
    env: list[Variable]
    ports: list[ContainerPort] = []
    resources: Resources
    securityContext: Confined
    volumeMounts: list[Mount]


class Secret(Strict):
    secretName: str
    defaultMode: int


class EmptyDir(Strict):
    sizeLimit: str = Field(pattern=r"^\d+Gi$")


class Volume(Strict):
    name: str
    secret: Secret | None = None
    emptyDir: EmptyDir | None = None


class Group(Strict):
    fsGroup: int


class PodSpec(Strict):
    automountServiceAccountToken: Literal[False]
    terminationGracePeriodSeconds: int = 30
    containers: list[Container]
    volumes: list[Volume]
    securityContext: Group


class Template(Strict):
    metadata: Metadata
    spec: PodSpec


class Selector(Strict):
    matchLabels: dict[str, str]


class Strategy(Strict):
    type: Literal["Recreate", "RollingUpdate"]


class DeploymentSpec(Strict):
    replicas: int
    strategy: Strategy | None = None
    selector: Selector
    template: Template


class Deployment(Strict):
    apiVersion: Literal["apps/v1"]
    kind: Literal["Deployment"]
    metadata: Metadata
    spec: DeploymentSpec


def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((REPOSITORY / "demos" / "kubernetes.yaml").read_text("utf-8")))


def test_the_manifest_is_what_kubernetes_takes() -> None:
    kinds: dict[str, type[Strict]] = {"Service": Service, "Deployment": Deployment}
    service, *deployments = [kinds[one["kind"]].model_validate(one) for one in documents()]
    assert isinstance(service, Service)
    (port,) = service.spec.ports
    addresses = []
    for one in deployments:
        assert isinstance(one, Deployment)
        pod = one.spec.template
        assert one.spec.selector.matchLabels == pod.metadata.labels
        (container,) = pod.spec.containers
        volumes = {volume.name for volume in pod.spec.volumes}
        assert {mount.name for mount in container.volumeMounts} == volumes
        # Every file of a certificate lies where the secret is mounted.
        files = [v.value for v in container.env if v.name.endswith(("_FILE", "CERT", "KEY"))]
        assert files and all(file.startswith("/tls/") for file in files)
        addresses += [word for word in container.command if "://" in word]
        if "--cores" in container.command:
            cores = container.command[container.command.index("--cores") + 1]
            assert cores == container.resources.limits.cpu
    assert addresses == [f"tls://{service.metadata.name}:{port.port}"]
    scheduler = deployments[0]
    assert isinstance(scheduler, Deployment)
    assert service.spec.selector == scheduler.spec.template.metadata.labels


def test_copies_of_a_program_are_apart() -> None:
    """Evaluated on integers: each copy gives what the original does."""
    tasks = [Task("a", "double", ("x",), ("y",), {}), Task("b", "add", ("y", "x"), ("z",), {})]

    def call(function: str, given: list[int]) -> list[int]:
        return [2 * given[0]] if function == "double" else [sum(given)]

    copies, values = cluster_overhead.repeated(tasks, {"x": 3}, 3)
    done = list(run_tasks(copies, values, call))
    ends = {name: value for one in done[1::2] for name, value in one.outputs.items()}
    assert ends == {"0.z": 9, "1.z": 9, "2.z": 9}
