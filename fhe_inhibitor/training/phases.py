"""One phase of a distillation: which weights learn, by which losses, in transformers' Trainer.

The Trainer brings a GPU where there is one, checkpoints from which a killed run goes on, and early
stopping. This module adds the losses against a teacher, batches of texts of similar length in an
order that follows from the seed alone, and a journal: a line of JSON for each logged step.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from fhe_inhibitor.model.modeling import InhibiDistilBertForSequenceClassification
from fhe_inhibitor.system.files import Record
from fhe_inhibitor.system.processor import autocast, flush_denormals
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.text.batches import shuffled_batches
from fhe_inhibitor.text.metrics import compute_metrics
from fhe_inhibitor.text.tasks import Task
from fhe_inhibitor.training.losses import hard_loss, layer_losses, observe, soft_loss
from fhe_inhibitor.training.rows import TokenRow, collate, predict_rows

THRESHOLDS = ("gamma", "shift", "eta")
ALIGNED = ("q_lin", "k_lin", "v_lin", *THRESHOLDS)
TEMPERATURE = 2.0
Share = Annotated[float, Field(ge=0, le=1)]


class Phase(Record):
    """What one phase of a recipe does; every number can be set in an experiment's file.

    reads: "task", the task's labelled texts; or "text", unlabelled text if the experiment names
    any, else the task's texts. trains: "layers", one layer at a time, bottom up, and of it only
    Q, K, V, gamma, eta and delta, by the squared error of its attention output; or "model",
    everything but the embeddings. attention, hidden, soft, hard: weights of the losses of "model",
    which are the squared error of attention outputs and of hidden states (mean over layers), the
    distance to the teacher's probabilities, and that to the labels. epochs: over what the phase
    reads, but at least min_steps and at most max_steps training steps (of each layer). warmup:
    share of the steps in which the learning rate rises. augmented: how many altered copies of each
    text are read beside it, without a label.
    """

    name: str
    reads: Literal["text", "task"] = "task"
    trains: Literal["layers", "model"] = "model"
    attention: NonNegativeFloat = 0.0
    hidden: NonNegativeFloat = 0.0
    soft: NonNegativeFloat = 0.0
    hard: NonNegativeFloat = 0.0
    epochs: PositiveFloat = 3.0
    min_steps: NonNegativeInt = 0
    max_steps: NonNegativeInt = 100_000
    batch_size: PositiveInt = 32
    learning_rate: PositiveFloat = 5e-5
    warmup: Share = 0.06
    augmented: NonNegativeInt = 0

    def steps(self, n_rows: int) -> int:
        """Return how many training steps the phase takes with n_rows texts."""
        n_steps = round(self.epochs * n_rows / self.batch_size)
        return min(max(n_steps, self.min_steps, 1), self.max_steps)

    @property
    def needs_teacher(self) -> bool:
        return bool(self.attention or self.hidden or self.soft)


class TrainingSettings(Record):
    """What every phase of an experiment shares.

    patience: a phase that reads labels ends after so many evaluations without a smaller loss on
    the held-out texts, and keeps its best state; 0 never ends one early. It goes by the loss and
    not by accuracy: of two models that get as many of a few texts right, it tells the better one.
    save_steps: training steps between two checkpoints, and between two evaluations. log_steps:
    between two lines of the journal.
    """

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    patience: NonNegativeInt = 0
    save_steps: PositiveInt = 500
    log_steps: PositiveInt = 50
    weight_decay: NonNegativeFloat = 0.01


class Patience(EarlyStoppingCallback):
    """Ends a phase early. A resumed phase goes on counting: the Trainer restores the counter.

    One that had no patience left is ended after its next step, which the best state undoes.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True


