"""Fixtures that all tests share, folders of their own, and an honest exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fhe_inhibitor.system.folders import CACHE_VARIABLE, KEYS_VARIABLE

REPOSITORY = Path(__file__).resolve().parents[1]
STATUS = pytest.StashKey[int]()


# With processes side by side, what takes longest goes first: else one ends long after the others.
LONGEST = (
    "tests/test_packaging.py",
    "tests/demos/test_tour.py",
    "tests/fhe_inhibitor/runtime/test_encrypted.py",
    "tests/compile/local/test_shipped.py",
    "tests/compile/local/test_session.py",
    "tests/compile/local/test_resumption.py",
    "tests/fhe_inhibitor/remote/test_documents.py",
    "tests/fhe_inhibitor/cli/test_remote.py",
    "tests/fhe_inhibitor/cli/test_json.py",
    "tests/fhe_inhibitor/remote/test_client.py",
    "tests/fhe_inhibitor/service/test_faults.py",
    "tests/fhe_inhibitor/cluster/test_executor.py",
    "tests/fhe_inhibitor/cluster/test_service.py",
)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {REPOSITORY / file: index for index, file in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End here: once Concrete has run a circuit, its exit handler ends any process with 0.

    Not a worker of pytest-xdist, which has told its results by then and whose status nobody reads.
    """
    if hasattr(config, "workerinput"):
        return
    if folders := sys.modules.get("compile.folders"):
        folders.remove_folders()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(config.stash.get(STATUS, pytest.ExitCode.INTERNAL_ERROR))


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the keys and the cache of whoever runs it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in (CACHE_VARIABLE, KEYS_VARIABLE):
            patch.setenv(name, str(tmp_path_factory.mktemp(name.lower())))
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the data sets: FHE_INHIBITOR_DATA, else `../shared/data` beside the repository."""
    folder = Path(os.environ.get("FHE_INHIBITOR_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data sets in {folder}; set FHE_INHIBITOR_DATA to their folder")
    return folder
