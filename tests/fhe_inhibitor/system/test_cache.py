"""The cache: whole or absent, rebuilt with a reason, private, and clear about what it lacks."""

from __future__ import annotations

import errno
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.cache import locked, published, why_unfit
from fhe_inhibitor.system.folders import cache_root

FIRST: dict[str, object] = {"version": 1, "model": "a"}


def get(part: Path, made_from: dict[str, object], content: str = "fresh") -> str | None:
    """Make a part unless it is there and fits; return why it was made."""
    reason = why_unfit(part, made_from)
    if reason is not None:
        with published(part, made_from) as folder:
            (folder / "sub").mkdir()
            (folder / "sub" / "content").write_text(content)
    return reason


def test_is_built_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    reasons = []
    for _ in range(2):
        with locked(folder, pytest.fail):
            reasons.append(get(folder / "circuits", FIRST))
    assert reasons == ["missing or incomplete", None]
    assert (folder / "circuits/sub/content").read_text() == "fresh"
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}
    assert all(mode == (0o700 if path.is_dir() else 0o600) for path, mode in modes.items())


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda part: (part / "sub/content").write_text("garbage"), "damaged (sub/content)"),
        (lambda part: (part / "sub/content").write_text("fres"), "damaged (sub/content)"),
        (lambda part: (part / "sub/content").unlink(), "incomplete"),
        (lambda part: (part / "manifest.json").unlink(), "incomplete"),
        (lambda part: (part / "manifest.json").write_text("[]"), "incomplete"),
        (lambda part: (part / "manifest.json").write_text("{"), "incomplete"),
        (
            lambda part: (part / "manifest.json").write_text('{"version": 0}'),
            "version 0, wanted 1",
        ),
    ],
)
def test_rebuilds_what_does_not_fit_and_says_why(tmp_path, spoil, reason) -> None:
    part = tmp_path / "circuits"
    with locked(tmp_path, pytest.fail):
        get(part, FIRST, "old")
        spoil(part)
        assert reason in str(get(part, FIRST, "new"))
    assert (part / "sub/content").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["circuits"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("the compiler failed")])
def test_an_interruption_leaves_nothing_behind(tmp_path: Path, error: BaseException) -> None:
    part = tmp_path / "circuits"

    def interrupted(made_from: dict[str, object]) -> None:
        with (
            pytest.raises(type(error)),
            locked(tmp_path, print),
            published(part, made_from) as folder,
        ):
            (folder / "half").write_text("half")
            raise error

    interrupted(FIRST)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    with locked(tmp_path, print):
        get(part, FIRST, "good")
    interrupted({"version": 2})
    assert (part / "sub/content").read_text() == "good"


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
    reason = {errno.ENOSPC: "No space", errno.EROFS: "Read-only file system"}[code]
    with (
        pytest.raises(InputError, match=words) as raised,
        locked(tmp_path, print),
        published(tmp_path / "circuits", FIRST),
    ):
        raise OSError(code, reason)
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