class Journal(TrainerCallback):
    """Appends what a phase logs to a file, one JSON object a line, and tells of each step.

    place: phase, and layer where there is one. probe: more values to log, at step 0 too. Lines
    after the step that a resumed run goes on from are dropped: they will come again.
    """

    def __init__(self, path: Path, place: dict[str, Any], observer: Observer) -> None:
        self.path, self.place, self.observer = path, place, observer
        self.probe: Callable[[], dict[str, float]] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.path.exists():
            rows = [json.loads(line) for line in self.path.read_text().splitlines()]
            kept = [row for row in rows if not self._repeats(row, state.global_step)]
            self.path.write_text("".join(json.dumps(row) + "\n" for row in kept))
        if self.probe and state.global_step == 0:
            self._write(0, self.probe())
        self.observer.begin(", layer ".join(str(part) for part in self.place.values()))
        self.observer.plan(state.max_steps - state.global_step, "steps")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        left_out = ("epoch", "total_flos")
        values = {
            name: value
            for name, value in logs.items()
            if name not in left_out and not name.startswith("train_")
        }
        if "loss" in values and self.probe:
            values |= self.probe()
        if values:
            self._write(state.global_step, values)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.observer.finish(1)

    def _write(self, step: int, values: dict[str, float]) -> None:
        rounded = {name: float(f"{value:.6g}") for name, value in values.items()}
        with self.path.open("a") as file:
            file.write(json.dumps({**self.place, "step": step, **rounded}) + "\n")

    def _repeats(self, row: dict[str, Any], step: int) -> bool:
        here = {name: row.get(name) for name in ("phase", "layer")}
        return here == {"layer": None, **self.place} and row["step"] > step


class PhaseTrainer(Trainer):
    """A Trainer whose batches are of similar length and whose losses come by name."""

    def __init__(
        self,
        model: nn.Module,
        losses: Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]],
        rows: Sequence[Any],
        lengths: Sequence[int],
        collator: Callable[[Sequence[Any]], dict[str, Tensor]],
        evaluation: Callable[[], dict[str, float]] | None = None,
        **kwargs: Any,
    ) -> None:
        # The evaluation dataset is only asked for; `evaluate` doesn't read it.
        super().__init__(
            model, train_dataset=rows, eval_dataset=[], data_collator=collator, **kwargs
        )
        self.losses, self.lengths, self.evaluation = losses, lengths, evaluation
        self.model_accepts_loss_kwargs = False  # a batch's loss is its mean already
        self.logged: dict[str, list[float]] = defaultdict(list)
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader:
        batches = shuffled_batches(
            self.lengths, self.args.train_batch_size, self.args.seed, self.args.max_steps
        )
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=list(batches),
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)

    def compute_loss(self, model: nn.Module, inputs: Any, *_: Any, **__: Any) -> Tensor:
        # Not the Trainer's own bf16, which a model gets only from the first of several Trainers.
        with autocast(self.args.device.type):
            terms = self.losses(model, inputs)
        for name, value in terms.items():
            self.logged[name].append(value.item())
        return terms["loss"]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:  # an evaluation is logged too, between two losses
            means = {name: sum(values) / len(values) for name, values in self.logged.items()}
            self.logged.clear()
            logs = {**logs, **means}
        super().log(logs, start_time)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        assert self.evaluation is not None
        metrics = {f"eval_{name}": value for name, value in self.evaluation().items()}
        self.log(metrics)
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


@flush_denormals()
def run_trainer(
    model: nn.Module,
    phase: Phase,
    settings: TrainingSettings,
    folder: Path,
    journal: Journal,
    **parts: Any,
) -> None:
    """Train a model as the phase says, from the last whole checkpoint in `folder` if there is one.

    parts: `PhaseTrainer`'s losses, rows, lengths, collator and evaluation. The folder is removed
    at the end.
    """
    stops_early = bool(settings.patience and parts.get("evaluation"))
    steps = phase.steps(len(parts["rows"]))
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=phase.batch_size,
        max_steps=steps,
        learning_rate=phase.learning_rate,
        warmup_steps=max(1, round(phase.warmup * steps)),
        weight_decay=settings.weight_decay,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=settings.seed,
        logging_steps=settings.log_steps,
        logging_nan_inf_filter=False,
        save_steps=settings.save_steps,
        save_total_limit=1,
        eval_strategy="steps" if stops_early else "no",
        eval_steps=settings.save_steps if stops_early else None,
        load_best_model_at_end=stops_early,
        metric_for_best_model="eval_loss" if stops_early else None,
        greater_is_better=False if stops_early else None,
        remove_unused_columns=False,
        restore_callback_states_from_checkpoint=True,
        report_to=[],
        disable_tqdm=True,
    )
    # Of several GPUs one: on more, the Trainer wraps the model in DataParallel, whose parts the
    # losses don't find, and a batch has so many times as many texts.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    stopping = [Patience(settings.patience)] if stops_early else []
    trainer = PhaseTrainer(model, args=arguments, callbacks=[journal, *stopping], **parts)
    checkpoint = last_whole_checkpoint(folder)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    shutil.rmtree(folder, ignore_errors=True)


