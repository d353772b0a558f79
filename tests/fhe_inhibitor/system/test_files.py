"""Files are read, or refused in one line; written whole or not at all, through links."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.files import claim, read_json, read_yaml, write_atomically


@pytest.mark.parametrize("read", [read_json, read_yaml])
def test_json_is_read_by_both_with_a_byte_order_mark_too(read, tmp_path: Path) -> None:
    path = tmp_path / "file"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_text('{"a": [1, "é"]}', encoding=encoding)
        assert read(path) == {"a": [1, "é"]}


@pytest.mark.parametrize(
    ("read", "content"),
    [
        (read_json, "{"),
        pytest.param(read_json, 100_000 * "[", id="deep JSON"),
        pytest.param(read_json, 5000 * "1", id="a long number"),
        (read_yaml, "a: [1"),
        pytest.param(read_yaml, 5000 * "[", id="deep YAML"),
        (read_yaml, "when: 2026-13-45"),
        (read_yaml, "a: \x00"),
    ],
)
def test_what_no_parser_reads_is_one_clear_error(read, content: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(content)
    with pytest.raises(InputError, match=r"file can't be read as (YAML or )?JSON: .") as refused:
        read(path)
    assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match="can't be read"):
        read(tmp_path)


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
