"""Trains a trial's student and measures it, beside the teacher that reads no more than it does."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from compile.cost.report import estimate
from demos.ablation.results import ALL_TOKENS, WORDS, Measured, Row
from demos.ablation.trials import BASE_TRIAL, NOISE, TOKENS, Trial
from fhe_inhibitor.model.configuration import InhibiDistilBertConfig, QuantizationConfig
from fhe_inhibitor.model.untrained import untrained_network
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.system.statistics import share
from fhe_inhibitor.training.distillation import (
    TextTable,
    distil,
    predict,
    select_tokens,
    text_table,
)
from fhe_inhibitor.training.embeddings import BagOfWords
from fhe_inhibitor.training.hyperparameters import Recipe, Size
from fhe_inhibitor.training.losses import soft_loss
from fhe_inhibitor.training.material import Material
from fhe_inhibitor.training.recipe import make_student
from fhe_inhibitor.training.teacher import predict_logits
from fhe_inhibitor.training.vocabulary import entry_pieces


class Laboratory:
    """Trains and measures trials of one recipe, from one corpus and teacher.

    work: folder of each student's training state and weights; a trial that was interrupted goes
    on where it stopped. draws: of rounding noise, in the accuracy of integers.
    """

    def __init__(
        self,
        recipe: Recipe,
        material: Material,
        work: Path,
        steps: tuple[int, int],
        draws: int,
        observer: Observer,
    ) -> None:
        self.recipe, self.material, self.work, self.steps = recipe, material, work, steps
        self.draws, self.observer = draws, observer
        self.importance = material.corpus.importance
        self.tables = {name: material.table(rows) for name, rows in material.rows.items()}
        work.mkdir(parents=True, exist_ok=True)

    def measure(self, trial: Trial) -> Row:
        """Train a trial's student, unless its weights are there, and return its row.

        Integers start from the float student of the size itself, which is trained if need be.
        """
        size = trial.size(self.recipe.size, *self.steps)
        if trial.integers:
            student = self._student(size, trial.seed)
            student.load_state_dict(self._float_student(BASE_TRIAL).state_dict(), strict=False)
            student = self._distil(student, size, trial)
            student.config.quantization[NOISE] = QuantizationConfig.rounding_noise  # of all
        else:
            student = self._float_student(trial)
        seeds = list(range(self.draws)) if trial.integers else [None]
        return Row(
            group=trial.group,
            measured={n: self._measure(student, n, seeds) for n in TOKENS},
            exact={n: self._measure(student, n, [None]) for n in TOKENS} if trial.integers else {},
            units=self._units(size),
        )

    def measure_words(self) -> Row:
        """Distil the bag of words, for as many steps as the float students, and return its row."""
        size = BASE_TRIAL.size(self.recipe.size, *self.steps)
        torch.manual_seed(0)
        features = torch.from_numpy(self.material.corpus.features)
        words = BagOfWords(features, len(self.recipe.labels))
        self._distil(words, size, Trial(WORDS, "capacity"))
        measured = {n: self._measure(words, n, [None]) for n in TOKENS}
        return Row(group="capacity", measured=measured, units=0.0)

    def measure_teacher(self) -> Row:
        """Return the row of the teacher that reads what a student of each length reads.

        It reads the words of the same tokens, in order.
        """
        teacher, importance = self.material.teacher, torch.from_numpy(self.importance)
        pieces = entry_pieces(self.material.tokenizer, teacher.tokenizer)
        measured: dict[int, dict[str, Measured]] = {}
        for n in TOKENS:
            measured[n] = {}
            for name, table in self.tables.items():
                ids, mask = select_tokens(table.ids, table.lengths, importance, n)
                read = [
                    teacher.tokenizer.decode(
                        [piece for token in text[: sum(there)] for piece in pieces[token]]
                    )
                    for text, there in zip(ids.tolist(), mask.tolist(), strict=True)
                ]
                measured[n][name] = self._compare([predict_logits(teacher, read)], name)
        measured[ALL_TOKENS] = {
            name: self._compare([logits], name) for name, logits in self._teacher_logits.items()
        }
        return Row(group="tokens", measured=measured)

    def _student(self, size: Size, seed: int) -> nn.Module:
        recipe = replace(self.recipe, size=size, seed=seed)
        return make_student(recipe, "inhibitor", self.material)

    def _float_student(self, trial: Trial) -> nn.Module:
        size = trial.size(self.recipe.size, *self.steps)
        size = replace(size, student=size.student | {"quantization": None})
        return self._distil(self._student(size, trial.seed), size, trial)

    def _distil(self, student: nn.Module, size: Size, trial: Trial) -> nn.Module:
        """Train a student, or load it if that is done; its state keeps the trial's name."""
        return distil(
            student,
            self._first_texts(trial.texts),
            self.importance,
            size.distillation,
            self.work / f"{trial.name.replace(' ', '_')}.safetensors",
            observer=self.observer,
        )

    @cached_property
    def _texts(self) -> TextTable:
        return text_table(self.material.corpus.texts, self.importance)

    def _first_texts(self, fraction: float) -> TextTable:
        """Return a share of the corpus, drawn at random."""
        texts = self._texts
        if fraction == 1:
            return texts
        rng = np.random.default_rng(0)
        rows = torch.from_numpy(rng.permutation(len(texts))[: round(fraction * len(texts))])
        return TextTable(
            texts.ids[rows], texts.lengths[rows], texts.logits[rows], texts.labels[rows]
        )

    @cached_property
    def _teacher_logits(self) -> dict[str, np.ndarray]:
        return {
            name: predict_logits(self.material.teacher, [row.text for row in rows])
            for name, rows in self.material.rows.items()
        }

    def _measure(
        self, student: nn.Module, n: int, seeds: list[int] | list[None]
    ) -> dict[str, Measured]:
        return {
            name: self._compare(
                [predict(student, table, self.importance, n, seed) for seed in seeds], name
            )
            for name, table in self.tables.items()
        }

    def _compare(self, draws: list[np.ndarray], name: str) -> Measured:
        labels = self.tables[name].labels.numpy()
        right = float(np.mean([(logits.argmax(axis=-1) == labels).sum() for logits in draws]))
        teacher = torch.from_numpy(self._teacher_logits[name])
        losses = [float(soft_loss(torch.from_numpy(x), teacher, 1.0)) for x in draws]
        return Measured(accuracy=share(right, len(labels)), divergence=float(np.mean(losses)))

    def _units(self, size: Size) -> float:
        """Return the complexity at the size's own length, as `fhe-inhibitor cost` has it."""
        config = InhibiDistilBertConfig(vocab_size=1, **size.student)
        tokens = self.recipe.size.student["default_tokens"]
        report = estimate(untrained_network(config), [tokens], config.p_error)
        return report.lengths[0].units
