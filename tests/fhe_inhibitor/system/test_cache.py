"""The cache: whole or absent, rebuilt with a reason, private, and clear about what it lacks."""

from __future__ import annotations

import errno
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.cache import load_or_build, locked
from fhe_inhibitor.system.folders import cache_root

FIRST = {"version": 1, "model": "a"}


def read(part: Path) -> str:
    text = (part / "sub" / "content").read_text()
    if text == "garbage":
        raise RuntimeError("cannot be read\nand a second line")
    return text


class Builder:
    """Counts how often it was asked."""

    def __init__(self, content: str = "fresh") -> None:
        self.content, self.times = content, 0

    def __call__(self, folder: Path) -> None:
        self.times += 1
        (folder / "sub").mkdir()
        (folder / "sub" / "content").write_text(self.content)


def test_is_built_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    build, folder = Builder(), tmp_path / "cache"
    notes: list[str] = []
    for _ in range(2):
        with locked(folder, notes.append):
            assert load_or_build(folder / "keys", FIRST, build, read, notes.append) == "fresh"
    assert build.times == 1
    assert not notes
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}
    assert all(mode == (0o700 if path.is_dir() else 0o600) for path, mode in modes.items())


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda part: (part / "sub/content").write_text("garbage"), "damaged"),
        (lambda part: (part / "sub/content").unlink(), "damaged"),
        (lambda part: (part / "manifest.json").unlink(), "incomplete"),
        (lambda part: (part / "manifest.json").write_text("[]"), "incomplete"),
        (lambda part: (part / "manifest.json").write_text("{"), "incomplete"),
        (lambda part: (part / "manifest.json").write_text('{"version": 0}'), "version 0, wanted 1"),
    ],
)
def test_rebuilds_what_does_not_fit_and_says_why(tmp_path, spoil, reason) -> None:
    notes: list[str] = []
    part = tmp_path / "keys"
    with locked(tmp_path, notes.append):
        load_or_build(part, FIRST, Builder("old"), read, notes.append)
        spoil(part)
        assert load_or_build(part, FIRST, Builder("new"), read, notes.append) == "new"
    assert len(notes) == 1
    assert reason in notes[0]
    assert "\n" not in notes[0]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["keys"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("the compiler failed")])
def test_an_interruption_leaves_nothing_behind(tmp_path: Path, error: BaseException) -> None:
    def interrupted(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise error

    part = tmp_path / "keys"
    with pytest.raises(type(error)), locked(tmp_path, print):
        load_or_build(part, FIRST, interrupted, read, print)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    with locked(tmp_path, print):
        load_or_build(part, FIRST, Builder("good"), read, print)
    with pytest.raises(type(error)), locked(tmp_path, print):
        load_or_build(part, {"version": 2}, interrupted, read, print)
    assert read(part) == "good"


def test_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    (tmp_path / ".unfinished-abc" / "sub").mkdir(parents=True)
    with locked(tmp_path, print):
        pass
    assert not list(tmp_path.glob(".unfinished-*"))


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, "no space left: free"), (errno.EROFS, "Read-only file system")],
)
def test_a_full_or_read_only_folder_is_an_input_error(tmp_path, code, words) -> None:
    def build(folder: Path) -> None:
        raise OSError(code, {errno.ENOSPC: "No space", errno.EROFS: "Read-only file system"}[code])

    with pytest.raises(InputError, match=words) as raised, locked(tmp_path, print):
        load_or_build(tmp_path / "keys", FIRST, build, read, print)
    assert "FHE_INHIBITOR_CACHE" in str(raised.value)
    assert not list(tmp_path.glob(".unfinished-*"))


def test_a_file_in_place_of_the_folder_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"), locked(tmp_path / "file", print):
        pass


def test_waits_for_another_process_and_says_so(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from fhe_inhibitor.system.cache import locked\n"
        "with locked(Path(sys.argv[1]), print):\n"
        "    print('held', flush=True); time.sleep(1)\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    notes: list[str] = []
    with locked(tmp_path, notes.append):
        pass
    assert other.wait(10) == 0
    other.stdout.close()
    assert "another process" in notes[0]


def test_the_environment_names_the_folder(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FHE_INHIBITOR_CACHE", str(tmp_path))
    assert cache_root() == tmp_path
    assert cache_root("elsewhere") == Path("elsewhere")
    monkeypatch.delenv("FHE_INHIBITOR_CACHE")
    assert cache_root().name == "fhe-inhibitor"
