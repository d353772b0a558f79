"""Each error probability has circuits and keys of its own, and all of them are secure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from compile.local.p_error import P_ERRORS, with_p_error
from compile.local.prepared import compile_model, prepare_circuits
from compile.local.session import Session
from compile.report import describe
from fhe_inhibitor.cli.main import main
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.runtime.client import Client
from fhe_inhibitor.runtime.protocol import folder_hash
from fhe_inhibitor.runtime.security import required_log2_std
from fhe_inhibitor.system.progress import Observer
from tests.tiny_model import SMALL_SHAPE, write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> IntegerModel:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    return IntegerModel.load(write_tiny_model(folder, buckets=(2,), shape=SMALL_SHAPE))


def test_each_probability_has_its_own_circuits_and_keys(
    model: IntegerModel, tmp_path: Path
) -> None:
    usual = prepare_circuits(model, tmp_path)
    rare = prepare_circuits(with_p_error(model, "2^-40"), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    assert folder_hash(usual) != folder_hash(rare)  # by which the keyring knows keys
    clients = Client(usual), Client(rare)
    assert [client.manifest.p_error for client in clients] == [2.0**-20, 2.0**-40]
    assert clients[0].parameters != clients[1].parameters
    # Neither takes the other's place.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert prepare_circuits(model, tmp_path) == usual
    assert prepare_circuits(with_p_error(model, "2^-40"), tmp_path) == rare
    assert prepare_circuits(with_p_error(model, "2^-20"), tmp_path) == usual
    files = {path for path in before if path.is_file() and "lock" not in path.name}
    assert {path: path.stat().st_mtime_ns for path in files} == {p: before[p] for p in files}


def test_a_session_takes_a_probability_by_name(model: IntegerModel) -> None:
    assert Session(model, "disable").model.p_error == model.p_error == 2.0**-20
    assert Session(model, "disable", p_error="2^-128").model.p_error == 2.0**-128
    for wrong in ("2^-30", "1e-6", "", "0"):
        with pytest.raises(InputError, match=r"wanted one of 2\^-20, 2\^-40, 2\^-64, 2\^-128"):
            Session(model, "disable", p_error=wrong)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["classify", "--mode", "simulate", "--p-error", "0.1", "a"], "probability '0.1'"),
        (["classify", "--server", "http://127.0.0.1:9", "--p-error", "2^-40", "a"], "drop --p-er"),
        (["compile", "--out", "{out}", "--p-error", "2^-30"], "error probability '2^-30'; wanted"),
    ],
)
def test_the_command_line_refuses_others(
    arguments: list[str], words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([argument.format(out=tmp_path / "out") for argument in arguments])
    out, err = capfd.readouterr()
    assert (exit_.value.code, out, err.count("\n")) == (2, "", 1)
    assert words in err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", P_ERRORS)
def test_what_concrete_chooses_for_the_shipped_model_is_secure(name: str) -> None:
    """`describe` raises if not; Concrete takes the least noise that is allowed."""
    nano = with_p_error(replace(IntegerModel.load(), buckets=(12,)), name)
    for key in describe(compile_model(nano, Observer())).parameters:
        assert key.log2_std == pytest.approx(required_log2_std(key.dimension), abs=1e-6)
