"""Labelled texts as users have them: three kinds of file, folders, the hub; and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import datasets
import pytest

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.text import labelled
from fhe_inhibitor.text.labelled import Columns, NamedText, read_labelled

TEXTS = [NamedText('He said "no", twice', "sad"), NamedText("caf\u00e9 ; open", "glad")]
FILES = {
    "a.tsv": 'label\tid\ttext\nsad\t1\tHe said "no", twice\n\nglad\t2\tcaf\u00e9 ; open\n',
    "a.csv": 'text,label\n"He said ""no"", twice",sad\ncaf\u00e9 ; open,glad\n',
    "b.csv": 'Text;Label\r\n"He said ""no"", twice";sad\r\n"caf\u00e9 ; open";glad\r\n',
    "a.jsonl": "\n".join(json.dumps(row._asdict()) for row in TEXTS),
}


def write(folder: Path, content: bytes | str, name: str) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("name", FILES)
def test_each_kind_of_file_says_the_same(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, FILES[name], name)
    packed = write(tmp_path, gzip.compress(FILES[name].encode()), f"{name}.gz")
    assert read_labelled(path) == read_labelled(packed) == {"train": TEXTS}


def test_a_cell_in_quotes_may_have_several_lines(tmp_path: Path) -> None:
    path = write(tmp_path, 'text,label\n"one\n\ntwo",1\nthree,2\n', "a.csv")
    assert [row.text for row in read_labelled(path)["train"]] == ["one\n\ntwo", "three"]


def test_columns_may_have_any_name(tmp_path: Path) -> None:
    path = write(tmp_path, "body,kind,label\nso,x,1\n", "a.csv")
    assert read_labelled(path, Columns("body", "kind")) == {"train": [NamedText("so", "x")]}
    assert read_labelled(path, Columns("body")) == {"train": [NamedText("so", "1")]}


@pytest.mark.parametrize("header", ["Text,text,label", "label,text,Label"])
def test_columns_that_differ_in_capitals_alone_are_to_be_named(tmp_path: Path, header: str) -> None:
    path = write(tmp_path, f"{header}\na,b,c\n", "a.csv")
    with pytest.raises(InputError, match="holds the .*('Text' or 'text'|'label' or 'Label')"):
        read_labelled(path)
    assert read_labelled(path, Columns("text", "label"))


def test_labels_of_json_are_names_numbers_or_truth_values(tmp_path: Path) -> None:
    values = ["a  b", 3, -1, 2.0, True]
    lines = [json.dumps({"text": "t", "label": value}) for value in values]
    path = write(tmp_path, "\n".join(lines), "a.jsonl")
    assert [row.label for row in read_labelled(path)["train"]] == ["a b", "3", "-1", "2", "true"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "text\tlabel\n", "of no kind that is known; wanted .tsv, .csv, .jsonl"),
        ("a.tsv", "", "no first line; wanted one that names the columns"),
        ("a.csv", "\n", "no first line"),
        ("a.jsonl", "", "no labelled text that can be read"),
        ("a.tsv", "a fine film\tgood\n", "which column holds the texts.*needs a first line"),
        ("a.csv", f"{'so ' * 99},good\n", "holds the texts.*--text-column"),
        ("a.tsv", "body\tlabel\nx\ty\n", "holds the texts.*'body', 'label'"),
        ("a.tsv", "text\tkind\nx\ty\n", "holds the labels.*--label-column"),
        ("a.csv", "text,text,label\nx,y,z\n", "2 called 'text'"),
        ("a.tsv", "text\tlabel\nx\n", "line 2: 1 tab-separated"),
        ("a.csv", "text,label\na, b,c\n", "line 2: 3 cells; the header has 2"),
        ("a.csv", 'text,label\n"a" b,c\n', "line 2: no CSV"),
        ("a.csv", 'text,label\n"a,c\n', "no CSV"),
        ("a.csv", "text,label\n", "no labelled text"),
        ("a.csv", "text,label\nx,\n", "line 2: label '' is no name"),
        ("a.csv", b"text,label\nx,1\ncaf\xe9,1\n", "line 3: not UTF-8"),
        ("a.jsonl", '{"text": "x", "label": 0.5}\n', "line 1: label 0.5"),
        ("a.jsonl", '{"text": "x", "label": null}\n', "line 1: label null"),
        ("a.jsonl", '{"text": 7, "label": 1}\n', "line 1: the text is 7"),
        ("a.jsonl", '{"text": "x", "label": 1}\n{"text": "x"}\n', "line 2: no field 'label'"),
        ("a.jsonl", "[1]\n", "wanted an object"),
        ("a.jsonl", "text\n", "line 1: no JSON"),
        ("a.jsonl", "[" * 100_000, "line 1: no JSON"),
        ("a.csv", b"PK\x03\x04", "a zip archive"),
    ],
)
def test_what_cannot_be_read_is_refused(
    tmp_path: Path, name: str, content: bytes | str, message: str
) -> None:
    path = write(tmp_path, content, name)
    with pytest.raises(InputError, match=message) as error:
        read_labelled(path)
    assert str(path) in str(error.value)
    assert len(str(error.value).replace(str(path), "")) < 250 and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", b"text\tlabel\nx\t1\ncaf\xe9\t1\ny\t2\nz\n"),
        ("a.csv", b"text,label\nx,1\ncaf\xe9,1\ny,2\nz\n"),
        ("a.jsonl", b'{"text":"x","label":1}\n\xe9\n{"text":"y","label":2}\n{"text":"z"}\n'),
    ],
)
def test_bad_lines_are_left_out_if_that_is_asked_for(
    tmp_path: Path, name: str, content: bytes
) -> None:
    told: list[InputError] = []
    rows = read_labelled(write(tmp_path, content, name), on_invalid=told.append)["train"]
    assert rows == [NamedText("x", "1"), NamedText("y", "2")]
    assert ["line 3" in str(told[0]) or "line 2" in str(told[0]), len(told)] == [True, 2]


def test_a_long_cell_is_a_text_as_any_other(tmp_path: Path) -> None:
    """Python's own limit, 131,072 characters, would refuse the file."""
    long = "so " * 70_000
    rows = read_labelled(write(tmp_path, f"text,label\nx,1\n{long},2\ny,2\n", "a.csv"))["train"]
    assert rows == [NamedText("x", "1"), NamedText(long, "2"), NamedText("y", "2")]


