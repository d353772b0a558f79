"""The whole network as a plain composition of stages: the reference for every other path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

from circuits.lookups import Lookup, exact_lookup
from circuits.stages import Classifier, Layer, attend, classify, feed_forward, project


@dataclass(frozen=True)
class Network:
    """Clear integer parameters of the encrypted part of a model.

    input_range: of what the client embeds, ends included. dim: channels of the first layer's
    input. client_boundary: "embedding", or "projection" if the client looks up the first
    layer's projections too and sends those.

    A layer may pool positions of its input (`stages.pool`), so that the layers from there on are
    shorter; the first layer can't. For a text that ends inside a group of positions the rest of the
    group is what empty positions become, which are 0 in x. That is the same in each length that the
    text fits, since a length is a multiple of `stride`.

    Padding comes after the text; before it if the network is causal, where the last position is
    the one that is read.

    Raises ValueError if the first layer pools; and for a causal network that pools, whose queries
    would read what comes after them, that has a layer with a query of its own that isn't causal, or
    whose last layer asks for all positions: the first one would be classified.
    """

    layers: tuple[Layer, ...]
    classifier: Classifier
    dim: int
    input_range: tuple[int, int]
    client_boundary: str = "embedding"

    def __post_init__(self) -> None:
        if self.layers[0].pooled != 1:
            raise ValueError(
                f"the first layer pools {self.layers[0].pooled} positions of what the client "
                "encrypts: add them up before"
            )
        if self.causal and self.stride > 1:
            raise ValueError(
                f"a causal network that pools {self.stride} positions: a query would read what "
                "comes after it; pool nothing"
            )
        if self.causal and not all(x.causal or x.constant_query for x in self.layers):
            raise ValueError("some layers are causal and some aren't; wanted all, or none")
        if self.causal and not self.layers[-1].single_query:
            raise ValueError(
                "the last layer of a causal network asks for all positions, of which the first one "
                "would be classified; wanted single_query"
            )

    @property
    def causal(self) -> bool:
        """Whether the last position is read, and padding comes first."""
        return any(layer.causal for layer in self.layers)

    @property
    def stride(self) -> int:
        """How many tokens become one position of the last layer."""
        return prod(layer.pooled for layer in self.layers)

    def lengths(self, n: int) -> list[int]:
        """Return how many positions each layer has for n tokens.

        Raises ValueError if n is no multiple of `stride`.
        """
        if n % self.stride:
            raise ValueError(f"{n} tokens: wanted a multiple of {self.stride}, which are pooled")
        lengths = []
        for layer in self.layers:
            n //= layer.pooled
            lengths.append(n)
        return lengths


def run(
    network: Network,
    x: Any,
    padding: Any,
    lookup: Lookup = exact_lookup,
    observe: Callable[[str, Any], None] = lambda stage, value: None,
) -> Any:
    """Evaluate all stages in the clear: integer logits `[n_labels]`.

    x: int `[n, dim]` in `network.input_range`. padding: int `[n]`, 0 or 1, in that order; 1 comes
    first in a causal network. n is a multiple of the network's stride; padded positions of x are 0
    if there is pooling.
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
