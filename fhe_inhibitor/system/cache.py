"""A cache folder that an interruption cannot break: what is slow to make is made once per user.

A part is a folder with a `manifest.json` that says what it was made from and which files it holds,
each with its SHA-256. It is written under another name and renamed when complete, so a part is
either whole or absent; a lock keeps two processes from making the same one. Everything is readable
by its owner only, and everything can be made again: no key is ever kept in a cache.

    with locked(entry, observer.note):
        if reason := why_unfit(entry / "circuits", made_from):
            with published(entry / "circuits", made_from) as folder:
                ...
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fhe_inhibitor.system.files import file_sha256, write_atomically, writing
from fhe_inhibitor.system.folders import CACHE_VARIABLE, cache_root

MANIFEST = "manifest.json"
UNFINISHED = ".unfinished-"
LOCK = ".lock"

Manifest = Mapping[str, Any]


@contextmanager
def locked(folder: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Hold `folder` of the cache, made where it is missing, for this process alone.

    Removes what an interrupted process left unfinished in it.

    Raises InputError if the folder cannot be made or written.
    """
    with _writing(folder):
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


def why_unfit(part: Path, made_from: Manifest) -> str | None:
    """Return why a part can't be used, in words that follow "are"; None if it is there and fits.

    It fits if it was made from the same things, and if each of its files has the SHA-256 that it
    was published with: native code that was cut would crash the process that loads it.
    """
    try:
        manifest = json.loads((part / MANIFEST).read_text())
        names = [name for name in made_from if manifest.get(name) != made_from[name]]
        if names:
            changes = (f"{name} {manifest.get(name)}, wanted {made_from[name]}" for name in names)
            return f"of another version ({'; '.join(changes)})"
        digests = manifest["files"].items()
        damaged = [name for name, digest in digests if file_sha256(part / name) != digest]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return "missing or incomplete"
    return f"damaged ({', '.join(damaged)})" if damaged else None


@contextmanager
def published(part: Path, made_from: Manifest) -> Iterator[Path]:
    """Give an empty folder to write a part into; it becomes the part when the block ends well.

    part: a folder in one that is `locked`; what was there before is replaced. made_from: what the
    part is made from. Raises InputError if the cache cannot be written.
    """
    with _writing(part):
        unfinished = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=part.parent))
        try:
            yield unfinished
            files = sorted(path for path in unfinished.rglob("*") if path.is_file())
            digests = {str(path.relative_to(unfinished)): file_sha256(path) for path in files}
            manifest = json.dumps({**made_from, "files": digests}, indent=1)
            write_atomically(unfinished / MANIFEST, manifest)
            for path in unfinished.rglob("*"):
                path.chmod(0o700 if path.is_dir() else 0o600)
            if part.exists():
                # A folder cannot be replaced in one step; between these two the part is absent.
                part.rename(unfinished.with_suffix(".old"))
            unfinished.rename(part)
        finally:
            _remove_unfinished_in(part.parent)


def remove_unfinished(cache_dir: str | Path | None = None) -> None:
    """Remove what a killed process left unfinished, wherever no other process is at work."""
    for lock in cache_root(cache_dir).glob(f"*/{LOCK}"):
        with suppress(OSError, Timeout), FileLock(lock, timeout=0, mode=0o600):
            _remove_unfinished_in(lock.parent)


def _remove_unfinished_in(folder: Path) -> None:
    for leftover in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _writing(folder: Path) -> AbstractContextManager[None]:
    return writing(f"the cache folder {folder}", f"name another one in {CACHE_VARIABLE}")
