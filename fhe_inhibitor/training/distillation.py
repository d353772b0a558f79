"""Distil a small quantized student: soft labels, importance-chosen tokens, noise in the loop.

Training has two phases. In the first the student is a float model and learns the task; a wide
student also loses most of its weights (`pruning`). Then the step size of each activation is
calibrated, and from there on the forward pass computes what the integer network does, rounding
noise included. The weights that are kept are an exponential moving average. One model serves every
sequence length: each batch draws how many tokens it may read.

The target is the teacher's logits of the whole text, which lie in the corpus. A student of the
teacher's shape has another target: the logits and hidden states that a reference computes from the
very tokens that the student reads (`phrase_teacher`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fhe_inhibitor.integer.public import most_important
from fhe_inhibitor.model.quantized.network import calibrate, centre_keys
from fhe_inhibitor.system.processor import (
    autocast,
    fastest_device,
    flush_denormals,
    one_thread,
)
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.system.tensors import fingerprint
from fhe_inhibitor.training.checkpoints import load_state, save_state
from fhe_inhibitor.training.corpus import TokenizedTexts
from fhe_inhibitor.training.losses import Observed, layer_losses, soft_loss
from fhe_inhibitor.training.pruning import prune
from fhe_inhibitor.training.steps import cosine, moving_average

MAX_TEXT_TOKENS = 40
CHECKPOINT_STEPS = 250
WARM_UP = 200  # steps
PRUNING_STEPS = 10


@dataclass(frozen=True)
class DistillationConfig:
    """The hyperparameters of one student.

    steps: of training, of batch_size texts each. float_fraction: share of them before
    quantization. learning_rate: at the start of the float phase; quantized training starts with
    quantized_rate times that, and both phases end at 0. embedding_rate: learning rate of the
    network that makes the embedding rows, None for learning_rate; the free table beside it has
    free_learning_rate and free_weight_decay (`embeddings`). hard_weight: weight of the labels (the
    true one, or the teacher's choice where none is known) beside the teacher's probabilities at
    `temperature`. labelled_share: share of each batch that is drawn from the texts with true
    labels; the rest is drawn from all texts. A student learns the few labelled texts by heart if it
    sees them often, and is worse on others (docs/training.md). word_dropout: chance that a token is
    not read. token_counts, token_weights: how many tokens a batch reads, and
    how often. bfloat16: multiply matrices in bfloat16 in the float phase; sums of the quantized
    phase need float32 to be exact.
    hidden_weight: weight of the squared error of hidden states, mean over layers; it needs a
    reference. pruned_between: shares of the float phase between which the number of inputs of
    each output falls to the quantization's `fan_in` (`pruning`); None keeps all. centre_keys: move
    queries and keys to the middle of their codes before step sizes are calibrated.
    """

    steps: int = 6000
    batch_size: int = 256
    learning_rate: float = 3e-3
    embedding_rate: float | None = None
    free_learning_rate: float = 1e-3
    free_weight_decay: float = 0.5
    float_fraction: float = 0.4
    quantized_rate: float = 0.5
    temperature: float = 1.5
    hard_weight: float = 0.0
    labelled_share: float = 0.0
    word_dropout: float = 0.1
    ema_decay: float = 0.999
    token_counts: tuple[int, ...] = (8, 10, 12, 16, 24)
    token_weights: tuple[float, ...] = (0.1, 0.1, 0.2, 0.4, 0.2)
    bfloat16: bool = False
    hidden_weight: float = 0.0
    pruned_between: tuple[float, float] | None = None
    centre_keys: bool = False
    seed: int = 0


@dataclass(frozen=True)
class TextTable:
    """Texts as one padded table, for batches by fancy indexing.

    ids: int64 `[n, width]`, the most important tokens of each text in order, 0 beyond its end.
    lengths: int64 `[n]`. logits: float32 `[n, n_labels]`, the teacher's. labels: int64 `[n]`,
    -1 where unknown.
    """

    ids: Tensor
    lengths: Tensor
    logits: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def text_table(
    texts: TokenizedTexts, importance: np.ndarray, width: int = MAX_TEXT_TOKENS
) -> TextTable:
    """Arrange ragged texts as a table, cutting long ones to their most important tokens."""
    lengths = np.diff(texts.offsets)
    ids = np.zeros((len(texts), width), dtype=np.int64)
    for i, length in enumerate(lengths):
        row = texts[i]
        if length > width:
            row = row[most_important(importance[row], width)]
        ids[i, : len(row)] = row
    return TextTable(
        torch.from_numpy(ids),
        torch.from_numpy(np.minimum(lengths, width)),
        torch.from_numpy(texts.logits),
        torch.from_numpy(texts.labels),
    )


def select_tokens(
    ids: Tensor, lengths: Tensor, importance: Tensor, n: int, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return the n most important tokens of each text, in order: ids and mask, int64 `[B, n]`.

    dropout: probability that a token is left out before the choice; one of infinite importance
    never is.
    """
    position = torch.arange(ids.shape[1])
    present = position < lengths[:, None]
    if dropout:
        present &= (torch.rand(ids.shape) >= dropout) | importance[ids].isinf()
    score = importance[ids].masked_fill(~present, -torch.inf)
    # A stable sort takes the first of equally important tokens, as the client does.
    chosen = torch.sort(score, dim=1, descending=True, stable=True).indices[:, :n]
    absent = ~present.gather(1, chosen)
    chosen = (chosen + absent * ids.shape[1]).sort(dim=1).values
    mask = chosen < ids.shape[1]
    kept = ids.gather(1, chosen.where(mask, torch.zeros_like(chosen)))
    return kept * mask, mask.long()


@flush_denormals()
@one_thread()
def distil(
    model: nn.Module,
    texts: TextTable,
    importance: np.ndarray,
    config: DistillationConfig,
    checkpoint: Path | None = None,
    reference: Callable[[Tensor, Tensor], Observed] | None = None,
    observer: Observer | None = None,
) -> nn.Module:
    """Train `model` on the teacher's logits and return its averaged weights, in eval mode.

    model: takes `input_ids` and `attention_mask`, returns `.logits`; quantized after the float
    phase if it has a quantization configuration. checkpoint: a file to resume from, written
    every `CHECKPOINT_STEPS` steps; InputError is raised for one of another config, student or
    data, and for a damaged one. reference: returns the target for the tokens that the student
    reads: logits, and `states` in the order of the student's `hidden_states`; if None, the texts'
    logits are the target. observer: hears of each training step.

    It computes on a GPU where torch finds one, and returns the model on the processor. An
    interrupted training may go on on either. On a processor the same seed gives the same weights:
    it computes on one thread.
    """
    device = fastest_device()
    model.to(device)
    optimizer = torch.optim.AdamW(_parameter_groups(model, config), betas=(0.9, 0.99), fused=True)
    average = moving_average(model, config.ema_decay)
    quantizes = getattr(getattr(model, "config", None), "quantization", None) is not None
    switch = int(config.float_fraction * config.steps) if quantizes else config.steps
    weights = torch.from_numpy(importance)
    start, run = 0, _describe_run(model, texts, weights, config)
    if checkpoint and checkpoint.is_file():
        start = load_state(checkpoint, run, model, average, optimizer)
        if start > switch:
            model.quantized = True
    rate = _schedule(config, switch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate, last_epoch=start - 1)
    options = {"output_hidden_states": True} if reference else {}
    observer = observer or Observer()
    observer.begin(f"distil {checkpoint.stem}" if checkpoint else "distil")
    observer.plan(config.steps - start, "steps")
    model.train()
    for step, (rows, n) in enumerate(_batches(texts, config, start), start):
        if step % CHECKPOINT_STEPS == 0:
            torch.manual_seed(config.seed + step)  # a resumed run draws the same noise
        ids, mask = select_tokens(
            texts.ids[rows], texts.lengths[rows], weights, n, config.word_dropout
        )
        ids, mask = ids.to(device), mask.to(device)
        if config.pruned_between and quantizes and step < switch and step % PRUNING_STEPS == 0:
            begin, end = (share * switch for share in config.pruned_between)
            if step > begin:
                prune(model, min(1.0, (step - begin) / (end - begin)), ids, mask)
        if step == switch:
            if config.centre_keys:
                centre_keys(model, ids, mask)
            calibrate(model, ids, mask)
            average = moving_average(model, config.ema_decay)
        with autocast(device.type, enabled=config.bfloat16 and step < switch):
            output = model(input_ids=ids, attention_mask=mask, **options)
        target = reference(ids, mask) if reference else Observed(texts.logits[rows].to(device))
        labels = texts.labels[rows].to(device)
        loss = distillation_loss(output.logits.float(), target.logits, labels, config)
        if reference:
            loss = loss + config.hidden_weight * _hidden_loss(output, target, mask)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(model)
        observer.finish(1)
        if checkpoint and (step + 1) % CHECKPOINT_STEPS == 0:
            save_state(checkpoint, run, model, average, optimizer)
    model.load_state_dict(average.module.state_dict())
    return model.to("cpu").eval()


def distillation_loss(
    logits: Tensor, teacher_logits: Tensor, labels: Tensor, config: DistillationConfig
) -> Tensor:
    """Return T^2 KL(teacher || student) at temperature T, plus weighted cross entropy."""
    soft = soft_loss(logits, teacher_logits, config.temperature)
    hard_labels = torch.where(labels < 0, teacher_logits.argmax(dim=-1), labels)
    hard = nn.functional.cross_entropy(logits, hard_labels)
    return soft + config.hard_weight * hard


def _hidden_loss(output: Any, target: Observed, mask: Tensor) -> Tensor:
    """Return the mean over layers of the error of hidden states, padding left out.

    The last layer of a quantized student computes the first position only.
    """
    losses = [
        layer_losses([own], [state[:, : own.shape[1]]], mask[:, : own.shape[1]])[0]
        for own, state in zip(output.hidden_states, target.states, strict=True)
    ]
    return torch.stack(losses).mean()


@torch.inference_mode()
def predict(
    model: nn.Module, texts: TextTable, importance: np.ndarray, n: int, seed: int | None = None
) -> np.ndarray:
    """Return the model's logits `[n_texts, n_labels]` on n tokens of each text.

    seed: draws the noise of encrypted rounding, in a quantized model; None rounds exactly.
    """
    model.eval()
    if seed is not None:
        torch.manual_seed(seed)
        model.noisy = True
    weights = torch.from_numpy(importance)
    logits = []
    for rows in torch.arange(len(texts)).split(512):
        ids, mask = select_tokens(texts.ids[rows], texts.lengths[rows], weights, n)
        logits.append(model(input_ids=ids, attention_mask=mask).logits)
    model.noisy = False
    return torch.cat(logits).numpy()


def _parameter_groups(model: nn.Module, config: DistillationConfig) -> Sequence[dict[str, Any]]:
    def group_of(name: str) -> str:
        if ".free." in name:
            return "free"
        return "embedding" if ".word_embeddings." in name else "rest"

    groups = [
        ([p for name, p in model.named_parameters() if group_of(name) == kind], rate, decay)
        for kind, rate, decay in (
            ("rest", config.learning_rate, 0.01),
            ("embedding", config.embedding_rate or config.learning_rate, 0.01),
            ("free", config.free_learning_rate, config.free_weight_decay),
        )
    ]
    return [
        {"params": parameters, "lr": rate, "initial_lr": rate, "weight_decay": decay}
        for parameters, rate, decay in groups
        if parameters
    ]


def _schedule(config: DistillationConfig, switch: int) -> Callable[[int], float]:
    """One cosine down to 0 until quantization, another one after it."""

    def rate(step: int) -> float:
        if step < switch:
            return cosine(step, switch, WARM_UP)
        rest = max(1, config.steps - switch)  # a float model has none
        return config.quantized_rate * cosine(step - switch, rest, WARM_UP)

    return rate


def _batches(
    texts: TextTable, config: DistillationConfig, start: int
) -> Iterator[tuple[Tensor, int]]:
    """Yield the rows of each batch from step `start` on, and how many tokens it reads."""
    rng = np.random.default_rng(config.seed)
    labelled = np.flatnonzero(texts.labels.numpy() >= 0)
    n_labelled = round(config.labelled_share * config.batch_size) if len(labelled) else 0
    probabilities = np.asarray(config.token_weights) / sum(config.token_weights)
    for step in range(config.steps):
        rows = rng.integers(0, len(texts), config.batch_size)
        rows[:n_labelled] = rng.choice(labelled, n_labelled)
        n = int(rng.choice(config.token_counts, p=probabilities))
        if step >= start:
            yield torch.from_numpy(rows), n


def _describe_run(
    model: nn.Module, texts: TextTable, importance: Tensor, config: DistillationConfig
) -> str:
    """Return what a checkpoint must have been made with: config, shapes, texts with targets."""
    shapes = [(name, list(weight.shape)) for name, weight in model.named_parameters()]
    data = (texts.ids, texts.lengths, texts.logits, texts.labels, importance)
    return json.dumps([asdict(config), shapes, fingerprint(data)])
