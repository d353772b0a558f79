"""How far a student's hidden states are from its teacher's, by the length of what it reads.

    single    aligned on single sentences for a few steps, derived from SST-2's phrases, as E1 is
    joined    aligned on as many examples of joined sentences, and derived from them

Both are measured on SST-2's single sentences and on RTE's pairs, which are longer. Length isn't all
that the two differ in: joined sentences are pairs, reach later positions, and put more tokens into
a step.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from fhe_inhibitor.experiments.data import load_data
from fhe_inhibitor.experiments.record import RESULT, WORK, Row
from fhe_inhibitor.experiments.run import PACKAGES, run
from fhe_inhibitor.experiments.settings import Experiment
from fhe_inhibitor.model.from_distilbert import from_distilbert
from fhe_inhibitor.model.modeling import InhibiDistilBertForSequenceClassification
from fhe_inhibitor.system.files import Record, write_atomically
from fhe_inhibitor.system.machine import Machine, describe_machine
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.text.batches import MAX_TOKENS, padded_batches
from fhe_inhibitor.text.tasks import find_task, load_task
from fhe_inhibitor.training.losses import observe
from fhe_inhibitor.training.rows import TokenRow, encode_examples, load_classifier
from fhe_inhibitor.training.teacher import OFFLINE_TEACHER, as_distilbert, load_teacher

MEASURED = ("sst2", "rte")
SPLIT = "validation"
METRIC = "relative squared error"
BANDS = (0, 24, 48, 96, MAX_TOKENS)  # a text has more tokens than one of these, up to the next
BATCH_TOKENS = 2048


class Lengths(Record):
    """Settings of one comparison.

    text: a file of sentences. data: a folder with one folder per task, or None for the hub.
    joined: how many sentences are one example at most. steps: of training, of each layer.
    """

    text: str
    data: str | None = None
    seed: int = 0
    teacher: str = OFFLINE_TEACHER
    joined: Annotated[int, Field(ge=2)] = 5
    steps: PositiveInt = 100

    def student(self, joined: int) -> Experiment:
        """Return the experiment that makes one of the students."""
        skipped = {"max_steps": 0}
        steps = {"min_steps": self.steps, "max_steps": self.steps}
        return Experiment(
            recipe="task-agnostic",
            task=MEASURED[0],
            data=self.folder(MEASURED[0]),
            text=self.text,
            joined=joined,
            seed=self.seed,
            teacher=self.teacher,
            phases={"layers": steps, "hidden": skipped, "task": skipped},
        )

    def folder(self, task: str) -> str | None:
        """Return where a task's examples are, None for the hub."""
        return None if self.data is None else f"{self.data}/{task}"


class LengthsResult(Record):
    """What was measured. n_tokens: medians, of what each student learned from and of each task.

    seconds: of each student's alignment.
    """

    experiment: Lengths
    machine: Machine
    rows: list[Row]
    n_tokens: dict[str, float]
    seconds: dict[str, float]


def run_lengths(experiment: Lengths, out: Path, observer: Observer | None = None) -> LengthsResult:
    """Align both students and measure them; the result lies in `out` as JSON too.

    An interrupted call goes on where it stopped. Raises InputError for text, data and teachers that
    can't be used.
    """
    task = find_task(MEASURED[0])
    teacher = as_distilbert(load_teacher(experiment.teacher, task.labels, may_be_untuned=True))
    reference = from_distilbert(teacher.model).requires_grad_(False).eval()
    texts = {
        name: encode_examples(
            teacher.tokenizer, load_task(find_task(name), experiment.folder(name))[SPLIT]
        )
        for name in MEASURED
    }
    n_tokens = {name: _median(rows) for name, rows in texts.items()}
    seconds: dict[str, float] = {}
    measured: list[Row] = []
    for name, joined in (("single", 1), ("joined", experiment.joined)):
        settings, folder = experiment.student(joined), out / WORK / name
        seconds[name] = run(settings, folder, observer).phase_s["layers"]
        layers = settings.changed_recipe().phases[0]
        n_tokens[name] = _median(load_data(settings, task, teacher.tokenizer).phase_rows(layers))
        student: Any = load_classifier(str(folder), task)[0]
        for task_name, rows in texts.items():
            for values in errors_by_length(student, reference, rows):
                value = values.pop("error")
                measured.append(
                    Row(
                        recipe=name, task=task_name, seed=experiment.seed, metric=METRIC,
                        value=value, split=SPLIT, settings=values,
                    )
                )  # fmt: skip
    result = LengthsResult(
        experiment=experiment,
        machine=describe_machine(PACKAGES),
        rows=measured,
        n_tokens=n_tokens,
        seconds=seconds,
    )
    write_atomically(out / RESULT, result.model_dump_json(indent=1) + "\n")
    shutil.rmtree(out / WORK)
    return result


def errors_by_length(
    student: InhibiDistilBertForSequenceClassification,
    teacher: InhibiDistilBertForSequenceClassification,
    rows: Sequence[TokenRow],
) -> list[dict[str, Any]]:
    """Return the error of each layer's hidden states on the texts of each of `BANDS` that has any.

    error: mean over texts of the squared error, each the mean over its tokens, over that of the
    teacher's square. more_than, up_to: tokens. n_texts: how many there are.
    """
    squares, lengths = _squares(student, teacher, rows), torch.tensor([len(r.ids) for r in rows])
    found = []
    for least, most in pairwise(BANDS):
        here = (lengths > least) & (lengths <= most)
        error, square = squares[here].sum(dim=0).unbind(dim=-1)  # [n_layers]
        place = {"more_than": least, "up_to": most, "n_texts": int(here.sum())}
        for layer, value in enumerate((error / square).tolist() if here.any() else ()):
            found.append({"layer": layer, **place, "error": value})
    return found


@torch.no_grad()
def _squares(
    student: InhibiDistilBertForSequenceClassification,
    teacher: InhibiDistilBertForSequenceClassification,
    rows: Sequence[TokenRow],
) -> Tensor:
    """Each text's squared error and teacher's square, means over tokens: `[texts, n_layers, 2]`."""
    squares = torch.zeros(len(rows), student.config.n_layers, 2)
    ids = [row.ids for row in rows]
    for chosen, tokens, mask in padded_batches(ids, BATCH_TOKENS, student.config.pad_token_id):
        own, wanted = (
            torch.stack(observe(model, tokens, mask).states, dim=1)  # [B, n_layers, n, dim]
            for model in (student, teacher)
        )
        share = (mask / mask.sum(dim=1, keepdim=True))[:, None]  # [B, 1, n]
        for index, x in enumerate((own - wanted, wanted)):
            mean = (x.square().mean(dim=-1) * share).sum(dim=-1)
            squares[torch.from_numpy(chosen), :, index] = mean
    return squares


def _median(rows: Sequence[TokenRow]) -> float:
    return float(median(len(row.ids) for row in rows))
