"""Labelled texts of a user's own, as they come: files of three kinds, a folder of them, the hub.

    text,topic                                  a header that names the columns, in any order
    "What is a pangolin?",animals               any names of classes, words or numbers

Files are tab-separated (.tsv, quotes are ordinary characters), comma- or semicolon-separated (.csv,
cells may be quoted) or JSON lines (.jsonl: one object a line), gzipped if they end with .gz. The
columns are found by the usual names, unless they are given. A folder holds a file of its own for
each split, or one file in all. What is read is a text and the *name* of its class. `splitting`
makes classes of names, and decides what is trained on.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.files import GZIPPED
from fhe_inhibitor.system.folders import is_path
from fhe_inhibitor.text.data import OnInvalid, left_out, load_from_hub, read_columns, read_lines

TRAIN, VALIDATION = "train", "validation"
# What files and the hub call a split; of several names the first that is there counts.
SPLITS = {
    TRAIN: ("train", "training"),
    VALIDATION: ("dev", "validation", "valid", "val", "test"),
}
TEXT_COLUMNS = ("text", "sentence", "question", "review", "comment", "message", "content", "title")
MAX_CELL = 1 << 30  # characters; Python's own limit is 131,072, and the file is in memory anyway
LABEL_COLUMNS = (
    "label", "class", "category", "target", "topic", "type", "sentiment", "intent", "labels",
    "label_text", "coarse_label",
)  # fmt: skip


class NamedText(NamedTuple):
    """A text, and the name of its class."""

    text: str
    label: str


Rows = list[NamedText]
Read = Iterator[tuple[str, Sequence[Any]]]  # where, to blame; text and label as they stand there


class Columns(NamedTuple):
    """Names of the columns of texts and of classes; None is found by the usual names."""

    text: str | None = None
    label: str | None = None

    def find(self, names: Sequence[str], where: str | Path) -> tuple[str, str]:
        """Return both among a header's names. Raises InputError where one isn't there."""
        return (
            _find(self.text, TEXT_COLUMNS, names, where, "text"),
            _find(self.label, LABEL_COLUMNS, names, where, "label"),
        )


def read_labelled(
    source: str | Path, columns: Columns | None = None, on_invalid: OnInvalid | None = None
) -> dict[str, Rows]:
    """Return the split `train`, and `validation` where the source has one of its own.

    source: a file, a folder of files called train and dev (or validation, val, test), a folder with
    one file, or a hub name such as `SetFit/TREC-QC`. on_invalid: is told what is wrong with a line,
    which is left out then, instead of raising that. Empty texts are kept, for `splitting` to count.

    Raises InputError, with file and line, for what can't be read: a kind of file that isn't known,
    bytes that are not UTF-8, columns that can't be found, a cell that is no text or names no class.
    """
    path, columns = Path(source), columns or Columns()
    if os.path.isdir(path):  # whose own is_dir() fails for a name that is too long
        files = _files_of(path)
    elif os.path.isfile(path):
        files = {TRAIN: path}
    elif is_path(source) or _kind(path):
        raise InputError(
            f"{str(source)!r} is no file or folder here: pass one of labelled texts, or a hub name"
        )
    else:
        return _from_hub(str(source), columns)
    return {split: read_file(file, columns, on_invalid) for split, file in files.items()}


def read_file(path: Path, columns: Columns, on_invalid: OnInvalid | None = None) -> Rows:
    """Return the labelled texts of one file. Raises InputError as `read_labelled` does."""
    read = KINDS.get(_kind(path))
    if read is None:
        raise InputError(
            f"{path} is of no kind that is known; wanted {', '.join(KINDS)}, or one of them with "
            f"{GZIPPED}"
        )
    rows = []
    for where, (text, label) in read(path, columns, on_invalid):
        with left_out(on_invalid):
            if not isinstance(text, str):
                raise InputError(f"{where}: the text is {json.dumps(text)[:60]}; wanted a string")
            rows.append(NamedText(text, _name(label, where)))
    if not rows:
        raise InputError(f"{path} has no labelled text that can be read; wanted one a line")
    return rows


def _read_tsv(path: Path, columns: Columns, on_invalid: OnInvalid | None) -> Read:
    told_below = None if on_invalid is None else lambda error: None
    lines = read_lines(path, told_below)
    chosen = columns.find(_header(lines, path).split("\t"), path)
    yield from read_columns(path, chosen, on_invalid)


def _read_csv(path: Path, columns: Columns, on_invalid: OnInvalid | None) -> Read:
    lines = read_lines(path, on_invalid)
    first = _header(lines, path)
    delimiter = max(",;", key=first.count)  # spreadsheets write the second where 1/2 is 0,5
    content = io.StringIO("\n".join(lines), newline="")
    csv.field_size_limit(MAX_CELL)
    reader = csv.reader(content, delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        positions = [header.index(name) for name in columns.find(header, path)]
        for cells in reader:
            where = f"{path}, line {reader.line_num}"
            if not "".join(cells).strip():
                continue
            with left_out(on_invalid):
                if len(cells) != len(header):
                    raise InputError(
                        f"{where}: {len(cells)} cells; the header has {len(header)}: put a cell "
                        f"with {delimiter!r} in it in double quotes"
                    )
                yield where, [cells[position] for position in positions]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: no CSV ({error})") from None


def _read_jsonl(path: Path, columns: Columns, on_invalid: OnInvalid | None) -> Read:
    chosen: tuple[str, str] | None = None
    for number, line in enumerate(read_lines(path, on_invalid), start=1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        with left_out(on_invalid):
            row = _parse(line, where)
            chosen = chosen or columns.find(list(row), where)
            missing = [name for name in chosen if name not in row]
            if missing:
                raise InputError(f"{where}: no field {missing[0]!r} among {list(row)}")
            yield where, [row[name] for name in chosen]


KINDS: dict[str, Callable[[Path, Columns, OnInvalid | None], Read]] = {
    ".tsv": _read_tsv,
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
}


def _kind(path: Path) -> str:
    """Return the ending that says what a file is, without that of compression; "" if unknown."""
    ending = Path(path.stem if path.suffix == GZIPPED else path.name).suffix.lower()
    return ending if ending in KINDS else ""


def _header(lines: Sequence[str], path: Path) -> str:
    """Return the first line, which names the columns. Raises InputError if there is none."""
    if not lines or not lines[0].strip():
        raise InputError(f"{path} has no first line; wanted one that names the columns")
    return lines[0]


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: no JSON ({error}); wanted one object a line") from None
    if not isinstance(row, dict):
        raise InputError(f"{where}: {line.strip()[:60]}; wanted an object, as {{...}}, a line")
    return row


def _files_of(folder: Path) -> dict[str, Path]:
    """Return the file of each split in a folder; one file alone is to be split."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and _kind(path)]
    by_stem: dict[str, list[Path]] = {}
    for path in files:
        by_stem.setdefault(path.name.split(".")[0].lower(), []).append(path)
    found = {
        split: _alone(by_stem[names[0]], folder)
        for split, wanted in SPLITS.items()
        if (names := [name for name in wanted if name in by_stem])
    }
    if TRAIN in found:
        return found
    if len(files) == 1:
        return {TRAIN: files[0]}
    raise InputError(
        f"{folder} holds {', '.join(path.name for path in files) or 'no file of texts'}; wanted "
        f"one file ({', '.join(KINDS)}), or one called train and another dev"
    )


