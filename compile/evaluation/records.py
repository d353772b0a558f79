"""The file of an evaluation: what is evaluated, then a line for each sitting and each text.

    {"format": "fhe-inhibitor evaluation", "version": 1, "mode": "execute", "model": ...}
    {"kind": "sitting", "timed": false, "machine": {...}, ...}
    {"kind": "text", "index": 0, "label": 1, "logits": [-9, 14], ...}

Lines are JSON. A line is on the disk before the next text begins, so an interrupted evaluation goes
on where it stopped; each start is a sitting of its own. A line without an end, which a crash
leaves, is dropped. Texts themselves are not in the file: an index is a text's place among those of
the data, whose SHA-256 the first line has.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.files import Record, first_problem
from fhe_inhibitor.system.machine import Machine

VERSION = 1
BEGINNING = b'{"format":"fhe-inhibitor evaluation"'
NAMES = ("model", "data")  # of the same things under another name
OPTIONAL = ("circuits_hash", "tokenizer_sha256")  # compared where both are known
HASH_DIGITS = 12  # that a message shows

Mode = Literal["disable", "simulate", "execute"]
Logit = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Real = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Header(Record):
    """What is evaluated. Texts of two files can be compared if all of it is equal.

    model, data: names. circuits_hash: None where nothing is encrypted. data_sha256: of the file of
    texts, of which `n_texts` can be read. max_tokens: read of a text. labels, logit_scale,
    noise_std: the model's. n_draws: of rounding noise, for each text. float_sha256: of the float
    student's weights, None without one. max_pieces: that are read of a long text, None if each text
    is read as one; neutral_logits: the model's, for long texts. tokenizer_sha256: of the model's
    tokenizer as it is served, which its hash does not cover; None in files older than this field.
    """

    format: Literal["fhe-inhibitor evaluation"] = "fhe-inhibitor evaluation"
    version: int = VERSION
    mode: Mode
    model: str
    model_hash: str
    circuits_hash: str | None
    p_error: float
    data: str
    data_sha256: str
    n_texts: int = Field(ge=1)
    max_tokens: int = Field(ge=1)
    labels: tuple[str, ...] = Field(min_length=2)
    logit_scale: float = Field(gt=0, allow_inf_nan=False)
    noise_std: float = Field(ge=0, allow_inf_nan=False)
    n_draws: int = Field(ge=0)
    float_sha256: str | None
    max_pieces: int | None = None
    neutral_logits: tuple[Real, ...] = ()
    tokenizer_sha256: str | None = None


class Sitting(Record):
    """One start of the command.

    timed: whether who started it said that the machine is quiet. lookup_s: of one lookup by bit
    width, if timed. began: UTC.
    """

    kind: Literal["sitting"] = "sitting"
    timed: bool
    machine: Machine
    lookup_s: dict[int, Seconds] = {}
    began: str


class TextRecord(Record):
    """What came of one text.

    sitting: which one, from 0. label: the true one. logits: decrypted or simulated, None in mode
    `disable`; clear_logits: of the integer model, exact; drawn_logits: with rounding noise, one row
    a draw. These are integers in steps of the header's `logit_scale`. n_tokens: of the text;
    n_read: of those; n_positions: of the circuits; n_pieces: that were read, over which the logits
    are summed. offset: what is to be taken off the logits before the largest says the label, none
    if empty. stages: seconds by name; seconds: from encryption to the logits. done: UTC.
    """

    kind: Literal["text"] = "text"
    index: int = Field(ge=0)
    sitting: int = Field(ge=0)
    label: int = Field(ge=0)
    logits: tuple[Logit, ...] | None
    clear_logits: tuple[Logit, ...]
    drawn_logits: tuple[tuple[Logit, ...], ...]
    float_logits: tuple[Real, ...] | None
    n_tokens: int = Field(ge=1)
    n_read: int = Field(ge=1)
    n_positions: int = Field(ge=1)
    n_pieces: int = Field(default=1, ge=1)
    offset: tuple[Real, ...] = ()
    stages: dict[str, Seconds]
    seconds: Seconds
    done: str

    def check(self, header: Header) -> None:
        """Raise ValueError for what no text of an evaluation with this header has."""
        n, encrypted = len(header.labels), header.mode != "disable"

        def fits(row: Sequence[float] | None, wanted: bool = True) -> bool:
            return row is not None and len(row) == n if wanted else row is None

        right = {
            "index": self.index < header.n_texts,
            "label": self.label < n,
            "logits": fits(self.logits, encrypted),
            "clear_logits": fits(self.clear_logits),
            "drawn_logits": len(self.drawn_logits) == header.n_draws
            and all(fits(row) for row in self.drawn_logits),
            "float_logits": fits(self.float_logits, header.float_sha256 is not None),
            "offset": not self.offset or fits(self.offset),
            "seconds": self.seconds > 0 or not encrypted,
        }
        for name in (name for name, is_right in right.items() if not is_right):
            raise ValueError(f"{name}: {getattr(self, name)} doesn't fit the first line")


Line = TypeAdapter(Annotated[Sitting | TextRecord, Field(discriminator="kind")])


@dataclass
class Evaluation:
    """What a file holds. texts: by index. n_bytes: of whole lines, 0 for a file to be begun."""

    header: Header | None = None
    sittings: list[Sitting] = field(default_factory=list)
    texts: dict[int, TextRecord] = field(default_factory=dict)
    n_bytes: int = 0

    def add(self, line: Sitting | TextRecord) -> None:
        """Add a line. Raises ValueError for a text that is there, or whose sitting isn't."""
        if isinstance(line, Sitting):
            self.sittings.append(line)
        elif line.index in self.texts:
            raise ValueError(f"text {line.index} is there twice")
        elif line.sitting >= len(self.sittings):
            raise ValueError(f"there is no sitting {line.sitting}")
        else:
            self.texts[line.index] = line


