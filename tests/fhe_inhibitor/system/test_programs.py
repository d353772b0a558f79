"""Processes that we start run no file of the folder in which somebody happens to be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.keyring import Keyring, make_keys_elsewhere
from fhe_inhibitor.system.child import Child
from fhe_inhibitor.system.programs import program
from tests.conftest import REPOSITORY

STRANGERS = ("json", "signal", "anyio", "psutil")


@pytest.fixture(autouse=True)
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the files of this folder, which are called as modules are, leave where one is run."""
    ran = tmp_path / "ran"
    for name in STRANGERS:
        (tmp_path / f"{name}.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    return ran


def test_a_program_runs_none(ran: Path) -> None:
    """What PYTHONPATH names is found, as what is installed is."""
    done = subprocess.run(program("json.tool"), input=b"[1]", capture_output=True)
    assert json.loads(done.stdout) == [1], done.stderr
    assert subprocess.run(program("fhe_inhibitor.system.programs")).returncode == 0
    assert not ran.exists()
    subprocess.run([sys.executable, "-m", "json.tool"], input=b"[1]", capture_output=True)
    assert ran.exists(), "the files are not what a program loads"


def test_a_child_runs_none(ran: Path) -> None:
    with closing(Child(Path, "a")) as child:
        assert child.call("joinpath", "b") == Path("a/b")
    assert not ran.exists()
    assert "PYTHONSAFEPATH" not in os.environ


def test_who_makes_secret_keys_runs_none(ran: Path, tmp_path: Path) -> None:
    """The circuits are missing, which is told before anything is made."""
    keyring = Keyring(tmp_path / "keys")
    with pytest.raises(InputError, match=str(tmp_path / "circuits")):
        anyio.run(make_keys_elsewhere, keyring, tmp_path / "circuits", "ab" * 32, "tiny", None)
    assert not ran.exists()
