"""Small experiments, each a minute or so: one-layer transformers, and a distilled vision one.

    one-layer    a task of `small_tasks`, one mechanism, one seed, learned from labels
    vision       a vision transformer of several layers on scikit-learn's digits: a teacher with dot
                 products, and students with the inhibitor, distilled and from labels alone

The student of `vision` starts from its teacher's weights. It learns from the hidden states of each
layer and the teacher's probabilities, beside the labels; gamma, eta and delta of each head are
learned (arXiv 2503.15983).
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from fhe_inhibitor.experiments.record import RESULT, Row
from fhe_inhibitor.experiments.small_tasks import SHAPE, Loaded, Split, find_small_task
from fhe_inhibitor.model.encoder import Encoder
from fhe_inhibitor.system.files import Record, make_folder, write_atomically
from fhe_inhibitor.system.machine import Machine, describe_machine
from fhe_inhibitor.system.processor import flush_denormals, one_thread
from fhe_inhibitor.system.progress import Observer, Stopwatch
from fhe_inhibitor.training.losses import soft_loss
from fhe_inhibitor.training.steps import take_steps

PACKAGES = ("torch", "scikit-learn")
SIGNED = "inhibitor_signed"


class OneLayer(Record):
    """Settings of one training. data: a folder, or None for the hub; tasks made here need none.

    steps: of training, None for the task's.
    """

    task: str
    attention_kind: Literal["inhibitor", "dot_product"]
    seed: int = 0
    data: str | None = None
    steps: PositiveInt | None = None


class Vision(Record):
    """Settings of one distillation. hidden: weight of the hidden states' squared error."""

    n_layers: PositiveInt = 4
    seed: int = 0
    teacher_steps: PositiveInt = 1500
    student_steps: PositiveInt = 1500
    hidden: float = 1.0


class SmallResult(Record):
    """What was measured. seconds: of each training. n_train, n_test: examples."""

    experiment: OneLayer | Vision
    machine: Machine
    rows: list[Row]
    source: str
    n_train: int
    n_test: int
    seconds: dict[str, float]


def run_one_layer(experiment: OneLayer, out: Path, observer: Observer | None = None) -> SmallResult:
    """Train one mechanism on a task and measure it; the result lies in `out` as JSON too.

    Raises InputError for an unknown task, and for data that can't be used.
    """
    task = find_small_task(experiment.task)
    make_folder(out)
    steps = Stopwatch(observer or Observer())
    loaded = task.load(experiment.data)
    model = _encoder(loaded, experiment.attention_kind, experiment.seed)
    steps.begin("train")
    n_steps = experiment.steps or task.steps
    steps.plan(n_steps, "steps")
    _learn(model, loaded, n_steps, task.batch_size, task.learning_rate, steps)
    seconds = steps.stop()
    row = Row(
        recipe="one-layer",
        task=task.name,
        seed=experiment.seed,
        metric="score",
        value=_score(model, loaded),
        split="test",
        settings={"attention_kind": experiment.attention_kind},
    )
    return _keep(experiment, loaded, [row], seconds, out)


def run_vision(experiment: Vision, out: Path, observer: Observer | None = None) -> SmallResult:
    """Train a teacher, distil a student from it, and train one from labels; measure all three."""
    make_folder(out)
    task = find_small_task("digits")
    loaded = task.load(None)
    steps = Stopwatch(observer or Observer())
    learning = task.batch_size, task.learning_rate
    steps.plan(experiment.teacher_steps + 2 * experiment.student_steps, "steps")
    shape = {"n_layers": experiment.n_layers}
    teacher = _encoder(loaded, "dot_product", experiment.seed, **shape)
    steps.begin("teacher")
    _learn(teacher, loaded, experiment.teacher_steps, *learning, steps)
    distilled = _encoder(loaded, SIGNED, experiment.seed, threshold="head", **shape)
    distilled.load_state_dict(_common(teacher, distilled), strict=False)
    steps.begin("distilled")
    _distil(distilled, teacher, loaded, experiment, task.batch_size, steps)
    alone = _encoder(loaded, SIGNED, experiment.seed, threshold="head", **shape)
    steps.begin("from labels")
    _learn(alone, loaded, experiment.student_steps, *learning, steps)
    seconds = steps.stop()
    found = {
        "teacher": (teacher, "dot_product"),
        "distilled": (distilled, SIGNED),
        "from labels": (alone, SIGNED),
    }
    rows = [
        Row(
            recipe=name,
            task="digits",
            seed=experiment.seed,
            metric="score",
            value=_score(model, loaded),
            split="test",
            settings={"attention_kind": kind, "n_layers": experiment.n_layers},
        )
        for name, (model, kind) in found.items()
    ]
    return _keep(experiment, loaded, rows, seconds, out)


