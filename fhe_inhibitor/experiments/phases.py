"""The phases of an experiment, one after the other: each is trained, or loaded if it is done."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fhe_inhibitor.experiments.data import HELD_OUT, ExperimentData
from fhe_inhibitor.experiments.record import JOURNAL, WORK
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.system.tensors import read_tensors, write_tensors
from fhe_inhibitor.text.tasks import Task
from fhe_inhibitor.training.alignment import align_layers
from fhe_inhibitor.training.phases import Journal, Phase, choose_trained, train_model


@dataclass(frozen=True)
class Phases:
    """Runs phases and keeps in the work folder what each ended with.

    seconds: what each phase took, by its name, in the call that finished it.
    """

    data: ExperimentData
    task: Task
    out: Path
    observer: Observer
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, phase: Phase, model: Any, reference: Any = None) -> None:
        """Train a model in place, or load the weights that the phase ended with.

        reference: the teacher's weights with dot-product attention, None for labels alone.
        """
        done = self.out / WORK / f"{phase.name}.safetensors"
        if phase.max_steps == 0:
            return
        if done.exists():
            saved = read_tensors(done)
            self.seconds[phase.name] = float(saved.pop("seconds"))
            model.load_state_dict(saved)
            model.eval()
            return
        start = time.monotonic()
        self._train(phase, model, reference)
        model.eval()
        self.seconds[phase.name] = round(time.monotonic() - start, 1)
        seconds = torch.tensor(self.seconds[phase.name])
        write_tensors(done, {**model.state_dict(), "seconds": seconds})
        shutil.rmtree(self._folder(phase), ignore_errors=True)

    def _train(self, phase: Phase, model: Any, reference: Any) -> None:
        settings, rows = self.data.experiment, self.data.phase_rows(phase)
        folder, learn = self._folder(phase), settings.learn_thresholds
        if phase.trains == "layers":
            align_layers(
                model, reference, phase, settings, rows, folder,
                lambda layer: self._journal(phase=phase.name, layer=layer), learn,
            )  # fmt: skip
            return
        choose_trained(model, learn)
        train_model(
            model, reference, phase, settings, rows, folder, self._journal(phase=phase.name),
            self.task, self.data.encode(HELD_OUT),
        )  # fmt: skip

    def _folder(self, phase: Phase) -> Path:
        return self.out / WORK / phase.name

    def _journal(self, **place: Any) -> Journal:
        return Journal(self.out / JOURNAL, place, self.observer)
