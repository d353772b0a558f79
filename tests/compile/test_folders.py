"""Nothing that Concrete wrote while it compiled is left behind."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

import numpy as np
import pytest
from concrete.fhe.compilation import server as concrete_server
from concrete.fhe.compilation.module import FheModule

from circuits.encrypted import encrypted_lookup
from circuits.lookups import Table
from compile.folders import compile_tidily, remove_folders
from compile.functions import DeclaredFunction
from compile.module import DEFAULT_P_ERROR, compile_functions


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary directory, empty."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def negation() -> DeclaredFunction:
    """Return a function of one lookup."""
    lookup = encrypted_lookup()

    def negate(x: object) -> object:
        return lookup(x, Table(np.arange(3, -1, -1)))

    function = DeclaredFunction(negate, {"x": "encrypted"})
    function.inputset.extend(np.full(2, end) for end in (0, 3))
    return function


@pytest.mark.fhe
def test_folders_go_with_what_reads_them(temporary: Path) -> None:
    module = compile_functions([negation()], [], DEFAULT_P_ERROR)
    assert len(list(temporary.iterdir())) == 1
    functions = module.functions()
    assert functions["negate"].simulate(np.array([0, 3])).tolist() == [3, 0]
    assert len(list(temporary.iterdir())) == 2
    del module
    gc.collect()
    assert functions["negate"].simulate(np.array([1, 2])).tolist() == [2, 1]
    del functions
    gc.collect()
    assert not list(temporary.iterdir())


@pytest.mark.fhe
def test_folders_go_at_once_where_a_process_ends_without_python(temporary: Path) -> None:
    module = compile_functions([negation()], [], DEFAULT_P_ERROR)
    remove_folders()
    assert module and not list(temporary.iterdir())


@pytest.mark.fhe
def test_a_failed_compilation_leaves_nothing(temporary: Path) -> None:
    def fail() -> FheModule:
        Path(concrete_server.tempfile.mkdtemp(), "half").touch()
        assert len(list(temporary.glob("*/*/half"))) == 1
        raise RuntimeError("no parameters")

    with pytest.raises(RuntimeError, match="no parameters"):
        compile_tidily(fail)
    assert concrete_server.tempfile is tempfile
    assert not list(temporary.iterdir())
