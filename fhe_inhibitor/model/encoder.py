"""A transformer encoder of anything: tokens of numbers, patches of images, words.

    x -> embedding -> + position -> blocks of `blocks.Transformer` -> mean over tokens -> head
                                                                   -> or a head of each token

It is what small experiments train, one layer or a few; the mechanism of attention is a setting, and
nothing else differs between mechanisms.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fhe_inhibitor.model.blocks import Transformer, initialise
from fhe_inhibitor.model.configuration import InhibiDistilBertConfig


class Encoder(nn.Module):
    """Embedding, positions, transformer blocks, and a linear head.

    embedding: any input to `[B, n, dim]`. n_positions: largest n. pools: whether the head reads the
    mean over tokens, or each token. shape: arguments of `InhibiDistilBertConfig`, such as dim,
    n_heads and n_layers. Positions are learned; normalisation is LayerNorm.
    """

    def __init__(
        self,
        embedding: nn.Module,
        n_positions: int,
        n_outputs: int,
        attention_kind: str,
        pools: bool = True,
        **shape: Any,
    ) -> None:
        super().__init__()
        self.config = InhibiDistilBertConfig(
            vocab_size=1, n_tokens=n_positions, attention_kind=attention_kind, dropout=0.0, **shape
        )
        self.pools = pools
        self.positions = nn.Embedding(n_positions, self.config.dim)
        self.transformer = Transformer(self.config)
        self.head = nn.Linear(self.config.dim, n_outputs)
        self.apply(lambda module: initialise(module, self.config))
        self.embedding = embedding  # with its own first values

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return `[B, n_outputs]` if the encoder pools, else `[B, n, n_outputs]`.

        mask: int64 `[B, n]`, 0 for padding; None reads everything.
        """
        states, mask = self.states(x, mask)
        return self.read(states[-1], mask)

    def states(self, x: Tensor, mask: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """Return what each block gives, `[B, n, dim]`, what the first one reads before; the mask.

        The first entry is the embedding.
        """
        embedded = self.embedding(x)
        if mask is None:
            mask = torch.ones(embedded.shape[:2], dtype=torch.int64, device=embedded.device)
        states = [embedded + self.positions.weight[: embedded.shape[1]]]
        for block in self.transformer.layer:
            states.append(block(states[-1], mask))
        return states, mask

    def read(self, state: Tensor, mask: Tensor) -> Tensor:
        """Return the head's outputs of the last block's."""
        if not self.pools:
            return self.head(state)
        weights = mask[:, :, None].to(state.dtype)
        return self.head((state * weights).sum(dim=1) / weights.sum(dim=1))
