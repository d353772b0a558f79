"""Train a causal language model: each position of a window predicts the character after it.

    loss = soft KL(teacher || student) + hard (- log p(next character))        mean over positions

The windows are drawn from one stream of tokens (`text.characters`). A model is a causal classifier
whose labels are the characters, so what is trained here is converted and run encrypted like any
other. With a quantization configuration the last part of the steps computes in the integers of the
circuits, rounding noise included, as in `distillation`.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.model.configuration import InhibiDistilBertConfig
from fhe_inhibitor.model.modeling import InhibiDistilBertForSequenceClassification
from fhe_inhibitor.model.quantized.network import calibrate, centre_keys
from fhe_inhibitor.system.processor import flush_denormals, one_thread
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.system.tensors import fingerprint
from fhe_inhibitor.text.characters import FIRST_ID, LABELS, VOCAB_SIZE
from fhe_inhibitor.training.checkpoints import load_state, save_state
from fhe_inhibitor.training.losses import soft_loss
from fhe_inhibitor.training.steps import cosine, moving_average

CHECKPOINT_STEPS = 250
WARM_UP = 100


@dataclass(frozen=True)
class LanguageTraining:
    """The hyperparameters of one language model.

    steps: of training, of batch_size windows each. float_fraction: share of them before
    quantization, of a model that is quantized. quantized_rate: learning rate after it, in parts of
    the one before. soft, hard: weights of the teacher's probabilities and of the true character;
    without a teacher soft is not read.
    """

    steps: int = 2000
    batch_size: int = 32
    learning_rate: float = 3e-3
    float_fraction: float = 0.5
    quantized_rate: float = 0.5
    soft: float = 1.0
    hard: float = 0.5
    ema_decay: float = 0.99
    seed: int = 0


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log probability of the true next character.

    standard_error: of the perplexity, from the means of the windows. n: characters predicted.
    """

    value: float
    standard_error: float
    n: int


