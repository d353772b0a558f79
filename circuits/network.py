"""The whole network as a plain composition of stages: the reference for every other path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from circuits.lookups import Lookup, exact_lookup
from circuits.stages import Classifier, Layer, attend, classify, feed_forward, project


@dataclass(frozen=True)
class Network:
    """Clear integer parameters of the encrypted part of a model.

    input_range: of what the client embeds, ends included. dim: channels of the first layer's
    input. client_boundary: "embedding", or "projection" if the client looks up the first
    layer's projections too and sends those.
    """

    layers: tuple[Layer, ...]
    classifier: Classifier
    dim: int
    input_range: tuple[int, int]
    client_boundary: str = "embedding"


def run(
    network: Network,
    x: Any,
    padding: Any,
    lookup: Lookup = exact_lookup,
    observe: Callable[[str, Any], None] = lambda stage, value: None,
) -> Any:
    """Evaluate all stages in the clear: integer logits `[n_labels]`.

    x: int `[n, dim]` in `network.input_range`. padding: int `[n]`, 0 or 1.
    observe: called with each stage's name and output, for verifiers and tests.
    """
    for index, layer in enumerate(network.layers):
        heads = []
        projected = project(x, layer, lookup)
        for head, (q, k, v) in enumerate(projected):
            observe(f"layer{index}.project.head{head}", (q, k, v))
            heads.append(attend(q, k, v, padding, layer, head, lookup))
            observe(f"layer{index}.attend.head{head}", heads[-1])
        residual = None if layer.constant_query else x
        x = feed_forward(heads, residual, layer, lookup)
        observe(f"layer{index}.feed_forward", x)
    logits = classify(x, network.classifier, lookup)
    observe("classify", logits)
    return logits[0]
