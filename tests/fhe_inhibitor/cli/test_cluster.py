"""The commands that start a cluster: what they have Dask listen on."""

from __future__ import annotations

import pytest

from fhe_inhibitor.cli import cluster
from fhe_inhibitor.cli.main import main


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
