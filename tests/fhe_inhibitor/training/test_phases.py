"""A phase of a line through points: how it ends early, what its journal says, what it goes on from.

The line's slope moves from 0 towards 1; the evaluation likes it best on the way.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import TrainingArguments

from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.training import phases
from fhe_inhibitor.training.phases import Journal, Phase, TrainingSettings, run_trainer
from tests.observers import interrupt_at

torch.set_num_threads(1)  # tensors here are too small to share

pytest.importorskip("accelerate")

SETTINGS: dict[str, Any] = {"save_steps": 4, "log_steps": 12}
PHASE = Phase(
    name="line", hard=1, min_steps=60, max_steps=60, batch_size=4, learning_rate=0.03, warmup=0.0
)
POINTS = [0.5 + index / 7 for index in range(16)]


class OnTwoGpus(TrainingArguments):
    """What the Trainer is told on a machine with two GPUs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._n_gpu = 2


def collate(rows: Sequence[float]) -> dict[str, Tensor]:
    return {"x": torch.tensor(rows)[:, None]}


def losses(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    error = (model(batch["x"]) - batch["x"]).square().mean()
    return {"loss": error, "slope": model.weight.detach().sum()}


def train(folder: Path, observer: Observer | None = None, **changes: Any) -> float:
    """Train from slope 0, or go on, and return the slope in the end."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    run_trainer(
        model, PHASE, TrainingSettings(**{**SETTINGS, **changes}), folder / "work",
        Journal(folder / "journal.jsonl", {"phase": "line"}, observer or Observer()),
        losses=losses, rows=POINTS, lengths=[1] * len(POINTS), collator=collate,
        evaluation=lambda: {"loss": abs(model.weight.item() - 0.3)},
    )  # fmt: skip
    return model.weight.item()


def journal(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


def evaluated(folder: Path) -> dict[int, float]:
    return {row["step"]: row["eval_loss"] for row in journal(folder) if "eval_loss" in row}


@pytest.mark.parametrize("after", [1, 2])
def test_a_resumed_phase_is_as_patient_as_one_that_was_not_interrupted(
    tmp_path: Path, after: int
) -> None:
    """It was interrupted after one or two evaluations in vain, of the three that it waits for."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    slope = train(whole, patience=3)
    found = evaluated(whole)
    best = min(found, key=found.__getitem__)
    assert max(found) == best + 3 * SETTINGS["save_steps"] < PHASE.max_steps
    step = best + after * SETTINGS["save_steps"] + 1
    with pytest.raises(KeyboardInterrupt):
        train(cut, interrupt_at("line", step), patience=3)
    assert train(cut, patience=3) == slope
    assert evaluated(cut) == found


def test_a_phase_that_had_ended_when_it_was_killed_does_not_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last checkpoint was written; the best one wasn't loaded yet."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    slope = train(whole, patience=3)

    def refuse(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("transformers.Trainer._load_best_model", refuse)
        train(cut, patience=3)
    assert train(cut, patience=3) == slope
    assert evaluated(cut) == evaluated(whole)


def test_a_machine_with_several_gpus_trains_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The losses get the model itself, and batches that are no larger."""
    one, several = tmp_path / "one", tmp_path / "several"
    for folder in (one, several):
        folder.mkdir()
    slope = train(one)
    monkeypatch.setattr(phases, "TrainingArguments", OnTwoGpus)
    assert train(several) == slope
    assert journal(several) == journal(one)


def test_a_line_of_the_journal_is_the_mean_of_all_steps_since_the_last_one(tmp_path: Path) -> None:
    """Evaluations between them change nothing; the means are those of a journal of each step."""
    often, seldom = tmp_path / "often", tmp_path / "seldom"
    for folder in (often, seldom):
        folder.mkdir()
    train(often, patience=9, log_steps=1)
    train(seldom, patience=9)
    each = {row["step"]: row for row in journal(often) if "loss" in row}
    rows = [row for row in journal(seldom) if "loss" in row]
    assert len(rows) > 2
    for row in rows:
        steps = range(row["step"] - SETTINGS["log_steps"] + 1, row["step"] + 1)
        for name in ("loss", "slope"):
            expected = fmean(each[step][name] for step in steps)
            assert row[name] == pytest.approx(expected, rel=1e-4), (row["step"], name)
