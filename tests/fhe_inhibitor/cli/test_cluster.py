"""The commands that start a cluster: what Dask listens on and computes with, how they end."""

from __future__ import annotations

import sys

import pytest

from fhe_inhibitor.cli import cluster
from fhe_inhibitor.cli.main import main
from fhe_inhibitor.cluster.orders import CORES_VARIABLE


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "10.0.0.1", "0.0.0.0"])
def test_a_dashboard_is_for_its_own_machine_alone(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """It speaks HTTP without TLS."""
    started: list[list[str]] = []
    monkeypatch.setattr(cluster, "_run", lambda what, arguments, _: started.append(arguments))
    with pytest.raises(SystemExit) as ended:
        main(["cluster", "scheduler", "--host", host, "--insecure-cluster", "--", "--show"])
    assert ended.value.code == 0
    ((_, address, option, dashboard, *more),) = started
    assert (option, dashboard) == ("--dashboard-address", "127.0.0.1:0")
    assert (host in address, more) == (True, ["--show"])


@pytest.mark.parametrize(
    ("option", "exported", "cores"),
    [(["--cores", "3"], "2", 3), ([], "2", 2), (["--cores", "3"], None, 3)],
)
def test_the_option_says_the_cores_before_the_environment_does(
    monkeypatch: pytest.MonkeyPatch, option: list[str], exported: str | None, cores: int
) -> None:
    """A job's script may export them for all of its workers."""
    tell = f"import os, sys; sys.exit(int(os.environ['{CORES_VARIABLE}']))"
    monkeypatch.setattr(cluster, "program", lambda _: [sys.executable, "-c", tell])
    monkeypatch.delenv(CORES_VARIABLE, raising=False)
    if exported is not None:
        monkeypatch.setenv(CORES_VARIABLE, exported)
    with pytest.raises(SystemExit) as ended:
        main(["cluster", "worker", "tcp://127.0.0.1:1", *option])
    assert ended.value.code == cores


@pytest.mark.parametrize(("end", "code"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 137)])
def test_a_command_ends_as_dask_did(monkeypatch: pytest.MonkeyPatch, end: str, code: int) -> None:
    """A shell's code of a signal is 128 + n; Python gives -n."""
    program = [sys.executable, "-c", f"import os, sys; {end}"]
    monkeypatch.setattr(cluster, "program", lambda _: program)
    with pytest.raises(SystemExit) as ended:
        main(["cluster", "worker", "tcp://127.0.0.1:1"])
    assert ended.value.code == code
