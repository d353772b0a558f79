"""Every demo can be imported and shows its options; the one in a single file runs, encrypted."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from demos import accuracy_and_time, local_round_trip, server
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.system.machine import Machine
from tests.conftest import REPOSITORY
from tests.fhe_inhibitor.conftest import SEED, SHAPE
from tests.tiny_model import write_tiny_model

DEMOS = sorted(path.stem for path in (REPOSITORY / "demos").glob("[!_]*.py"))


@pytest.mark.parametrize("name", DEMOS)
def test_a_demo_has_one_entry_and_says_how_it_is_run(name: str) -> None:
    demo = import_module(f"demos.{name}")
    assert callable(demo.main)
    assert f"python -m demos.{name}" in (demo.__doc__ or "")
    if demo is local_round_trip:  # it takes a text alone
        return
    app = typer.Typer(add_completion=False)
    app.command()(demo.main)
    assert CliRunner().invoke(app, ["--help"]).exit_code == 0


def test_the_server_makes_a_token_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served: list[object] = []
    monkeypatch.setattr("demos.server.prepare_circuits", lambda model: tmp_path)
    monkeypatch.setattr("demos.server.serve", lambda settings, folders: served.append(folders))
    monkeypatch.setattr("demos.server.MODEL_FILES", ())
    for _ in range(2):
        server.main(tmp_path / "data")
    assert len((tmp_path / "data" / "tokens").read_text().splitlines()) == 1
    out = capsys.readouterr().out
    assert out.count("export FHE_INHIBITOR_TOKEN=fhei_") == 1
    assert "alice has a token; for another one: fhe-inhibitor tokens new alice" in out
    assert served == [[tmp_path], [tmp_path]]


@pytest.mark.fhe
def test_the_round_trip_in_one_file_ends_with_the_model_s_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a tiny model whose logits are 22 to 27 and 7 to 11 steps, whatever is rounded."""
    tiny = IntegerModel.load(write_tiny_model(tmp_path / "tiny", SEED, shape=SHAPE))
    monkeypatch.setattr(IntegerModel, "load", lambda: tiny)
    local_round_trip.main("a good film")
    out = capsys.readouterr().out
    assert len(re.findall(r"server: \d/4 \S+: \d+ lookups", out)) == 4
    assert re.search(r"MB of evaluation keys.*kB for 4 encrypted positions", out, re.DOTALL)
    found = dict(re.findall(r"^(negative|positive): (0\.\d{3})$", out, re.MULTILINE))
    # 1 / (1 + exp(-0.01 d)) for a distance d of 11 to 20 steps of 0.01.
    assert 0.527 <= float(found["negative"]) <= 0.550
    assert float(found["negative"]) + float(found["positive"]) == pytest.approx(1, abs=0.0011)


def test_times_are_not_added_to_those_of_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stored file is that of a machine; another day and commit don't make it another one."""
    stored = json.loads((REPOSITORY / "docs" / "accuracy_and_time.json").read_text())
    own = Machine.model_validate(stored["machine"])
    path = tmp_path / "accuracy_and_time.json"
    accuracy_and_time.check_machine(own, own.model_copy(update={"date": "", "commit": ""}), path)
    huge_pages = not own.huge_pages
    others: list[dict[str, Any]] = [
        {"processor": "other"},
        {"versions": {}},
        {"huge_pages": huge_pages},
    ]
    for changes in others:
        with pytest.raises(InputError, match="of another machine"):
            accuracy_and_time.check_machine(own, own.model_copy(update=changes), path)
    del stored["time/16"]
    path.write_text(json.dumps(stored))
    monkeypatch.setattr(accuracy_and_time, "load_splits", lambda _: {"train": [], "validation": []})
    monkeypatch.setattr(accuracy_and_time, "hold_out", lambda _: ([], []))
    other = own.model_copy(update={"processor": "other"})
    monkeypatch.setattr(accuracy_and_time, "describe_machine", lambda _: other)
    with pytest.raises(InputError, match="go on there, or name another --out"):
        accuracy_and_time.main(tmp_path, tmp_path)
