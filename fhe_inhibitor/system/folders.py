"""Where files of a user lie: what can be made again in a cache, all else with the user's data."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from platformdirs import user_cache_path, user_data_path

from fhe_inhibitor.errors import InputError

CACHE_VARIABLE, KEYS_VARIABLE = "FHE_INHIBITOR_CACHE", "FHE_INHIBITOR_KEYS"
_NAME = "fhe-inhibitor"


def is_path(name: str | Path) -> bool:
    """Whether a name is rather one of a file or folder here than one of the hub's `owner/name`.

    >>> is_path("./model"), is_path("runs/sst2/model"), is_path("owner/model")
    (True, True, False)
    """
    parts = Path(name).parts
    return (
        len(parts) > 2
        or str(name).startswith((".", "/", "~"))
        or str(name).endswith("/")
        or (len(parts) == 2 and os.path.isdir(parts[0]))
    )


def cache_root(folder: str | Path | None = None) -> Path:
    """Return `folder`, else the one FHE_INHIBITOR_CACHE names, else the user's cache folder.

    Raises InputError, as the other two do, for a user who has no home folder, and as `with_home`.
    """
    named = folder or os.environ.get(CACHE_VARIABLE)
    return with_home(named) if named else _of_user(user_cache_path, CACHE_VARIABLE)


def keys_root(folder: str | Path | None = None) -> Path:
    """Return `folder`, else the one FHE_INHIBITOR_KEYS names, else `keys` in the user's data."""
    named = folder or os.environ.get(KEYS_VARIABLE)
    return with_home(named) if named else _of_user(user_data_path, KEYS_VARIABLE) / "keys"


def service_root() -> Path:
    """Return the folder of a server's own files, `service` in the user's data."""
    return _of_user(user_data_path, "FHE_INHIBITOR_SERVE_DATA_DIR") / "service"


def with_home(path: str | Path) -> Path:
    """Return a path with the home folder in place of its ~. Raises InputError if there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # no user of this name
        raise InputError(
            f"{str(path)!r} begins with the home folder of nobody here: write the whole path"
        ) from error


def _of_user(find: Callable[..., Path], variable: str) -> Path:
    try:
        return find(_NAME, appauthor=False)
    except RuntimeError as error:  # no HOME, and no user of this number
        raise InputError(f"this user has no home folder: name a folder in {variable}") from error