def language_model(seed: int, **shape: Any) -> InhibiDistilBertForSequenceClassification:
    """Return an untrained causal model of characters; shape: of `InhibiDistilBertConfig`."""
    names = dict(enumerate(LABELS))
    config = InhibiDistilBertConfig(
        vocab_size=VOCAB_SIZE,
        causal=True,
        id2label=names,
        label2id={name: index for index, name in names.items()},
        dropout=0.0,
        **shape,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return InhibiDistilBertForSequenceClassification(config)


@flush_denormals()
@one_thread()
def train_language(
    model: InhibiDistilBertForSequenceClassification,
    stream: np.ndarray,
    training: LanguageTraining,
    teacher: InhibiDistilBertForSequenceClassification | None = None,
    checkpoint: Path | None = None,
    observer: Observer | None = None,
) -> None:
    """Train a model in place on windows of its `n_tokens`; its weights become their average.

    stream: token ids int64 `[n]`. teacher: None to learn from the text alone. checkpoint: a file to
    resume from, written every `CHECKPOINT_STEPS` steps. The same seed gives the same weights.
    Raises InputError for a stream shorter than a window, and for a checkpoint of another run.
    """
    n_tokens = model.config.n_tokens
    if len(stream) <= n_tokens:
        raise InputError(f"{len(stream)} characters of text: wanted more than a window, {n_tokens}")
    optimizer = torch.optim.AdamW(model.parameters(), training.learning_rate, (0.9, 0.99))
    average, switch = moving_average(model, training.ema_decay), _switch(model, training)
    run, start = _describe_run(model, stream, training, teacher), 0
    if checkpoint and checkpoint.is_file():
        start = load_state(checkpoint, run, model, average, optimizer)
        model.quantized = start > switch
    observer = observer or Observer()
    observer.begin(f"train {checkpoint.stem}" if checkpoint else "train")
    observer.plan(training.steps - start, "steps")
    model.train()
    for step in range(start, training.steps):
        if step % CHECKPOINT_STEPS == 0:
            torch.manual_seed(training.seed + step)  # a resumed run draws the same noise
        ids, following = _draw(stream, n_tokens, training.batch_size, training.seed, step)
        if step == switch < training.steps:
            mask = torch.ones_like(ids)
            centre_keys(model, ids, mask)
            calibrate(model, ids, mask)
            average = moving_average(model, training.ema_decay)
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate * _rate(step, switch, training)
        loss = language_loss(model.every_position(ids), following, ids, training, teacher)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(model)
        observer.finish(1)
        if checkpoint and (step + 1) % CHECKPOINT_STEPS == 0:
            save_state(checkpoint, run, model, average, optimizer)
    model.load_state_dict(average.module.state_dict())
    model.eval()


def language_loss(
    logits: Tensor,
    following: Tensor,
    ids: Tensor,
    training: LanguageTraining,
    teacher: InhibiDistilBertForSequenceClassification | None,
) -> Tensor:
    """Return the loss of logits `[B, n, labels]`; following: the next token ids `[B, n]`."""
    flat = logits.flatten(0, 1)
    hard = nn.functional.cross_entropy(flat, following.flatten() - FIRST_ID)
    if teacher is None:
        return hard
    with torch.no_grad():
        wanted = teacher.every_position(ids).flatten(0, 1)
    return training.soft * soft_loss(flat, wanted, 1.0) + training.hard * hard


@torch.no_grad()
def measure_perplexity(
    model: InhibiDistilBertForSequenceClassification,
    stream: np.ndarray,
    n_tokens: int,
    seed: int | None = None,
) -> Perplexity:
    """Return the perplexity per character on windows of n_tokens that don't overlap.

    The first prediction of a window knows one character, the last one n_tokens. seed: draws the
    noise of encrypted rounding, in a quantized model; None rounds exactly. Raises InputError for a
    stream shorter than a window.
    """
    n_windows = (len(stream) - 1) // n_tokens
    if n_windows < 1:
        raise InputError(f"{len(stream)} characters of text: wanted more than a window, {n_tokens}")
    windows = torch.from_numpy(stream[: n_windows * n_tokens + 1])
    ids, following = (x.view(n_windows, n_tokens) for x in (windows[:-1], windows[1:]))
    model.eval()
    if seed is not None:
        torch.manual_seed(seed)
        model.noisy = True
    losses = []
    for part, wanted in zip(ids.split(256), following.split(256), strict=True):
        logits = model.every_position(part).transpose(1, 2)
        loss = nn.functional.cross_entropy(logits, wanted - FIRST_ID, reduction="none")
        losses.append(loss.double().mean(dim=1))
    model.noisy = False
    means = torch.cat(losses)
    value = math.exp(float(means.mean()))
    spread = float(means.std()) if n_windows > 1 else math.nan
    return Perplexity(value, value * spread / math.sqrt(n_windows), n_windows * n_tokens)


def _draw(
    stream: np.ndarray, n_tokens: int, batch_size: int, seed: int, step: int
) -> tuple[Tensor, Tensor]:
    """Return windows of a step, and for each of their tokens the next one: int64 `[B, n]`."""
    rng = np.random.default_rng((seed, step))
    starts = rng.integers(0, len(stream) - n_tokens, batch_size)
    windows = torch.from_numpy(stream[starts[:, None] + np.arange(n_tokens + 1)])
    return windows[:, :-1], windows[:, 1:]


def _switch(model: nn.Module, training: LanguageTraining) -> int:
    """Return the first step that is quantized."""
    config: Any = model.config
    if config.quantization is None:
        return training.steps
    return int(training.float_fraction * training.steps)


def _rate(step: int, switch: int, training: LanguageTraining) -> float:
    """Return the learning rate in parts of its largest: one cosine down to 0, another after it."""
    if step < switch:
        return cosine(step, switch, WARM_UP)
    return training.quantized_rate * cosine(step - switch, training.steps - switch, WARM_UP)


def _describe_run(
    model: nn.Module, stream: np.ndarray, training: LanguageTraining, teacher: nn.Module | None
) -> str:
    """Return what a checkpoint must have been made with: settings, shapes, text, teacher."""
    shapes = [(name, list(weight.shape)) for name, weight in model.named_parameters()]
    data = [torch.from_numpy(stream)]
    if teacher is not None:
        data += [weight.detach() for weight in teacher.state_dict().values()]
    return json.dumps([asdict(training), shapes, fingerprint(data)])