def _encoder(loaded: Loaded, kind: str, seed: int, **shape: object) -> Encoder:
    torch.manual_seed(seed)
    return Encoder(
        loaded.embedding(), loaded.n_positions, loaded.n_outputs, kind, loaded.pools,
        **{**SHAPE, **shape},
    )  # fmt: skip


@flush_denormals()
@one_thread()
def _learn(
    model: Encoder, loaded: Loaded, steps: int, batch_size: int, rate: float, observer: Observer
) -> None:
    """Learn from labels."""

    def loss() -> Tensor:
        x, y = _draw(loaded.train, batch_size)
        return loaded.loss(model(x, loaded.mask_of(x)), y)

    take_steps(model, loss, steps, rate, observer)


@flush_denormals()
@one_thread()
def _distil(
    student: Encoder,
    teacher: Encoder,
    loaded: Loaded,
    experiment: Vision,
    batch_size: int,
    observer: Observer,
) -> None:
    """Learn from a teacher's hidden states and probabilities, and from labels."""
    torch.manual_seed(experiment.seed)

    def loss() -> Tensor:
        x, y = _draw(loaded.train, batch_size)
        with torch.no_grad():
            wanted, mask = teacher.states(x)
            target = teacher.read(wanted[-1], mask)
        own, _ = student.states(x)
        outputs = student.read(own[-1], mask)
        pairs = zip(own[1:], wanted[1:], strict=True)
        hidden = torch.stack([nn.functional.mse_loss(a, b) for a, b in pairs]).mean()
        return (
            loaded.loss(outputs, y) + soft_loss(outputs, target, 2.0) + experiment.hidden * hidden
        )

    take_steps(student, loss, experiment.student_steps, 1e-3, observer)


def _common(teacher: Encoder, student: Encoder) -> dict[str, Tensor]:
    """Return the teacher's weights that the student has too, but for those of its thresholds."""
    own = student.state_dict()
    thresholds = ("gamma", "shift", "eta")
    return {
        name: copy.deepcopy(weight)
        for name, weight in teacher.state_dict().items()
        if name in own and name.rsplit(".", 1)[-1] not in thresholds
    }


def _draw(split: Split, n: int) -> tuple[Tensor, Tensor]:
    rows = torch.randint(len(split), (n,))
    return split.x[rows], split.y[rows]


@torch.inference_mode()
def _score(model: Encoder, loaded: Loaded) -> float:
    outputs = [model(x, loaded.mask_of(x)) for x in loaded.test.x.split(256)]
    return loaded.score(torch.cat(outputs), loaded.test.y)


def _keep(
    experiment: OneLayer | Vision,
    loaded: Loaded,
    rows: list[Row],
    seconds: dict[str, float],
    out: Path,
) -> SmallResult:
    result = SmallResult(
        experiment=experiment,
        machine=describe_machine(PACKAGES),
        rows=rows,
        source=loaded.source,
        n_train=len(loaded.train),
        n_test=len(loaded.test),
        seconds={name: round(value, 1) for name, value in seconds.items()},
    )
    write_atomically(out / RESULT, result.model_dump_json(indent=1) + "\n")
    return result
