"""Gradual magnitude pruning: from a dense student to outputs that have few inputs each.

The entries of an output's table are spread over the whole range that its sum of inputs can have.
That range grows with the number of inputs, but typical sums only grow with its square root. So with
fewer inputs, typical sums read more of the entries.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


@torch.no_grad()
def prune(model: nn.Module, progress: float, ids: Tensor, mask: Tensor) -> None:
    """Set all but the heaviest inputs of each output to 0, in a float student that has bit widths.

    progress: at 0 all inputs are kept; at 1 only the quantization's `fan_in` are, and of the
    classifier `classifier_fan_in`, the same ones for all labels. Between, the number of inputs to
    remove falls with (1 - progress)^3. The heaviest inputs have the largest |weight| times root
    mean square of the input, over all positions of the texts `ids`, `mask` `[B, n]`, padding too.
    Between calls a weight can come back. Inputs beyond fan_in that remain in the end are cut when
    the student is quantized.
    """
    bits = model.config.quantization_config_or_none
    for linear, deviation in _input_deviations(model, ids, mask).items():
        is_classifier = linear is model.classifier
        goal = bits.classifier_fan_in if is_classifier else bits.fan_in
        n_inputs = linear.in_features
        if not 0 < goal < n_inputs:
            continue
        kept = goal + round((n_inputs - goal) * (1 - progress) ** 3)
        weight = linear.weight.abs() * deviation
        if is_classifier:
            weight = weight.sum(dim=0, keepdim=True)
        linear.weight *= weight >= weight.topk(kept, dim=1).values[:, -1:]


def _input_deviations(model: nn.Module, ids: Tensor, mask: Tensor) -> dict[nn.Linear, Tensor]:
    """Return the root mean square of each input `[in]` of each linear map that is pruned."""
    deviations: dict[nn.Linear, Tensor] = {}

    def record(linear: nn.Linear) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            deviations[linear] = inputs[0].float().square().flatten(0, -2).mean(dim=0).sqrt()

        return hook

    linears = [x for x in model.distilbert.transformer.modules() if isinstance(x, nn.Linear)]
    hooks = [
        linear.register_forward_pre_hook(record(linear))
        for linear in (*linears, model.pre_classifier, model.classifier)
    ]
    try:
        model(input_ids=ids, attention_mask=mask)
    finally:
        for hook in hooks:
            hook.remove()
    return deviations
