"""The benchmarking suite's JSON: the fields that its harness writes, and what they hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from compile.paper.suite import Results, harness_size, write_suite
from tests.compile.paper.stored import inputs

# What the harness wrote of its reference, shortened: github.com/fhe-benchmarking/BERT, commit
# 170bfe5, measurements/small/results-1.json.
REFERENCE = {
    "model_name": "bert-base",
    "dataset_name": "mrpc",
    "Timing": {"Key Generation": "51.6037s", "Encrypted computation": "67013.8134s"},
    "Bandwidth": {"Public and evaluation keys": "21.4G", "Encrypted input": "4.5G"},
    "Quality": {
        "Encrypted model quality": {
            "correct_predictions": 81,
            "total_samples": 100,
            "accuracy": 0.81,
        }
    },
    "Server Reported": {"Total": "266946.0679s"},
}
STAGES = (
    "Key Generation", "Encrypted model preprocessing", "Input preprocessing", "Input encryption",
    "Encrypted computation", "Result decryption", "Result postprocessing", "Total",
)  # fmt: skip


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_the_schema_is_that_of_the_harness() -> None:
    assert json.loads(Results.model_validate(REFERENCE).to_json()) == REFERENCE
    single = {name: value for name, value in REFERENCE.items() if name != "Quality"}
    assert json.loads(Results.model_validate(single).to_json()) == single
    changes: tuple[dict[str, Any], ...] = (
        {"Timing": {"Total": 5.0}}, {"Timing": {"Total": "5 s"}}, {"Bandwidth": {"x": "5 MB"}},
        {"Quality": {"x": {"correct_predictions": 1, "total_samples": 0, "accuracy": 0}}},
        {"model_name": None}, {"other": 1},
    )  # fmt: skip
    for change in changes:
        with pytest.raises(ValidationError):
            Results.model_validate({**REFERENCE, **change})


def test_each_run_and_each_evaluation_has_a_file(tmp_path: Path) -> None:
    old = tmp_path / "suite" / "single" / "results-9.json"
    old.parent.mkdir(parents=True)
    old.write_text("{}")
    paths = write_suite(inputs(tmp_path), "sst2", tmp_path)
    names = [str(path.relative_to(tmp_path / "suite")) for path in paths]
    assert names == [*(f"single/results-{run}.json" for run in (1, 2, 3)), "batch/results-1.json"]
    assert sorted((tmp_path / "suite").glob("*/*.json")) == sorted(paths)
    first, second, _, batch = (json.loads(path.read_text()) for path in paths)
    for content in (first, batch):
        Results.model_validate(content)
    assert tuple(first["Timing"]) == STAGES and "Quality" not in first
    assert (first["model_name"], first["dataset_name"]) == ("tiny", "sst2")
    assert first["Timing"]["Encrypted computation"] == "6.0000s"
    assert second["Timing"]["Encrypted computation"] == "5.0000s"
    *parts, total = (seconds(text) for text in first["Timing"].values())
    assert total == pytest.approx(sum(parts), abs=1e-3)
    assert first["Server Reported"]["layer0.attend"] == "3.0000s"
    assert first["Bandwidth"]["Public and evaluation keys"] == harness_size(32_000_000) == "30.5M"


def test_an_evaluation_has_quality_and_sizes_of_all_its_texts(tmp_path: Path) -> None:
    *_, path = write_suite(inputs(tmp_path), "sst2", tmp_path)
    batch = json.loads(path.read_text())
    quality = batch["Quality"]
    assert quality["Encrypted model quality"] == {
        "correct_predictions": 9,
        "total_samples": 10,
        "accuracy": 0.9,
    }
    assert quality["Harness model quality"]["correct_predictions"] == 10
    assert batch["Timing"] == {"Input encryption": "5.0000s", "Total": "5.0000s"}
    assert batch["Bandwidth"]["Encrypted input"] == harness_size(10 * 15_000)
    assert batch["dataset_name"] == "dev"
