"""Losses of a student against its teacher: attention outputs, hidden states, probabilities.

Hooks read each layer's attention output, so the model needs no change. Teacher and student are
InhibiDistilBERTs: a DistilBERT becomes one with dot-product attention (`from_distilbert`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from fhe_inhibitor.model.modeling import InhibiDistilBertForSequenceClassification


@dataclass
class Observed:
    """Logits `[B, num_labels]`; per layer the attention's output and the state `[B, n, dim]`."""

    logits: Tensor
    attended: list[Tensor] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)


def observe(
    model: InhibiDistilBertForSequenceClassification, ids: Tensor, mask: Tensor
) -> Observed:
    """Run a model and return what a student's can be compared with."""
    attended: list[Tensor] = []
    hooks = [
        layer.attention.register_forward_hook(lambda _, __, output: attended.append(output))
        for layer in model.distilbert.transformer.layer
    ]
    try:
        output = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    finally:
        for hook in hooks:
            hook.remove()
    return Observed(output.logits, attended, list(output.hidden_states[1:]))


def layer_losses(own: list[Tensor], target: list[Tensor], mask: Tensor) -> list[Tensor]:
    """Return each layer's mean squared error over the tokens that are no padding."""
    read = mask.bool()
    return [
        nn.functional.mse_loss(a[read].float(), b[read].float())
        for a, b in zip(own, target, strict=True)
    ]


def soft_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(teacher || student) at temperature T; of a regression the squared error.

    >>> import torch
    >>> soft_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]), 2.0).item()
    0.0
    """
    if logits.shape[-1] == 1:
        return nn.functional.mse_loss(logits, teacher_logits)
    return temperature**2 * nn.functional.kl_div(
        (logits / temperature).log_softmax(dim=-1),
        (teacher_logits / temperature).log_softmax(dim=-1),
        log_target=True,
        reduction="batchmean",
    )


def hard_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return cross entropy, or squared error of a regression, over the rows with a label.

    labels: float `[B]`, NaN where unknown; 0 if that is everywhere.
    """
    labelled = ~labels.isnan()
    if not labelled.any():
        return logits.sum() * 0
    if logits.shape[-1] == 1:
        return nn.functional.mse_loss(logits[labelled, 0], labels[labelled])
    return nn.functional.cross_entropy(logits[labelled], labels[labelled].long())
