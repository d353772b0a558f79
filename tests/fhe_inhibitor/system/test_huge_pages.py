"""Who has huge pages: the processes in which circuits run, and programs that ask to have them."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from fhe_inhibitor.system import huge_pages
from fhe_inhibitor.system.child import Child
from fhe_inhibitor.system.diagnosis import find_huge_pages

ASKED = "glibc.malloc.hugetlb=1"
only_where_asked = pytest.mark.skipif(
    huge_pages.mode() != "madvise", reason="all memory has huge pages here, or none"
)
TELL = "import os, sys; print(os.getpid(), sys.argv[1:], os.environ.get('GLIBC_TUNABLES'))"


class Asked:
    """Lives in another process."""

    def tunables(self) -> str | None:
        return os.environ.get("GLIBC_TUNABLES")

    def has_huge_pages(self) -> bool:
        return huge_pages.has_huge_pages()


def set_mode(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: str) -> None:
    modes = ["always", "madvise", "never"]
    shown = " ".join(f"[{name}]" if name == mode else name for name in modes)
    (tmp_path / "enabled").write_text(f"{shown}\n")
    monkeypatch.setattr(huge_pages, "MODES", tmp_path / "enabled")


@pytest.mark.parametrize(
    ("mode", "before", "after"),
    [
        ("madvise", None, ASKED),
        ("madvise", "glibc.malloc.perturb=1", f"glibc.malloc.perturb=1:{ASKED}"),
        ("madvise", "glibc.malloc.hugetlb=0", None),
        ("madvise", ASKED, None),
        ("always", None, None),
        ("never", None, None),
    ],
)
def test_only_who_could_have_them_and_said_nothing_asks(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    mode: str,
    before: str | None,
    after: str | None,
) -> None:
    set_mode(monkeypatch, tmp_path, mode)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if before is not None:
        monkeypatch.setenv("GLIBC_TUNABLES", before)
    assert huge_pages.mode() == mode
    assert huge_pages.to_ask() == ({} if after is None else {"GLIBC_TUNABLES": after})


def test_other_systems_have_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huge_pages, "MODES", tmp_path / "none")
    assert (huge_pages.mode(), huge_pages.to_ask()) == ("unknown", {})
    assert not huge_pages.has_huge_pages()
    assert find_huge_pages().state == "ok"


def test_the_doctor_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for mode, state in (("always", "ok"), ("madvise", "ok"), ("never", "warning")):
        set_mode(monkeypatch, tmp_path, mode)
        assert find_huge_pages().state == state
    assert f"echo madvise > {tmp_path / 'enabled'}" in find_huge_pages().remedy


def test_a_child_asks_and_the_caller_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_mode(monkeypatch, tmp_path, "madvise")
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    with closing(Child(Asked)) as child:
        assert child.call("tunables") == ASKED
        assert "GLIBC_TUNABLES" not in os.environ
    assert huge_pages.has_huge_pages(in_children=True)


@only_where_asked
def test_a_child_has_them_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for before, has in ((None, True), ("glibc.malloc.hugetlb=0", False)):
        monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
        if before is not None:
            monkeypatch.setenv("GLIBC_TUNABLES", before)
        with closing(Child(Asked)) as child:
            assert child.call("has_huge_pages") == has


@only_where_asked
def test_a_program_starts_again_as_the_same_process() -> None:
    """With its arguments, and once."""
    restart = "from fhe_inhibitor.system.huge_pages import restart_with_huge_pages as restart"
    code = f"{restart}; print('started', flush=True); restart(); {TELL}"
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    with subprocess.Popen(
        [sys.executable, "-c", code, "a b", "--c"], stdout=subprocess.PIPE, text=True,
        env=environment,
    ) as process:  # fmt: skip
        out, _ = process.communicate(timeout=60)
    assert out.splitlines() == ["started"] * 2 + [f"{process.pid} ['a b', '--c'] {ASKED}"]
