"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the data sets: FHE_INHIBITOR_DATA, else `../shared/data` beside the repository."""
    folder = Path(os.environ.get("FHE_INHIBITOR_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data sets in {folder}; set FHE_INHIBITOR_DATA to their folder")
    return folder
