"""Labelled texts: reading TSV files, splits of a data set, and a second validation set.

A split is a list of `LabelledText`. Texts are taken as they are: SST-2's are lower case, with
words and punctuation separated by single spaces, and everything here calls such a piece a word.

The second validation set is needed because SST-2's train set holds every constituent of its own
sentences as a text of its own: a sentence picked at random has its phrases, with their labels, in
what is left. `hold_out` removes those as well.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.files import read_bytes, to_utf8
from fhe_inhibitor.system.folders import is_path

Words = tuple[str, ...]
OnInvalid = Callable[[InputError], None]

COLUMNS = ("label", "sentence")
# First bytes of files that somebody takes for text, and what to do with those.
PACKED = {
    b"PK\x03\x04": "a zip archive, or a spreadsheet: unpack it, or save it as tab-separated text",
    b"\x1f\x8b": "gzipped: its name must end with .gz",
    b"PAR1": "a Parquet file: convert it to tab-separated text",
}
MIN_SENTENCE_WORDS = 8
MIN_LEAK_WORDS = 3
LEAK_RUN_WORDS = 8


class LabelledText(NamedTuple):
    """A text and its class, 0 .. n_labels - 1."""

    text: str
    label: int


def read_tsv(
    path: str | Path, n_labels: int = 2, on_invalid: OnInvalid | None = None
) -> list[LabelledText]:
    """Read a tab-separated file with a header that names the columns `label` and `sentence`.

    Quotes are ordinary characters, and further columns are ignored. Empty lines are skipped.
    on_invalid: is told what is wrong with a line, which is left out then, instead of raising that.

    Raises InputError, with file and line, for a missing or empty file, bytes that are not UTF-8,
    a column that is missing or there twice, a label that is not an integer in 0 .. n_labels - 1, or
    a sentence without a visible character.
    """
    rows = []
    for where, (label, text) in read_columns(path, COLUMNS, on_invalid):
        with left_out(on_invalid):
            _check_visible(text, where)
            rows.append(LabelledText(text, read_label(label, n_labels, where)))
    return rows


def read_unlabelled(path: str | Path) -> list[str]:
    """Return the sentences of a file as `read_tsv` does, whatever their labels are."""
    texts = []
    for where, (text,) in read_columns(path, COLUMNS[1:]):
        _check_visible(text, where)
        texts.append(text)
    return texts


def _check_visible(text: str, where: str) -> None:
    if not is_visible(text):
        raise InputError(f"{where}: the sentence is empty; remove the line")


@contextmanager
def left_out(on_invalid: OnInvalid | None) -> Iterator[None]:
    """Tell `on_invalid` of an InputError of the block, which ends then; without one, raise it."""
    try:
        yield
    except InputError as error:
        if on_invalid is None:
            raise
        on_invalid(error)


def read_columns(
    path: str | Path, columns: Sequence[str], on_invalid: OnInvalid | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Yield file and line number, to blame, and these columns' stripped cells, of each line.

    on_invalid: as in `read_tsv`, of lines that are not UTF-8, too. Raises InputError as that does,
    but knows nothing of labels and sentences.
    """
    lines = read_lines(path, on_invalid)
    header_form = f"wanted a tab-separated header with {' and '.join(columns)}"
    if not lines:
        raise InputError(f"{path} is empty; {header_form}")
    header = lines[0].split("\t")
    for column in columns:
        if header.count(column) != 1:
            count = "two columns" if column in header else "no column"
            raise InputError(f"{path}, line 1: {count} {column!r} among {header}; {header_form}")
    if not any(line.strip() for line in lines[1:]):
        raise InputError(f"{path} has a header but no texts; wanted one labelled text a line")
    positions = [header.index(column) for column in columns]
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        cells = line.split("\t")
        where = f"{path}, line {number}"
        n_cells = len(cells)
        if n_cells == len(header):
            yield where, [cells[position].strip() for position in positions]
            continue
        with left_out(on_invalid):
            raise InputError(
                f"{where}: {n_cells} tab-separated cells; the header has {len(header)}"
            )


def load_splits(name_or_path: str | Path, n_labels: int = 2) -> dict[str, list[LabelledText]]:
    """Load the splits `train` and `validation` from a folder or from the Hugging Face hub.

    A folder holds `train.tsv` and `dev.tsv` (see `read_tsv`). A hub name is a repository, with
    the configuration after a colon where there is one: `nyu-mll/glue:sst2`.

    Raises InputError for a folder without these files, and where the hub cannot be reached.
    """
    folder = Path(name_or_path)
    if folder.is_dir():
        return {
            "train": read_tsv(folder / "train.tsv", n_labels),
            "validation": read_tsv(folder / "dev.tsv", n_labels),
        }
    if is_path(name_or_path):
        raise InputError(
            f"{str(name_or_path)!r} is no folder here: pass one that holds train.tsv and dev.tsv, "
            "or a hub name such as nyu-mll/glue:sst2"
        )
    return _splits_from_hub(str(name_or_path), n_labels)


