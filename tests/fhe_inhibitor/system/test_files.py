"""Files are whole or absent; what is no file, and what a link leads to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.files import claim, write_atomically


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    path, link = tmp_path / "folder" / "file", tmp_path / "link"
    link.symlink_to(path)
    for content in ("made", "replaced"):
        write_atomically(link, content)
        assert link.is_symlink() and path.read_text() == content
    assert os.listdir(path.parent) == ["file"]


def test_what_is_no_regular_file_is_refused_and_stays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(InputError, match="no regular file"):
            write_atomically(path, "content")
        assert path.exists() and not path.is_file()
    assert os.listdir(tmp_path) == ["pipe"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff"])
def test_a_claim_that_is_damaged_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "parameters.json"
    claim(path, {"seed": 0}, "a build", "--work")
    claim(path, {"seed": 0}, "a build", "--work")
    with pytest.raises(InputError, match="a build with other seed; remove it"):
        claim(path, {"seed": 1}, "a build", "--work")
    path.write_bytes(content)
    with pytest.raises(InputError, match="is damaged, .*: remove that folder, or .* --work"):
        claim(path, {"seed": 0}, "a build", "--work")