def read_evaluation(path: Path) -> tuple[Header, Evaluation]:
    """Return what a file holds, its header apart.

    Raises InputError for a file that can't be read, isn't one of an evaluation, or is damaged.
    """
    try:
        found = _parse(path.read_bytes(), path)
    except OSError as error:
        raise InputError(f"{path} can't be read ({error.strerror})") from None
    if found.header is None:
        raise InputError(f"{path} holds no evaluation yet: run evaluate with --out {path.name}")
    return found.header, found


class EvaluationFile:
    """A file that is written to, by one process at a time; see `open_evaluation`."""

    def __init__(self, path: Path, handle: int, found: Evaluation, n_dropped: int) -> None:
        self.path, self.found, self.n_dropped = path, found, n_dropped
        self._handle = handle

    def check(self, header: Header) -> None:
        """Raise InputError if the file holds an evaluation of something else.

        A circuits hash is compared where both have one: it is known late. So is a tokenizer's:
        older files have none.
        """
        found = self.found.header
        if found is None:
            return
        unknown = [
            name for name in OPTIONAL if not (getattr(found, name) and getattr(header, name))
        ]
        changes = [
            f"{name} {_short(getattr(found, name))}, now {_short(getattr(header, name))}"
            for name in Header.model_fields
            if name not in (*NAMES, *unknown) and getattr(found, name) != getattr(header, name)
        ]
        if changes:
            raise InputError(
                f"{self.path} holds the evaluation of something else ({'; '.join(changes)}): name "
                "another --out"
            )

    def begin(self, header: Header, sitting: Sitting) -> int:
        """Begin a sitting; return its number. Raises InputError as `check` does."""
        self.check(header)
        os.ftruncate(self._handle, self.found.n_bytes)
        if self.found.header is None:
            self.found.header = header
            self._write(header)
        self.append(sitting)
        return len(self.found.sittings) - 1

    def append(self, line: Sitting | TextRecord) -> None:
        """Write a line, which is on the disk then."""
        self.found.add(line)
        self._write(line)

    def _write(self, line: Record) -> None:
        data = line.model_dump_json().encode() + b"\n"
        try:
            while data:
                data = data[os.write(self._handle, data) :]
            os.fsync(self._handle)
        except OSError as error:
            raise InputError(
                f"{self.path} can't be written ({error.strerror}): what is in it is kept; make "
                "room and start again"
            ) from None


@contextmanager
def open_evaluation(path: Path) -> Iterator[EvaluationFile]:
    """Open a file to go on with, made where it is missing; hold it for this process alone.

    Nothing is written to it before `begin`. Raises InputError for a file that can't be written, as
    a device can't, that another process writes to or removes meanwhile, that is damaged, or that is
    something else.
    """
    try:
        made = not path.exists()
        if not (made or path.is_file()):  # seen before it is opened: a pipe waits for its reader
            raise InputError(
                f"can't write to {path} (it is no regular file): name another file with --out"
            )
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise InputError(
            f"can't write to {path} ({error.strerror}): name another file with --out"
        ) from None
    try:
        _lock(handle, path)
        try:
            content = path.read_bytes()
            found = _parse(content, path)
            yield EvaluationFile(path, handle, found, len(content) - found.n_bytes)
        finally:
            # For who has the lock alone: the file of another process is empty until it begins, too.
            if made and os.fstat(handle).st_size == 0:
                Path(os.path.realpath(path)).unlink(missing_ok=True)
    finally:
        os.close(handle)


def _lock(handle: int, path: Path) -> None:
    """Hold a file for this process alone; refuse one that is no longer the file at `path`."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise InputError(f"another process writes to {path}: let it finish") from None
    # Who had the lock before may have removed the file, and what is written to it would be lost.
    if not path.exists() or not os.path.samestat(os.fstat(handle), path.stat()):
        raise InputError(f"{path} was removed or replaced just now: start again")


def _parse(content: bytes, path: Path) -> Evaluation:
    """Return what whole lines hold; whatever follows them was half-written."""
    lines = content.split(b"\n")
    unfinished = lines.pop()
    found = Evaluation(n_bytes=len(content) - len(unfinished))
    if not lines:
        if not (unfinished.startswith(BEGINNING) or BEGINNING.startswith(unfinished)):
            raise _no_evaluation(path)
        return found
    if not lines[0].startswith(BEGINNING):
        raise _no_evaluation(path)
    number = 1
    try:
        found.header = Header.model_validate_json(lines[0])
        if found.header.version != VERSION:
            raise ValueError(f"version {found.header.version}, this one reads {VERSION}")
        for content_of_line in lines[1:]:
            number += 1
            line = Line.validate_json(content_of_line)
            if isinstance(line, TextRecord):
                line.check(found.header)
            found.add(line)
    except ValueError as error:
        raise InputError(
            f"{path}, line {number}, can't be read ({first_problem(error)}): remove the line, or "
            "name another file"
        ) from None
    return found


def _no_evaluation(path: Path) -> InputError:
    return InputError(f"{path} is no file of an evaluation, and is left as it is: name another one")


def _short(value: object) -> str:
    text = str(value)
    return text[:HASH_DIGITS] if len(text) == 64 else text