def test_a_folder_has_splits_or_one_file(tmp_path: Path) -> None:
    write(tmp_path, "text,label\na,1\n", "all.csv")
    write(tmp_path, "about this folder", "README.txt")
    assert list(read_labelled(tmp_path)) == ["train"]
    write(tmp_path, "text,label\nb,1\n", "more.csv")
    with pytest.raises(InputError, match="holds all.csv, more.csv; wanted one file"):
        read_labelled(tmp_path)
    write(tmp_path, "text,label\nc,1\n", "train.csv")
    write(tmp_path, "text\tlabel\nd\t1\n", "test.tsv")
    rows = read_labelled(tmp_path)
    assert {split: [row.text for row in rows[split]] for split in rows} == {
        "train": ["c"],
        "validation": ["d"],
    }
    write(tmp_path, "text\tlabel\ne\t1\n", "dev.tsv")
    assert [row.text for row in read_labelled(tmp_path)["validation"]] == ["e"]


@pytest.mark.parametrize("other", ["train.csv", "train.part2.tsv", "Train.jsonl.gz"])
def test_no_file_of_a_split_is_left_out_in_silence(tmp_path: Path, other: str) -> None:
    write(tmp_path, "text\tlabel\na\t1\n", "train.tsv")
    write(tmp_path, "text,label\nb,1\n", other)
    with pytest.raises(InputError, match=r"holds \S+ and \S+; wanted one file") as error:
        read_labelled(tmp_path)
    assert "train.tsv" in str(error.value) and other in str(error.value)


def test_whole_numbers_are_the_same_classes_in_each_kind_of_file(tmp_path: Path) -> None:
    """Pandas writes 1.0 for 1 where a label of the column is missing."""
    for name, content in {
        "a.tsv": "text\tlabel\nx\t1\ny\t1.0\nz\t-2.00\n",
        "a.csv": "text,label\nx,1\ny,1.0\nz,-2.00\n",
        "a.jsonl": "".join(f'{{"text": "t", "label": {n}}}\n' for n in ("1", "1.0", "-2.00")),
    }.items():
        rows = read_labelled(write(tmp_path, content, name))["train"]
        assert [row.label for row in rows] == ["1", "1", "-2"]


@pytest.mark.parametrize(
    "name", ["no/such/folder", "./missing", "missing.csv", f"{'x' * 300}.csv", f"{'x' * 300}/a.csv"]
)
def test_a_path_to_nothing_is_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(InputError, match="is no file or folder here"):
        read_labelled(name)


def test_the_hub_s_classes_have_names_and_hidden_labels_are_no_split(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["sad", "glad"])}
    )

    def of(labels: list[int]) -> datasets.Dataset:
        rows = {"text": [f"t{i}" for i in range(len(labels))], "label": labels}
        return datasets.Dataset.from_dict(rows, features=features)

    loaded = datasets.DatasetDict({"train": of([0, 1]), "validation": of([-1]), "test": of([1])})
    monkeypatch.setattr(labelled, "load_from_hub", lambda name: loaded)
    assert read_labelled("owner/name") == {
        "train": [NamedText("t0", "sad"), NamedText("t1", "glad")],
        "validation": [NamedText("t0", "glad")],
    }
    del loaded["train"]
    with pytest.raises(InputError, match="splits validation, test; wanted one called train"):
        read_labelled("owner/name")
