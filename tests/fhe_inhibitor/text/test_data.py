"""Reading labelled texts, and the second validation set."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import pytest

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.text.data import (
    LabelledText,
    full_sentences,
    hold_out,
    load_splits,
    read_label,
    read_sentences,
    read_tsv,
    without_leaks,
)

SENTENCE = "a slow tale of two very patient gardeners ."


def write(folder: Path, content: bytes | str, name: str = "train.tsv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_quotes_further_columns_and_line_ends_are_read_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path, 'sentence\tid\tlabel\r\nthe "good\t7\t1\r\n\r\nso \u2028 so"\t8\t0')
    assert read_tsv(path) == [LabelledText('the "good', 1), LabelledText('so \u2028 so"', 0)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"label\tsentence\n", "no texts"),
        (b"label\ttext\n1\tfine\n", "line 1: no column 'sentence'"),
        (b"label\tsentence\n1\tfine\n2\tbad\n", "line 3: label '2'"),
        (b"label\tsentence\n-1\tbad\n", "line 2: label '-1'"),
        (b"label\tsentence\ngood\tfine\n", "line 2: label 'good'"),
        (b"label\tsentence\n1 fine\n", "line 2: 1 tab-separated"),
        (b"label\tsentence\n1\t\n", "line 2: the sentence is empty"),
        (b"label\tsentence\n1\tfine\n0\tcaf\xe9\n", "line 3: not UTF-8"),
    ],
)
def test_a_bad_file_is_refused_with_file_and_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = write(tmp_path, content)
    with pytest.raises(InputError, match=message) as error:
        read_tsv(path)
    assert str(path) in str(error.value)


def test_missing_files_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.tsv", tmp_path):
        with pytest.raises(InputError, match="is not a file"):
            read_tsv(path)
    with pytest.raises(InputError, match=r"train\.tsv is not a file"):
        load_splits(tmp_path)


def test_splits_of_a_folder(tmp_path: Path) -> None:
    write(tmp_path, "label\tsentence\n2\tfine\n")
    write(tmp_path, "label\tsentence\n0\tpoor\n", "dev.tsv")
    splits = load_splits(tmp_path, n_labels=3)
    assert splits == {"train": [("fine", 2)], "validation": [("poor", 0)]}


class Hub:
    """Stands for the package datasets: rows per split, or no network."""

    def __init__(self, rows: list[dict[str, object]] | None) -> None:
        self.rows = rows

    def load_dataset(self, *name: str | None) -> dict[str, HubSplit]:
        if self.rows is None:
            raise ConnectionError("unreachable")
        assert name == ("some/glue", "sst2")
        return {split: HubSplit(self.rows) for split in ("train", "validation", "test")}


class HubSplit(list):
    @property
    def column_names(self) -> list[str]:
        return list(self[0])


def test_splits_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub([{"sentence": "fine ", "label": 1, "idx": 7}])
    monkeypatch.setitem(sys.modules, "datasets", hub)
    expected = [LabelledText("fine", 1)]
    assert load_splits("some/glue:sst2") == {"train": expected, "validation": expected}
    hub.rows = [{"text": "fine", "label": 1}]
    with pytest.raises(InputError, match="no split 'train' with the columns"):
        load_splits("some/glue:sst2")


@pytest.mark.parametrize(
    ("hub", "message"), [(Hub(None), "on a machine with network"), (None, "the package datasets")]
)
def test_where_the_hub_is_out_of_reach_a_folder_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, hub: Hub | None, message: str
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", hub)
    with pytest.raises(InputError, match=message) as error:
        load_splits("nobody/nothing:sst2")
    assert "pass a folder that holds train.tsv and dev.tsv" in str(error.value)


def test_a_full_sentence_is_long_stands_once_and_inside_nothing() -> None:
    texts = [SENTENCE, "slow tale of two very patient gardeners .", "short ."]
    assert full_sentences(texts) == [0]
    assert full_sentences([SENTENCE, SENTENCE]) == []


def test_hold_out_removes_the_phrases_of_what_it_holds_out() -> None:
    phrases = ["two very patient gardeners", "patient gardeners", "two patient gardeners", "slow"]
    train = [LabelledText(text, 1) for text in [SENTENCE, *phrases]]
    kept, held_out = hold_out(train, n_sentences=1)
    assert [row.text for row in held_out] == [SENTENCE]
    assert [row.text for row in kept] == phrases[1:]
    assert hold_out(train, n_sentences=1) == (kept, held_out)
    with pytest.raises(InputError, match="has 1 full"):
        hold_out(train, n_sentences=2)


def test_leaks_are_left_out() -> None:
    held_out = ["one two three four five six seven eight nine"]
    leaks = ["two three four", held_out[0], "so one two three four five six seven eight too"]
    fine = ["two three", "so two three four", "two three four five six seven eight but"]
    assert without_leaks(leaks + fine, held_out) == fine


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_on_any_system(tmp_path: Path, end: str) -> None:
    """With the last one a file was one text of all."""
    path = tmp_path / "texts"
    path.write_bytes(end.join(["sentence\tlabel", "fine\t1", "dull\t0", ""]).encode())
    assert read_tsv(path) == [LabelledText("fine", 1), LabelledText("dull", 0)]
    assert read_sentences(path)[1:] == ["fine\t1", "dull\t0"]


def test_a_return_within_a_line_is_no_end_of_one(tmp_path: Path) -> None:
    (tmp_path / "texts").write_bytes(b"one\rtext\nanother\n")
    assert read_sentences(tmp_path / "texts") == ["one\rtext", "another"]


def test_a_label_of_thousands_of_digits_is_refused() -> None:
    with pytest.raises(InputError, match=r"^here: label '1{60}'; wanted an integer from 0 to 1$"):
        read_label("1" * 5000, 2, "here")


def test_sentences_are_read_compressed_or_not(tmp_path: Path) -> None:
    plain = write(tmp_path, "one here .\n\n two there .\n", "plain.txt")
    packed = write(tmp_path, gzip.compress(plain.read_bytes()), "packed.txt.gz")
    assert read_sentences(plain) == read_sentences(packed) == ["one here .", "two there ."]
    for broken in (b"no gzip", gzip.compress(b"cut off" * 99)[:20]):
        with pytest.raises(InputError, match="cannot be read"):
            read_sentences(write(tmp_path, broken, "broken.gz"))
    with pytest.raises(InputError, match="holds no text"):
        read_sentences(write(tmp_path, "\n", "empty.txt"))


def test_nothing_of_a_held_out_sentence_is_kept(data_dir: Path) -> None:
    splits = load_splits(data_dir / "glue" / "sst2")
    assert len(splits["train"]) == 67_349 and len(splits["validation"]) == 872
    kept, held_out = hold_out(splits["train"])
    assert len(held_out) == 1000
    leaks = set()
    for row in held_out:
        words = row.text.split()
        spans = [(i, j) for j in range(len(words) + 1) for i in range(max(j - 2, 0))]
        leaks |= {row.text} | {" ".join(words[i:j]) for i, j in spans}
    assert not any(" ".join(row.text.split()) in leaks for row in kept)
