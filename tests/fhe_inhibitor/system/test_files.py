"""Files that people write: read, or refused with one line that says what they should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.files import read_json, read_yaml


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
