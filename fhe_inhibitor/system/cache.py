"""A cache folder that an interruption cannot break: what is slow to make is made once per user.

A part (`circuits`, `keys`) is a folder with a `manifest.json` that says what it was made from. It
is written under another name and renamed when complete, so a part is either whole or absent; a
lock keeps two processes from making the same one. Everything is readable by its owner only.
"""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.folders import CACHE_VARIABLE, cache_root

MANIFEST = "manifest.json"
UNFINISHED = ".unfinished-"
LOCK = ".lock"

Loaded = TypeVar("Loaded")
Manifest = Mapping[str, Any]


@contextmanager
def locked(folder: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Hold `folder` of the cache, made where it is missing, for this process alone.

    Removes what an interrupted process left unfinished in it.

    Raises InputError if the folder cannot be made or written.
    """
    with _readable_errors(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = FileLock(folder / LOCK, mode=0o600)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            note(f"waiting for another process that prepares {folder}")
            lock.acquire()
    try:
        _remove_unfinished_in(folder)
        yield
    finally:
        lock.release()


def load_or_build(
    part: Path,
    manifest: Manifest,
    build: Callable[[Path], object],
    load: Callable[[Path], Loaded],
    note: Callable[[str], None],
) -> Loaded:
    """Return what `load` reads from a part of the cache, built first unless it is there and fits.

    part: a folder in one that is `locked`. manifest: what the part is made from; a part with
    another one is rebuilt. build: writes into the empty folder that it gets. load: raises
    RuntimeError, ValueError or OSError for a damaged part, which is then rebuilt once. note: is
    told why something that was there is rebuilt.
    """
    if part.exists():
        reason = _difference(part, manifest)
        if reason is None:
            try:
                return load(part)
            except (OSError, RuntimeError, ValueError) as error:
                reason = f"damaged ({str(error).partition(chr(10))[0]})"
        note(f"the {part.name} in the cache are {reason}; making new ones")
    with _readable_errors(part):
        _publish(part, manifest, build)
    return load(part)


def remove_unfinished(cache_dir: str | Path | None = None) -> None:
    """Remove what a killed process left unfinished, wherever no other process is at work."""
    for lock in cache_root(cache_dir).glob(f"*/{LOCK}"):
        with suppress(OSError, Timeout), FileLock(lock, timeout=0, mode=0o600):
            _remove_unfinished_in(lock.parent)


def _publish(part: Path, manifest: Manifest, build: Callable[[Path], object]) -> None:
    unfinished = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=part.parent))
    try:
        build(unfinished)
        (unfinished / MANIFEST).write_text(json.dumps(dict(manifest), indent=1))
        for path in unfinished.rglob("*"):
            path.chmod(0o700 if path.is_dir() else 0o600)
        if part.exists():
            # A folder cannot be replaced in one step; between these two the part is absent.
            part.rename(unfinished.with_suffix(".old"))
        unfinished.rename(part)
    finally:
        _remove_unfinished_in(part.parent)


def _remove_unfinished_in(folder: Path) -> None:
    for leftover in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _difference(part: Path, manifest: Manifest) -> str | None:
    """Why a part does not fit, in words that follow "are"; None if it does."""
    try:
        found = json.loads((part / MANIFEST).read_text())
        names = [name for name in manifest if found.get(name) != manifest[name]]
    except (OSError, ValueError, AttributeError):
        return "incomplete"
    if not names:
        return None
    changes = (f"{name} {found.get(name)}, wanted {manifest[name]}" for name in names)
    return f"of another version ({'; '.join(changes)})"


@contextmanager
def _readable_errors(folder: Path) -> Iterator[None]:
    """Turn what the file system refuses into an error that says what to do."""
    try:
        yield
    except OSError as error:
        what = {
            errno.ENOSPC: "has no space left: free 1 GB",
            errno.EDQUOT: "is over its quota: free 1 GB",
        }.get(error.errno or 0, f"cannot be written ({error.strerror}): make it writable")
        raise InputError(
            f"the cache folder {folder} {what}, or name another one in {CACHE_VARIABLE}"
        ) from error