def _alone(files: Sequence[Path], folder: Path) -> Path:
    """Return the file of a split. Raises InputError for several: none is left out in silence."""
    if len(files) > 1:
        raise InputError(
            f"{folder} holds {' and '.join(path.name for path in files)}; wanted one file of that "
            "name: put their texts in one, or move the others elsewhere"
        )
    return files[0]


def _find(
    given: str | None, usual: Sequence[str], names: Sequence[str], where: str | Path, what: str
) -> str:
    """Return the column given, else the one with a usual name. Raises InputError for none."""
    if given is None:
        alike = next(filter(None, (_called(name, names) for name in usual)), [])
        if len(set(alike)) > 1:
            raise InputError(
                f"{where}: which column holds the {what}s, {' or '.join(map(repr, alike))}? Name "
                f"it with --{what}-column"
            )
        given = alike[0] if alike else None
    if given is None or list(names).count(given) != 1:
        found = "none" if given is None else f"{list(names).count(given)} called {given!r}"
        raise InputError(
            f"{where}: which column holds the {what}s? There is {found} among "
            f"{', '.join(repr(name[:40]) for name in names)}: name it with --{what}-column; a "
            ".tsv or .csv needs a first line with the names of its columns"
        )
    return given


def _called(usual: str, names: Sequence[str]) -> list[str]:
    """Return the columns of this name, in capitals or not."""
    return [name for name in names if name.strip().lower() == usual]


def _name(label: Any, where: str) -> str:
    """Return the name of a class as a file has it: a string, a whole number or a truth value."""
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if not isinstance(label, str | int):
        raise InputError(f"{where}: label {json.dumps(label)[:60]}; wanted a name or whole number")
    name = " ".join((json.dumps(label) if isinstance(label, bool) else str(label)).split())
    if whole := re.fullmatch(r"(-?[0-9]+)\.0+", name):  # as spreadsheets and pandas write 1
        name = whole[1]
    if not name or not name.isprintable():
        raise InputError(f"{where}: label {label!r} is no name; wanted visible characters")
    return name


def _from_hub(name: str, columns: Columns) -> dict[str, Rows]:
    loaded = load_from_hub(name)
    splits: dict[str, Rows] = {}
    for split, wanted in SPLITS.items():
        for there in (candidate for candidate in wanted if candidate in loaded):
            rows = _rows_of(loaded[there], columns, f"{name}, {there}")
            if rows:
                splits[split] = rows
                break
    if TRAIN not in splits:
        raise InputError(f"{name!r} has the splits {', '.join(loaded)}; wanted one called train")
    return splits


def _rows_of(split: Any, columns: Columns, where: str) -> Rows:
    """Return the rows of a split of the hub; none of one whose labels are hidden (-1)."""
    text, label = columns.find(split.column_names, where)
    names = getattr(split.features[label], "names", None)
    if names is not None:
        cells = [row[label] for row in split]
        if min(cells, default=-1) < 0:
            return []
        return [
            NamedText(row[text], _name(names[cell], where))
            for row, cell in zip(split, cells, strict=True)
        ]
    return [NamedText(row[text], _name(row[label], where)) for row in split]
