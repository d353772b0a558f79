"""Findings about machine and installation: what is well, what is slow, what is in the way."""

from __future__ import annotations

import os
import resource
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from fhe_inhibitor.system import diagnosis, machine
from fhe_inhibitor.system.diagnosis import (
    GB,
    find_cores,
    find_disk,
    find_extras,
    find_memory,
    find_processor,
    find_versions,
)

CPU_INFO = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu {}\n\nprocessor\t: 1\n"


def has(monkeypatch: pytest.MonkeyPatch, **others: str | None) -> None:
    """Pretend that packages, with _ for -, have other versions; None: that they are missing."""
    changed = {name.replace("_", "-"): value for name, value in others.items()}

    def installed(name: str) -> str:
        if name not in changed:
            return version(name)
        if (value := changed[name]) is None:
            raise PackageNotFoundError(name)
        return value

    monkeypatch.setattr(diagnosis, "version", installed)


def test_this_installation_has_its_versions() -> None:
    finding = find_versions()
    assert (finding.state, finding.remedy) == ("ok", "")
    assert "concrete-python 2.11.0" in finding.found and "Python 3.1" in finding.found


def test_a_missing_package_and_another_version_are_failures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    has(monkeypatch, torch=None)
    finding = find_versions()
    assert (finding.state, finding.remedy) == (
        "failure",
        "pip install . in the folder of the repository, in a new environment",
    )
    assert "torch missing" in finding.found and "missing: torch" in finding.found
    has(monkeypatch, concrete_python="2.10.0")
    finding = find_versions()
    assert (finding.state, finding.remedy) == ("failure", "pip install concrete-python==2.11.0")
    # Equal by the rules for versions, and what a local build adds to its own.
    has(monkeypatch, z3_solver="4.13.0.0", torch="2.13.0+cu130")
    assert find_versions().state == "ok"


def test_a_setuptools_without_pkg_resources_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "find_spec", lambda name: None)
    assert find_versions().remedy == "pip install 'setuptools<81'"


def test_an_extra_that_is_not_there_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_extras().found.startswith("installed: server, train, onnx")
    has(monkeypatch, onnx=None, uvicorn=None, gradio=None, playwright=None)
    finding = find_extras()
    assert finding.state == "ok"
    assert "installed: train, benchmark, cluster, docs" in finding.found
    assert "pip install '.[server,onnx,app,browser]' in the folder" in finding.remedy


@pytest.mark.parametrize(
    ("flags", "state", "words"),
    [
        ("avx2 aes avx512f", "ok", "AVX-512, AVX2, AES"),
        ("avx2 aes", "ok", "no AVX-512, AVX2, AES"),
        ("aes", "warning", "no AVX2, AES"),
        ("avx2 avx512f", "warning", "no AES"),
    ],
)
def test_the_features_of_the_processor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flags: str, state: str, words: str
) -> None:
    (tmp_path / "cpuinfo").write_text(CPU_INFO.format(flags))
    monkeypatch.setattr(diagnosis, "CPU_INFO", tmp_path / "cpuinfo")
    finding = find_processor()
    assert finding.state == state and words in finding.found
    assert bool(finding.remedy) == (state != "ok")


def test_a_processor_that_tells_nothing_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(diagnosis, "CPU_INFO", tmp_path / "none")
    assert find_processor().found.endswith("features unknown")


def test_cores_that_others_use_and_threads_that_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "getloadavg", lambda: (0.1, 0.0, 0.0))
    assert find_cores().state == "ok"
    monkeypatch.setattr(psutil, "getloadavg", lambda: (99.0, 0.0, 0.0))
    assert find_cores().state == "warning" and "99.0" in find_cores().found
    monkeypatch.setenv("OMP_NUM_THREADS", "0")
    finding = find_cores()
    assert finding.state == "failure" and "OMP_NUM_THREADS is '0'" in finding.remedy


@pytest.mark.parametrize(
    ("free_gb", "container", "ulimit_gb", "state"),
    [
        (16, "max", -1, "ok"),
        (3, "max", -1, "warning"),
        (1, "max", -1, "failure"),
        (16, str(1 * GB), -1, "failure"),
        (16, str(32 * GB), 3, "warning"),
    ],
)
def test_the_least_of_memory_and_its_limits_counts(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    free_gb: int,
    container: str,
    ulimit_gb: int,
    state: str,
) -> None:
    (tmp_path / "memory.max").write_text(f"{container}\n")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    memory = SimpleNamespace(available=free_gb * GB, total=64 * GB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    limit = ulimit_gb if ulimit_gb < 0 else ulimit_gb * GB
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    finding = find_memory()
    assert finding.state == state and f"{free_gb}.0 GB free of 64.0" in finding.found
    assert ("by the limit" in finding.found) == (container == str(1 * GB) or ulimit_gb > 0)


def test_a_folder_that_is_not_there_yet_is_that_which_it_is_made_in(tmp_path: Path) -> None:
    finding = find_disk("cache", tmp_path / "not" / "yet", "VARIABLE")
    assert finding.state == "ok" and "GB free" in finding.found
    assert not (tmp_path / "not").exists()


def test_a_folder_below_one_that_is_closed_to_this_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Played, because nothing is closed to root, whom containers run tests as."""
    closed, look, may = tmp_path / "closed", os.stat, os.access
    closed.mkdir()

    def refuse(path: Any, **options: Any) -> os.stat_result:
        if closed in Path(path).parents:
            raise PermissionError(13, "Permission denied", str(path))
        return look(path, **options)

    monkeypatch.setattr(os, "stat", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: path != closed and may(path, mode))
    finding = find_disk("cache", closed / "deep" / "cache", "VARIABLE")
    assert finding.state == "failure" and "not writable" in finding.found
    assert f"make {closed} a folder that you can write to" in finding.remedy
    assert finding.remedy.endswith("or name another folder in VARIABLE")


def test_a_place_that_cannot_hold_what_it_should(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    finding = find_disk("cache", tmp_path / "file" / "cache", "VARIABLE")
    assert finding.state == "failure" and "VARIABLE" in finding.remedy
    real = os.statvfs(tmp_path)
    noexec = os.statvfs_result([*real[:8], real.f_flag | os.ST_NOEXEC, *real[9:]])
    monkeypatch.setattr(os, "statvfs", lambda _: noexec)
    assert find_disk("keys", tmp_path, "VARIABLE").state == "ok"
    finding = find_disk("cache", tmp_path, "VARIABLE", runs_code=True)
    assert finding.state == "failure" and "mounted noexec" in finding.found
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**6))
    finding = find_disk("keys", tmp_path, "VARIABLE")
    assert (finding.state, finding.remedy[:9]) == ("warning", "free 1 GB")