def last_whole_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint that was written to its end, and remove broken ones.

    The Trainer writes trainer_state.json last.
    """
    whole = {}
    for path in folder.glob("checkpoint-*"):
        try:
            whole[json.loads((path / "trainer_state.json").read_text())["global_step"]] = path
        except (OSError, ValueError):
            shutil.rmtree(path)
    return whole[max(whole)] if whole else None


def choose_trained(model: nn.Module, learn_thresholds: bool) -> None:
    """Let everything but the embeddings learn, and gamma, shift and eta if asked to."""
    for name, weight in model.named_parameters():
        is_threshold = name.rsplit(".")[-1] in THRESHOLDS
        weight.requires_grad_("embeddings." not in name and (learn_thresholds or not is_threshold))


def train_model(
    model: nn.Module,
    teacher: InhibiDistilBertForSequenceClassification | None,
    phase: Phase,
    settings: TrainingSettings,
    rows: Sequence[TokenRow],
    folder: Path,
    journal: Journal,
    task: Task,
    held_out: Sequence[TokenRow] = (),
) -> None:
    """Train all layers together, in place.

    teacher: the teacher's weights with dot-product attention, or None for a phase that learns
    from labels only. held_out: labelled rows, on whose loss an early stop depends.
    """
    run_trainer(
        model,
        phase,
        settings,
        folder,
        journal,
        losses=partial(_losses, phase=phase, teacher=teacher),
        rows=rows,
        lengths=[len(row.ids) for row in rows],
        collator=partial(collate, pad_id=model.config.pad_token_id),
        evaluation=partial(_evaluate, model, task, held_out) if held_out and phase.hard else None,
    )


def _evaluate(model: nn.Module, task: Task, rows: Sequence[TokenRow]) -> dict[str, float]:
    """Return the loss on labelled rows and the task's metrics."""
    outputs, labels = predict_rows(model, rows), np.array([row.label for row in rows], np.float32)
    loss = hard_loss(torch.from_numpy(outputs), torch.from_numpy(labels))
    return {"loss": loss.item(), **compute_metrics(task.metrics, outputs, labels)}


def _losses(
    model: Any,
    batch: dict[str, Tensor],
    phase: Phase,
    teacher: InhibiDistilBertForSequenceClassification | None,
) -> dict[str, Tensor]:
    """The phase's loss, and each of its terms by name."""
    ids, mask, labels = (batch[name] for name in ("input_ids", "attention_mask", "labels"))
    if not phase.needs_teacher:
        return {"loss": hard_loss(model(input_ids=ids, attention_mask=mask).logits.float(), labels)}
    assert teacher is not None
    with torch.no_grad():
        target = observe(teacher, ids, mask)
    own = observe(model, ids, mask)
    terms: dict[str, Tensor] = {}
    total = torch.zeros((), device=ids.device)
    for name, weight, mine, theirs in (
        ("attention", phase.attention, own.attended, target.attended),
        ("hidden", phase.hidden, own.states, target.states),
    ):
        if weight:
            layers = layer_losses(mine, theirs, mask)
            total = total + weight * torch.stack(layers).mean()
            terms |= {f"{name}.{index}": loss for index, loss in enumerate(layers)}
    logits = own.logits.float()
    if phase.soft:
        terms["soft"] = soft_loss(logits, target.logits.float(), TEMPERATURE)
        total = total + phase.soft * terms["soft"]
    if phase.hard:
        terms["hard"] = hard_loss(logits, labels)
        total = total + phase.hard * terms["hard"]
    return {"loss": total, **terms}
