"""The file of an evaluation: goes on after a crash, and is never mistaken for another one."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import re
from pathlib import Path

import pytest

from compile.evaluation.records import open_evaluation, read_evaluation
from fhe_inhibitor.errors import InputError
from tests.compile.evaluation.records import header, sitting, text, write

TEXTS = [text(0, 1, [0, 3]), text(2, 0, [4, -4])]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "file.jsonl", header(), TEXTS)


def test_what_is_written_is_read(path: Path) -> None:
    of, found = read_evaluation(path)
    assert of == header()
    assert found.sittings == [sitting()]
    assert found.texts == {0: TEXTS[0], 2: TEXTS[1]}
    kinds = [json.loads(line).get("kind") for line in path.read_text().splitlines()]
    assert kinds == [None, "sitting", "text", "text"]


@pytest.mark.parametrize("n_bytes", [1, 40, 250])
def test_a_half_written_line_is_dropped_and_written_anew(path: Path, n_bytes: int) -> None:
    """250 bytes are nearly all of the last line, 1 is its end alone."""
    whole = path.read_bytes()
    assert len(whole.splitlines()[-1]) > 250
    path.write_bytes(whole[:-n_bytes])
    assert list(read_evaluation(path)[1].texts) == [0]
    with open_evaluation(path) as file:
        assert file.n_dropped > 0
        assert file.begin(header(), sitting(timed=True)) == 1
        file.append(TEXTS[1].model_copy(update={"sitting": 1}))
    of, found = read_evaluation(path)
    assert list(found.texts) == [0, 2]
    assert [s.timed for s in found.sittings] == [False, True]
    assert path.read_bytes().count(b"\n") == 5


@pytest.mark.parametrize("n_bytes", [0, 5, 36, 200])
def test_a_half_written_header_is_begun_anew(path: Path, n_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(InputError, match="holds no evaluation yet"):
        read_evaluation(path)
    with open_evaluation(path) as file:
        file.begin(header(), sitting())
    assert read_evaluation(path)[0] == header()


def test_nothing_stays_of_a_file_that_was_not_begun(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_evaluation(tmp_path / "file.jsonl"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content", [b"sentence\tlabel\na film\t1\n", b"no end", b'{"format":"other"}\n', b"\x00\x01\n"]
)
def test_another_file_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "dev.tsv"
    path.write_bytes(content)
    with pytest.raises(InputError, match="no file of an evaluation"), open_evaluation(path):
        pass
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_hash": "e" * 64}, f"model_hash {'a' * 12}, now {'e' * 12})"),
        ({"circuits_hash": "e" * 64}, "circuits_hash"),
        ({"data_sha256": "e" * 64}, "data_sha256"),
        ({"max_tokens": 5}, "max_tokens 4, now 5"),
        ({"mode": "simulate"}, "mode execute, now simulate"),
        ({"n_draws": 3}, "n_draws 2, now 3"),
        ({"float_sha256": None}, "float_sha256 dddddddddddd, now None"),
        ({"tokenizer_sha256": "e" * 64}, f"tokenizer_sha256 {'f' * 12}, now {'e' * 12})"),
    ],
)
def test_an_evaluation_of_something_else_is_refused(path: Path, changes: dict, words: str) -> None:
    before = path.read_bytes()
    with pytest.raises(InputError, match=re.escape(words)), open_evaluation(path) as file:
        file.begin(header(**changes), sitting())
    assert path.read_bytes() == before


def test_other_names_of_the_same_are_none_of_something_else(path: Path) -> None:
    with open_evaluation(path) as file:
        file.check(header(model="renamed", data="copy.tsv", circuits_hash=None))


def test_a_file_from_before_tokenizers_were_compared_goes_on(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(f',"tokenizer_sha256":"{"f" * 64}"'.encode(), b""))
    assert read_evaluation(path)[0] == header(tokenizer_sha256=None)
    with open_evaluation(path) as file:
        assert file.begin(header(), sitting()) == 1
    assert list(read_evaluation(path)[1].texts) == [0, 2]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{}", "line 5, can't be read"),
        (b"\xff", "line 5"),
        (TEXTS[0].model_dump_json().encode(), "text 0 is there twice"),
        (text(3, 0, [0, 0], sitting=1).model_dump_json().encode(), "there is no sitting 1"),
        (b'{"kind": "text", "index": -1}', "index"),
    ],
)
def test_a_damaged_line_is_refused_with_its_number(path: Path, line: bytes, words: str) -> None:
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(InputError, match=words):
        read_evaluation(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"index": 10},
        {"label": 2},
        {"label": -1},
        {"logits": None},
        {"logits": ()},
        {"clear_logits": (1, 2, 3)},
        {"clear_logits": (2**40, 0)},
        {"drawn_logits": ((1, 2),)},
        {"drawn_logits": ((1, 2), (1,))},
        {"float_logits": None},
        {"float_logits": (1.0,)},
        {"offset": (1.0,)},
        {"n_positions": 0},
        {"seconds": 0.0},
        {"seconds": -1.0},
        {"stages": {"encrypt": -1.0}},
    ],
)
def test_a_text_that_does_not_fit_the_first_line_is_refused(path: Path, changes: dict) -> None:
    line = text(3, 0, [0, 0]).model_copy(update=changes).model_dump_json()
    path.write_bytes(path.read_bytes() + line.encode() + b"\n")
    (name,) = changes
    with pytest.raises(InputError, match=f"line 5, can't be read.*{name}"):
        read_evaluation(path)


@pytest.mark.parametrize(
    ("was", "now"),
    [
        (b'"logit_scale":0.5', b'"logit_scale":0'),
        (b'"logit_scale":0.5', b'"logit_scale":NaN'),
        (b'"n_draws":2', b'"n_draws":-1'),
        (b'"labels":["negative","positive"]', b'"labels":["negative"]'),
    ],
)
def test_a_first_line_that_no_model_has_is_refused(path: Path, was: bytes, now: bytes) -> None:
    content = path.read_bytes()
    assert was in content
    path.write_bytes(content.replace(was, now))
    with pytest.raises(InputError, match="line 1, can't be read"):
        read_evaluation(path)


def test_another_version_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"version":1', b'"version":2'))
    with pytest.raises(InputError, match="version 2, this one reads 1"):
        read_evaluation(path)


def hold(path: Path, ready: object, done: object) -> None:
    with open_evaluation(path):
        ready.set()  # type: ignore[attr-defined]
        done.wait(60)  # type: ignore[attr-defined]


def test_two_processes_do_not_write_to_one_file(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(path, ready, done))
    other.start()
    try:
        assert ready.wait(60)
        with pytest.raises(InputError, match="another process writes"), open_evaluation(path):
            pass
    finally:
        done.set()
        other.join()
    with open_evaluation(path):
        pass


def test_a_refused_process_leaves_a_file_that_is_not_begun(tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    with open_evaluation(path) as file:
        with pytest.raises(InputError, match="another process writes"), open_evaluation(path):
            pass
        file.begin(header(), sitting())
    assert read_evaluation(path)[0] == header()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_goes_away_before_it_is_locked_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    path, other = tmp_path / "file.jsonl", write(tmp_path / "other.jsonl", header(), TEXTS)
    lock = fcntl.flock

    def remove_and_lock(handle: int, how: int) -> None:
        path.unlink()
        if replaced:
            other.rename(path)
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", remove_and_lock)
    with pytest.raises(InputError, match="removed or replaced"), open_evaluation(path):
        pass
    assert path.exists() == replaced


def test_what_is_no_regular_file_is_refused_and_stays(tmp_path: Path) -> None:
    """A pipe is not opened: that would wait for whoever reads it."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(InputError, match="no regular file"), open_evaluation(path):
            pass
        assert path.exists()


def test_an_empty_file_of_the_user_s_stays(tmp_path: Path) -> None:
    path, link = tmp_path / "file.jsonl", tmp_path / "link"
    path.touch()
    with open_evaluation(path):
        pass
    assert path.exists()
    path.unlink()
    link.symlink_to(path)
    with open_evaluation(link):
        assert path.exists()
    assert link.is_symlink() and not path.exists()


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--out"), open_evaluation(tmp_path / "no" / "file"):
        pass
    with pytest.raises(InputError, match="can't be read"):
        read_evaluation(tmp_path / "missing.jsonl")
