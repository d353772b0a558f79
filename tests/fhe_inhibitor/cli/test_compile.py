"""What `compile` measures is what it compiled."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from circuits.network import Network
from fhe_inhibitor.cli.compile import CompileCircuits
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.system.progress import Observer
from tests.tiny_model import write_tiny_model


@pytest.fixture
def compiled_with(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The p_error of all circuits that were made, each stage of `compile` replaced by nothing."""
    found: list[float] = []
    report = SimpleNamespace(to_markdown=lambda: "", to_json=lambda: "{}")

    def compile_model(model: IntegerModel, *arguments: object, **options: object) -> Any:
        found.append(model.p_error)
        return SimpleNamespace(save=lambda out: out.mkdir())

    def measure_model_noise(network: Network, p_error: float, std: float) -> tuple[()]:
        found.append(p_error)
        return ()

    class Half:
        """A client or a server without circuits."""

        def __init__(self, folder: Path) -> None:
            self.generate_keys = self.evaluation_keys = lambda: None
            self.read_evaluation_keys = lambda keys: None

    monkeypatch.setattr("compile.local.prepared.compile_model", compile_model)
    monkeypatch.setattr("compile.noise.measure_model_noise", measure_model_noise)
    for half in ("client.Client", "server.Server"):
        monkeypatch.setattr(f"fhe_inhibitor.runtime.{half}", Half)
    for step in ("describe", "add_measurements", "add_noise"):
        monkeypatch.setattr(f"compile.report.{step}", lambda *arguments: report)
    return found


@pytest.mark.parametrize(("name", "p_error"), [(None, 2.0**-20), ("2^-40", 2.0**-40)])
def test_noise_is_measured_at_the_probability_that_was_asked_for(
    tmp_path: Path, compiled_with: list[float], name: str | None, p_error: float
) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    CompileCircuits(str(model), None, tmp_path / "circuits", True, name).run(Observer())
    assert compiled_with == [p_error, p_error]


@pytest.mark.parametrize("full", [False, True])
def test_a_place_that_is_taken_is_refused_before_anything_is_compiled(
    tmp_path: Path, compiled_with: list[float], full: bool
) -> None:
    taken = tmp_path / "taken"
    if full:
        taken.mkdir()
    (taken / "notes" if full else taken).write_text("mine")
    words = "is not empty: name a new folder" if full else "is no folder: name a new one"
    work = CompileCircuits(str(write_tiny_model(tmp_path / "tiny")), None, taken, False, None)
    with pytest.raises(InputError, match=words):
        work.run(Observer())
    assert compiled_with == []