def hold_out(
    train: list[LabelledText], n_sentences: int = 1000, seed: int = 0
) -> tuple[list[LabelledText], list[LabelledText]]:
    """Split a second validation set off a train set that also holds parts of its sentences.

    `n_sentences` full sentences (see `full_sentences`) are drawn at random. What is kept is
    everything else, less each text of three words or more that occurs inside a drawn sentence;
    one and two words are vocabulary rather than a leak.

    Returns (kept, held_out). Raises InputError where there are fewer full sentences than asked.

    >>> train = [LabelledText("a film of rare and quiet beauty .", 1),
    ...          LabelledText("rare and quiet beauty", 1), LabelledText("quiet", 1)]
    >>> kept, held_out = hold_out(train, n_sentences=1)
    >>> [row.text for row in kept], [row.text for row in held_out]
    (['quiet'], ['a film of rare and quiet beauty .'])
    """
    full = full_sentences([row.text for row in train])
    if not 0 < n_sentences <= len(full):
        raise InputError(
            f"asked to hold out {n_sentences} sentences; the train set has {len(full)} full "
            f"sentences (of {MIN_SENTENCE_WORDS} words or more, inside no other text); "
            f"ask for 1 to {len(full)}"
        )
    drawn = sorted(random.Random(seed).sample(full, n_sentences))
    held_out = [train[index] for index in drawn]
    words = [tuple(row.text.split()) for row in train]
    leaks = _leaks(words, [words[index] for index in drawn])
    kept = [row for row, text in zip(train, words, strict=True) if text not in leaks]
    return kept, held_out


def full_sentences(texts: Sequence[str]) -> list[int]:
    """Return the indices of texts of eight words or more that occur only once, inside no other."""
    words = [tuple(text.split()) for text in texts]
    counts = Counter(words)
    inside = phrases_inside(counts, counts)
    return [
        index
        for index, text in enumerate(words)
        if len(text) >= MIN_SENTENCE_WORDS and text not in inside and counts[text] == 1
    ]


def phrases_inside(phrases: Collection[Words], texts: Iterable[Words]) -> set[Words]:
    """Return the phrases that occur inside a text that is longer than they are.

    >>> phrases_inside([("quiet",), ("a", "film")], [("a", "quiet", "film"), ("a", "film")])
    {('quiet',)}
    """
    lengths: dict[Words, set[int]] = {}
    for phrase in phrases:
        lengths.setdefault(phrase[:2], set()).add(len(phrase))
    known, found = set(phrases), set[Words]()
    for text in texts:
        for start in range(len(text)):
            for n_begin in (1, 2):
                for n in lengths.get(text[start : start + n_begin], ()):
                    if n < len(text) and text[start : start + n] in known:
                        found.add(text[start : start + n])
    return found


def without_leaks(texts: Sequence[str], held_out: Sequence[str]) -> list[str]:
    """Return the texts that are no phrase of a held-out text and share no run of eight words.

    A phrase of one or two words is no leak; the same words may well stand in both.
    """
    words, held = ([tuple(text.split()) for text in side] for side in (texts, held_out))
    leaks = _leaks(words, held)
    shared = {run for text in held for run in _long_runs(text)}
    return [
        text
        for text, own in zip(texts, words, strict=True)
        if own not in leaks and shared.isdisjoint(_long_runs(own))
    ]


def _leaks(texts: Collection[Words], held_out: Collection[Words]) -> set[Words]:
    """Return the held-out texts, and the texts of three words or more that stand inside one."""
    long = {text for text in texts if len(text) >= MIN_LEAK_WORDS}
    return {*held_out, *phrases_inside(long, held_out)}


def _long_runs(words: Words) -> Iterator[Words]:
    """All runs of eight words."""
    return (words[i : i + LEAK_RUN_WORDS] for i in range(len(words) - LEAK_RUN_WORDS + 1))


def read_sentences(path: str | Path, each_apart: bool = False) -> list[str]:
    """Read unlabelled texts, one a line, from a text file or (`.gz`) a compressed one.

    each_apart: keep a line that is no text, with surrogates for what is not UTF-8, for whoever
    refuses it alone. Raises InputError for a missing or empty file, and unless each_apart for bytes
    that are not UTF-8, and for a line without a visible character that isn't just blank.
    """
    return parse_sentences(_read(Path(path)), path, each_apart)


