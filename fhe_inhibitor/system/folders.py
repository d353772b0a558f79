"""Where files of a user lie: what can be made again in a cache, all else with the user's data."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path, user_data_path

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
        or (len(parts) == 2 and Path(parts[0]).is_dir())
    )


def cache_root(folder: str | Path | None = None) -> Path:
    """Return `folder`, else the one FHE_INHIBITOR_CACHE names, else the user's cache folder."""
    named = folder or os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else user_cache_path(_NAME, appauthor=False)


def keys_root(folder: str | Path | None = None) -> Path:
    """Return `folder`, else the one FHE_INHIBITOR_KEYS names, else `keys` in the user's data."""
    named = folder or os.environ.get(KEYS_VARIABLE)
    return Path(named) if named else user_data_path(_NAME, appauthor=False) / "keys"


def service_root() -> Path:
    """Return the folder of a server's own files, `service` in the user's data."""
    return user_data_path(_NAME, appauthor=False) / "service"
