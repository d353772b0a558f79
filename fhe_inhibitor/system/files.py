"""Files of results and models: whole or absent, gzipped where their name says so, their records."""

from __future__ import annotations

import codecs
import errno
import gzip
import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from fhe_inhibitor.errors import InputError, first_line

GZIPPED = ".gz"


class Record(BaseModel):
    """A part of a results file: immutable, and refuses fields that it doesn't know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Kind = TypeVar("Kind", bound=Record)


def read_results(path: Path, kind: type[Kind], made_by: str) -> Kind:
    """Read the JSON of a record that the command `made_by` kept, to go on with it.

    Raises InputError for a file that can't be read, or holds something else.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        why = first_problem(error) if isinstance(error, ValidationError) else first_line(error)
        raise InputError(
            f"{path} can't be read as results of {made_by}: name another folder with --out, or "
            f"remove it ({why})"
        ) from error


def read_json(path: Path) -> Any:
    """Return what a JSON file holds. Raises InputError for a file that can't be read as JSON."""
    with _reading(path, "JSON"):
        return json.loads(to_utf8(path.read_bytes()))


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds, or one of JSON, which is YAML too. Raises InputError."""
    import yaml  # for few commands

    with _reading(path, "YAML or JSON"):
        try:
            return yaml.safe_load(to_utf8(path.read_bytes()).decode())
        except yaml.YAMLError as error:
            raise ValueError(" ".join(str(error).split())) from error


@contextmanager
def _reading(path: Path, form: str) -> Iterator[None]:
    """Turn what a parser raises into InputError; what is too deep for it is a RecursionError."""
    try:
        yield
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} can't be read as {form}: {first_line(error)}") from error


def first_problem(error: ValueError) -> str:
    """Return what is wrong first with the JSON of a record, and where; any other error's text."""
    if not isinstance(error, ValidationError):
        return str(error)
    problem = error.errors()[0]
    return ": ".join(filter(None, (".".join(map(str, problem["loc"])), problem["msg"])))


def read_bytes(path: Path) -> bytes:
    """Return a file's contents, unzipped if its name ends with `.gz`.

    Raises OSError if it can't be read, or isn't what its name says.
    """
    data = path.read_bytes()
    try:
        return gzip.decompress(data) if path.suffix == GZIPPED else data
    except (EOFError, zlib.error) as error:
        raise OSError(str(error)) from error


def to_utf8(content: bytes) -> bytes:
    """Return text without the mark that some programs begin it with; UTF-16 with one as UTF-8.

    Bytes that are no UTF-16 after its mark come back as they are.

    >>> to_utf8(b"\\xef\\xbb\\xbfa"), to_utf8("a".encode("utf-16"))
    (b'a', b'a')
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        with suppress(UnicodeDecodeError):
            return content.decode("utf-16").encode()
    return content.removeprefix(codecs.BOM_UTF8)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal. Raises OSError if it can't be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: str | Path, data: bytes | str, mode: int = 0o644) -> None:
    """Write a file that appears whole or not at all, and survives a power failure once it has.

    data: text is written as UTF-8. mode: the file's permissions; it never has wider ones. What
    was there before stays until the new content is on the disk. A link stays, and what it leads to
    is written. Raises OSError if the folder can't be written, InputError for what is no file.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is no regular file, and is left as it is: name another one")
    content = data.encode() if isinstance(data, str) else data
    # mkstemp makes the file 0600 before a byte of the content is in it.
    handle, unfinished = tempfile.mkstemp(prefix=".unfinished-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(unfinished, mode)
        os.replace(unfinished, path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def claim(path: Path, parameters: Mapping[str, Any], what: str, option: str) -> None:
    """Write down, as JSON beside it, what something is made from; or check that it is the same.

    what, option: what the file's folder holds, and what names the folder, for the message. Raises
    InputError if the file says that it was made from something else, or can't be read.
    """
    if not path.exists():
        write_atomically(path, json.dumps(parameters, indent=2) + "\n")
    try:
        made_from = read_json(path)
    except InputError:
        made_from = None
    if not isinstance(made_from, dict):
        raise InputError(
            f"{path} is damaged, and says no more what {path.parent} was made from: remove that "
            f"folder, or name another {option}"
        )
    differing = sorted(key for key in parameters if parameters[key] != made_from.get(key))
    if differing:
        raise InputError(
            f"{path.parent} holds {what} with other {', '.join(differing)}; "
            f"remove it or name another {option}"
        )


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder last, even after a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def writing(what: str, instead: str) -> Iterator[None]:
    """Turn what the file system refuses in the block into an InputError that says what to do.

    what: such as "the cache folder /x". instead: what else the user can do, such as "name another
    one in VARIABLE".
    """
    try:
        yield
    except OSError as error:
        refused = {
            errno.ENOSPC: "has no space left: free 1 GB",
            errno.EDQUOT: "is over its quota: free 1 GB",
        }.get(error.errno or 0, f"cannot be written ({error.strerror}): make it writable")
        raise InputError(f"{what} {refused}, or {instead}") from error


def make_folder(out: Path) -> None:
    """Create the folder of the results, before hours are spent on what can't be written.

    Raises InputError if it can't be created or written to.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"can't write to the folder {out}: {error.strerror}; name another with --out"
        ) from None