def parse_sentences(content: bytes, name: str | Path, each_apart: bool = False) -> list[str]:
    """Do `read_sentences` with what a file holds. name: to blame."""
    lines = _decode_lines(content, name, "surrogateescape" if each_apart else "strict")
    for number, line in enumerate(lines, start=1):
        if line.strip() and not is_visible(line) and not each_apart:
            raise InputError(
                f"{name}, line {number}: no visible character in {ascii(line)}; remove the line"
            )
    sentences = [line.strip() for line in lines if line.strip()]
    if not sentences:
        raise InputError(f"{name} holds no text; wanted one sentence a line")
    return sentences


def read_document(path: str | Path) -> str:
    """Read all of a file as one text. Raises InputError as `read_sentences` does."""
    return _document(read_lines(Path(path)), path)


def parse_document(content: bytes, name: str) -> str:
    """Do `read_document` with what a file holds. name: to blame."""
    return _document(_decode_lines(content, name), name)


def is_visible(text: str) -> bool:
    """Whether a text has a character that can be seen: a tokenizer drops all others.

    >>> is_visible("ok"), is_visible(" "), is_visible("\u200b\ufeff")
    (True, False, False)
    """
    return any(character.isprintable() and not character.isspace() for character in text)


def _document(lines: Sequence[str], name: str | Path) -> str:
    text = "\n".join(lines).strip()
    if not is_visible(text):
        raise InputError(f"{name} holds no text; wanted a document")
    return text


def read_lines(path: str | Path, on_invalid: OnInvalid | None = None) -> list[str]:
    """Return a file's lines, ends removed; a file whose name ends with `.gz` is unzipped.

    on_invalid: is told of a line that is not UTF-8, which is empty then. Raises InputError for a
    file that can't be read, or is none of text, and without on_invalid for such a line.
    """
    return _decode_lines(_read(Path(path)), path, on_invalid=on_invalid)


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise InputError(f"{path} is not a file; pass the path of an existing one") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from error


def _decode_lines(
    raw: bytes, name: str | Path, errors: str = "strict", on_invalid: OnInvalid | None = None
) -> list[str]:
    for start, kind in PACKED.items():
        if raw.startswith(start):
            raise InputError(f"{name} is {kind}")
    # Not splitlines(): a review may contain U+0085 or U+2028, which are no ends of a line here.
    content = to_utf8(raw).replace(b"\r\n", b"\n")
    if b"\n" not in content:  # as old Macs and some spreadsheets end lines
        content = content.replace(b"\r", b"\n")
    lines = content.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    decoded = []
    for number, line in enumerate(lines, start=1):
        try:
            decoded.append(line.decode("utf-8", errors))
        except UnicodeDecodeError as error:
            with left_out(on_invalid):
                raise InputError(
                    f"{name}, line {number}: not UTF-8 ({error.reason}); convert the file to UTF-8"
                ) from None
            decoded.append("")
    return decoded


def read_label(cell: str, n_labels: int, where: str) -> int:
    """Return a class as an integer; raises InputError that names the place."""
    # int() would take the digits of any script, and "1_0", and it refuses thousands of digits.
    label = int(cell) if cell.isascii() and cell.isdigit() and len(cell) < 10 else -1
    if not 0 <= label < n_labels:
        read = repr(cell[:60])
        raise InputError(f"{where}: label {read}; wanted an integer from 0 to {n_labels - 1}")
    return label


def load_from_hub(name: str) -> Any:
    """Return the hub's data set `repository` or `repository:configuration`, with its splits.

    Raises InputError, which says how to pass a folder, where the hub can't be reached.
    """
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"{name!r} is no folder here, and the hub needs the package datasets ({error}); "
            f"pass a folder that holds train.tsv and dev.tsv, or run `pip install datasets`"
        ) from error
    repository, _, configuration = name.partition(":")
    try:
        return datasets.load_dataset(repository, configuration or None)
    except Exception as error:  # the hub's client raises a dozen unrelated kinds
        raise InputError(
            f"{name!r} is no folder here and could not be loaded from the hub "
            f"({type(error).__name__}); pass a folder that holds train.tsv and dev.tsv, or a hub "
            f"name such as nyu-mll/glue:sst2 on a machine with network access"
        ) from error


def _splits_from_hub(name: str, n_labels: int) -> dict[str, list[LabelledText]]:
    loaded = load_from_hub(name)
    splits: dict[str, list[LabelledText]] = {}
    for split in ("train", "validation"):
        if split not in loaded or not {*COLUMNS} <= {*loaded[split].column_names}:
            raise InputError(
                f"{name!r} has no split {split!r} with the columns {' and '.join(COLUMNS)}"
            )
        splits[split] = []
        for index, row in enumerate(loaded[split]):
            where = f"{name}, {split}, row {index}"
            text = " ".join(str(row["sentence"]).split())  # one line, as in a file
            _check_visible(text, where)
            label = read_label(str(row["label"]), n_labels, where)
            splits[split].append(LabelledText(text, label))
    return splits
