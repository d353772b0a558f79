"""Language models: an inhibitor beside its dot-product twin, and a small one in integers.

    teacher     causal, dot-product attention, learns from text
    continued   the teacher, as many steps again: what more training alone is worth
    distilled   causal, inhibitor attention, starts from the teacher's weights (`derivation`) and
                learns from its probabilities and the text
    labels      the same start at random, learns from the text alone
    integers    a small inhibitor for encrypted runs, learns from the teacher, then in integers
    twin        its dot-product twin, in the same way

What is measured is the perplexity per character on sentences that no model learned from.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import PositiveInt

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.experiments.record import RESULT, SETTINGS, WORK, Row
from fhe_inhibitor.model.conversion import save_checkpoint
from fhe_inhibitor.model.modeling import InhibiDistilBertForSequenceClassification
from fhe_inhibitor.system.files import Record, make_folder, write_atomically
from fhe_inhibitor.system.machine import Machine, describe_machine, peak_memory_bytes
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.system.tensors import read_tensors, write_tensors
from fhe_inhibitor.text.characters import (
    character_stream,
    character_tokenizer,
    generate_sentences,
)
from fhe_inhibitor.text.data import read_sentences
from fhe_inhibitor.training.derivation import derive
from fhe_inhibitor.training.language import (
    LanguageTraining,
    language_model,
    measure_perplexity,
    train_language,
)

PACKAGES = ("torch", "transformers")
DERIVED_FROM = 64  # windows
INTEGERS = "integers"  # folder of the checkpoint that can be compiled
SMALL: dict[str, Any] = {
    "max_position_embeddings": 0,
    "dim": 32,
    "n_layers": 2,
    "n_heads": 2,
    "hidden_dim": [0, 64],
    "key_head_dim": [2, 4],
    "value_head_dim": [8, 8],
    "attention_window": [3, 0],
    "threshold": "head_offset",
    "max_relative_offset": 4,
    "normalization": "static",
    "activation": "relu",
    "initializer_range": 0.2,
    "quantization": {
        "key_bits": 3,
        "value_bits": 4,
        "feature_bits": 2,
        "weight_bits": 5,
        "table_bits": 5,
        "logit_bits": 8,
    },
}


class LanguageExperiment(Record):
    """Everything that decides the models and what is measured.

    text: a file of sentences, one a line, or None for `generated` sentences of a small grammar.
    held_out: how many of them, the last ones, are measured on. context: characters that the large
    models read, small_context those that the small ones do. steps, small_steps: of training.
    small: changes of `SMALL`.
    """

    seed: int = 0
    text: str | None = None
    generated: PositiveInt = 5000
    held_out: PositiveInt = 2000
    context: PositiveInt = 48
    small_context: PositiveInt = 12
    steps: PositiveInt = 2500
    small_steps: PositiveInt = 4000
    batch_size: PositiveInt = 32
    small_batch_size: PositiveInt = 128
    n_layers: PositiveInt = 3
    dim: PositiveInt = 64
    small: dict[str, Any] = {}

    def shape(self, attention_kind: str) -> dict[str, Any]:
        """Return the shape of a large model."""
        return {
            "max_position_embeddings": self.context,
            "n_tokens": self.context,
            "dim": self.dim,
            "n_layers": self.n_layers,
            "n_heads": 4,
            "hidden_dim": 4 * self.dim,
            "attention_kind": attention_kind,
            "threshold": "constant" if attention_kind == "dot_product" else "head",
        }

    def small_shape(self, attention_kind: str) -> dict[str, Any]:
        """Return the shape of a small model."""
        kind = {"attention_kind": attention_kind, "n_tokens": self.small_context}
        return {**SMALL, **kind, **self.small}


class LanguageResult(Record):
    """What was measured, and on what. n_characters: of text to learn from, and held out."""

    experiment: LanguageExperiment
    machine: Machine
    rows: list[Row]
    n_characters: tuple[int, int]
    phase_s: dict[str, float]
    peak_memory_bytes: int


def run_language(
    experiment: LanguageExperiment, out: Path, observer: Observer | None = None
) -> LanguageResult:
    """Train and measure all models in `out`; an interrupted call goes on where it stopped.

    `out/integers` becomes a checkpoint that can be compiled. Raises InputError for text that can't
    be read or is too short, and for a folder of another experiment.
    """
    streams = _read_text(experiment)
    make_folder(out / WORK)
    _claim(experiment, out)
    if (out / RESULT).exists():
        return LanguageResult.model_validate_json((out / RESULT).read_text())
    models = _Models(experiment, streams[0], out, observer or Observer())
    result = LanguageResult(
        experiment=experiment,
        machine=describe_machine(PACKAGES),
        rows=_measure(experiment, models, streams[1]),
        n_characters=(len(streams[0]), len(streams[1])),
        phase_s=models.seconds,
        peak_memory_bytes=peak_memory_bytes(),
    )
    save_checkpoint(models.trained["integers"], character_tokenizer(), None, out / INTEGERS)
    write_atomically(out / RESULT, result.model_dump_json(indent=1) + "\n")
    shutil.rmtree(out / WORK)
    return result


class _Models:
    """All models, each trained or loaded. seconds: what each took, in the call that finished it."""

    def __init__(
        self, experiment: LanguageExperiment, stream: np.ndarray, out: Path, observer: Observer
    ) -> None:
        self.experiment, self.stream, self.out, self.observer = experiment, stream, out, observer
        self.seconds: dict[str, float] = {}
        self.trained: dict[str, InhibiDistilBertForSequenceClassification] = {}
        large = LanguageTraining(
            experiment.steps, experiment.batch_size, 2e-3, seed=experiment.seed
        )
        small = LanguageTraining(
            experiment.small_steps, experiment.small_batch_size, 4e-3, seed=experiment.seed
        )
        make = partial(language_model, experiment.seed)
        teacher = self._train("teacher", make(**experiment.shape("dot_product")), large)
        continued = make(**experiment.shape("dot_product"))
        continued.load_state_dict(teacher.state_dict())
        self._train("continued", continued, large)
        student = make(**experiment.shape("inhibitor_signed"))
        student.load_state_dict(teacher.state_dict(), strict=False)
        derive(student, _windows(stream, experiment.context))
        self._train("distilled", student, large, teacher)
        self._train("labels", make(**experiment.shape("inhibitor_signed")), large)
        for name, kind in (("integers", "inhibitor"), ("twin", "dot_product")):
            self._train(name, make(**experiment.small_shape(kind)), small, teacher)

    def _train(
        self,
        name: str,
        model: InhibiDistilBertForSequenceClassification,
        training: LanguageTraining,
        teacher: InhibiDistilBertForSequenceClassification | None = None,
    ) -> InhibiDistilBertForSequenceClassification:
        work = self.out / WORK
        done = work / f"{name} done.safetensors"
        if done.exists():
            saved = read_tensors(done)
            self.seconds[name] = float(saved.pop("seconds"))
            model.load_state_dict(saved)
            model.eval()
            model.quantized = model.config.quantization is not None
        else:
            start, checkpoint = time.monotonic(), work / f"{name}.safetensors"
            train_language(model, self.stream, training, teacher, checkpoint, self.observer)
            self.seconds[name] = round(time.monotonic() - start, 1)
            seconds = torch.tensor(self.seconds[name])
            write_tensors(done, {**model.state_dict(), "seconds": seconds})
        self.trained[name] = model
        return model


def _measure(experiment: LanguageExperiment, models: _Models, held_out: np.ndarray) -> list[Row]:
    """Return perplexity and standard error of each model, at the contexts that it is made for."""
    rows = []
    for name, model in models.trained.items():
        contexts = {experiment.small_context, model.config.n_tokens}
        for context in sorted(contexts):
            seed = experiment.seed if model.quantized else None
            found = asdict(measure_perplexity(model, held_out, context, seed))
            settings = {
                "attention_kind": model.config.attention_kind,
                "context": context,
                "integers": model.quantized,
                "n_characters": found.pop("n"),
            }
            row = partial(Row, recipe=name, task="characters", seed=experiment.seed)
            rows += [
                row(
                    metric="perplexity" if metric == "value" else metric,
                    value=value,
                    split="held_out",
                    settings=settings,
                )
                for metric, value in found.items()
            ]
    return rows


def _read_text(experiment: LanguageExperiment) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens to learn from, and those that are held out."""
    if experiment.text is None:
        sentences = generate_sentences(experiment.generated, experiment.seed)
    else:
        sentences = read_sentences(experiment.text)
    if len(sentences) <= experiment.held_out:
        raise InputError(
            f"{len(sentences)} sentences, of which {experiment.held_out} are held out: none is "
            "left to learn from; hold out fewer"
        )
    n = len(sentences) - experiment.held_out
    return character_stream(sentences[:n]), character_stream(sentences[n:])


def _windows(stream: np.ndarray, n_tokens: int) -> list[list[int]]:
    """Return the windows that the student's thresholds are derived from."""
    count = min(DERIVED_FROM, len(stream) // n_tokens)
    return stream[: count * n_tokens].reshape(count, n_tokens).tolist()


def _claim(experiment: LanguageExperiment, out: Path) -> None:
    """Write the settings to a new folder. Raises InputError for another experiment's."""
    path, content = out / SETTINGS, experiment.model_dump_json(indent=1) + "\n"
    if path.exists() and path.read_text() != content:
        raise InputError(f"{out} is the folder of another experiment: name another, or remove it")
    write_atomically(path, content)
