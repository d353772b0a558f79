"""Files that may be gzipped, which their name says."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

SUFFIX = ".gz"


def read_bytes(path: Path) -> bytes:
    """Return a file's contents, unzipped if its name ends with `.gz`.

    Raises OSError if it can't be read, or isn't what its name says.
    """
    data = path.read_bytes()
    try:
        return gzip.decompress(data) if path.suffix == SUFFIX else data
    except (EOFError, zlib.error) as error:
        raise OSError(str(error)) from error
