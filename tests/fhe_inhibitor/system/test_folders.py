"""Folders of a user: named by a variable, else found, else the variable is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system import folders
from fhe_inhibitor.system.folders import cache_root, keys_root, service_root


@pytest.mark.parametrize(
    ("variable", "root"),
    [(folders.CACHE_VARIABLE, cache_root), (folders.KEYS_VARIABLE, keys_root)],
)
def test_a_tilde_in_a_variable_is_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, root
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(variable, "~/x")
    assert root() == tmp_path / "x"
    monkeypatch.setenv(variable, "~nosuchuser/x")
    with pytest.raises(InputError, match="'~nosuchuser/x' begins with the home folder of nobody"):
        root()


@pytest.mark.parametrize(
    ("variable", "root"),
    [
        (folders.CACHE_VARIABLE, cache_root),
        (folders.KEYS_VARIABLE, keys_root),
        ("FHE_INHIBITOR_SERVE_DATA_DIR", service_root),
    ],
)
def test_a_user_without_a_home_is_told_which_variable_to_set(
    monkeypatch: pytest.MonkeyPatch, variable: str, root
) -> None:
    def find(*_: object, **__: object) -> Path:  # what platformdirs does without HOME and passwd
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv(variable, raising=False)
    for name in ("user_cache_path", "user_data_path"):
        monkeypatch.setattr(folders, name, find)
    with pytest.raises(InputError, match=f"no home folder: name a folder in {variable}"):
        root()
