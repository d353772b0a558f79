"""Fixtures that several test files share, and an honest exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fhe_inhibitor.system.folders import KEYS_VARIABLE

REPOSITORY = Path(__file__).resolve().parents[1]
STATUS = pytest.StashKey[int]()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End here: once Concrete has run a circuit, its exit handler ends any process with 0.

    Not a worker of pytest-xdist, which has told its results by then and whose status nobody reads.
    """
    if hasattr(config, "workerinput"):
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(config.stash.get(STATUS, pytest.ExitCode.INTERNAL_ERROR))


@pytest.fixture(scope="session", autouse=True)
def keys_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A keyring for all tests: none may touch the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("keyring")
        patch.setenv(KEYS_VARIABLE, str(folder))
        yield folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the data sets: FHE_INHIBITOR_DATA, else `../shared/data` beside the repository."""
    folder = Path(os.environ.get("FHE_INHIBITOR_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data sets in {folder}; set FHE_INHIBITOR_DATA to their folder")
    return folder
