"""Parts of trainings, and one way to train a small network.

The whole, `take_steps`: AdamW, one cycle of the learning rate, clipped gradients. Parts: a cosine
with a warm-up, and the moving average of weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fhe_inhibitor.system.progress import Observer


def take_steps(
    model: nn.Module,
    loss_of: Callable[[], Tensor],
    steps: int,
    learning_rate: float,
    observer: Observer,
    ema_decay: float | None = None,
) -> None:
    """Train a model in place, and leave it in eval mode.

    loss_of: the loss of one batch, drawn anew at each call. ema_decay: keep the exponential moving
    average of the weights, None for the last ones. observer: is told of each step.
    """
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, (0.9, 0.99), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, steps, pct_start=0.1, cycle_momentum=False
    )
    average = None if ema_decay is None else moving_average(model, ema_decay)
    model.train()
    for _ in range(steps):
        loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if average is not None:
            average.update_parameters(model)
        observer.finish(1)
    if average is not None:
        model.load_state_dict(average.module.state_dict())
    model.eval()


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """Return what keeps the exponential moving average of a model's weights, as they are now."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


def cosine(step: int, steps: int, warm_up: int) -> float:
    """Return the part of the largest learning rate: up in `warm_up` steps, by a cosine down to 0.

    >>> [round(cosine(step, 100, 10), 2) for step in (0, 9, 50, 100)]
    [0.1, 0.98, 0.5, 0.0]
    """
    return min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / steps))
