"""The blocks of an InhibiDistilBERT: plain modules of torch, under DistilBERT's names.

Parameter names are DistilBERT's, so that its checkpoints load. New are: `gamma`, `shift` and
`eta` of each head; `query`, where the last layer's query is a constant; static normalisation
under LayerNorm's names; and a `Step` for each quantized activation of a model that has a
quantization configuration (see `fhe_inhibitor.model.quantized.steps`). `modeling` makes
transformers classes of them, which take seconds to load.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fhe_inhibitor.model import fused_attention as fused_inhibitor
from fhe_inhibitor.model.attention import causal_mask, dot_product, relative_offsets
from fhe_inhibitor.model.configuration import InhibiDistilBertConfig, LayerConfig
from fhe_inhibitor.model.quantized.steps import Step

ATTENTION: dict[str, Callable[..., Tensor]] = {
    "inhibitor": fused_inhibitor.inhibitor,
    "inhibitor_signed": fused_inhibitor.inhibitor_signed,
    "dot_product": dot_product,
}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}


class StaticNorm(nn.Module):
    """A learned affine per channel: normalisation without statistics, free under encryption."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.bias


def make_norm(config: InhibiDistilBertConfig) -> nn.Module:
    """Return the configured normalisation over `dim` channels."""
    if config.normalization == "static":
        return StaticNorm(config.dim)
    return nn.LayerNorm(config.dim, eps=1e-12)


class Embeddings(nn.Module):
    """Word and position embeddings, normalised; computed by the client in the clear."""

    def __init__(self, config: InhibiDistilBertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(
            config.vocab_size, config.dim, padding_idx=config.pad_token_id
        )
        self.position_embeddings = (
            nn.Embedding(config.max_position_embeddings, config.dim)
            if config.max_position_embeddings
            else None
        )
        # A static normalisation of a table is part of the table.
        normalised = config.normalization == "layer_norm" or config.embedding_layer_norm
        self.LayerNorm = nn.LayerNorm(config.dim, eps=1e-12) if normalised else None
        self.dropout = nn.Dropout(config.dropout)
        if bits := config.quantization_config_or_none:
            self.step = Step.signed(config.dim, bits.activation_bits)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.word_embeddings(input_ids)  # [B, n, dim]
        if self.position_embeddings is not None:
            x = x + self.position_embeddings.weight[: input_ids.shape[1]]
        if self.LayerNorm is not None:
            x = self.LayerNorm(x)
        return self.dropout(x)


class SelfAttention(nn.Module):
    """Projections around one of the pure functions of `ATTENTION`.

    gamma, shift (delta), eta: `[n_heads, n_offsets]`, `[n_heads, n_offsets]`, `[n_heads, 1]`;
    more than one offset only for the shift, and only with threshold "head_offset".
    """

    def __init__(self, config: InhibiDistilBertConfig, layer: LayerConfig) -> None:
        super().__init__()
        self.kind, self.shape = config.attention_kind, layer
        keys, values = layer.n_heads * layer.key_head_dim, layer.n_heads * layer.value_head_dim
        if layer.constant_query:
            self.query = nn.Parameter(torch.zeros(keys))
        else:
            self.q_lin = nn.Linear(config.dim, keys)
        self.k_lin = nn.Linear(config.dim, keys)
        self.v_lin = nn.Linear(config.dim, values)
        self.out_lin = nn.Linear(values, config.dim)
        shift = torch.full((layer.n_heads, 2 * layer.max_offset + 1), float(config.shift))
        gamma, eta = torch.ones(layer.n_heads, 1), torch.ones(layer.n_heads, 1)
        if self.kind == "dot_product":
            shift = torch.zeros_like(shift)
        if config.threshold == "constant" and self.kind != "inhibitor_signed":
            self.register_buffer("gamma", gamma)
            self.register_buffer("shift", shift)
        else:
            self.gamma, self.shift = nn.Parameter(gamma), nn.Parameter(shift)
        if self.kind == "inhibitor_signed":
            self.eta = nn.Parameter(eta)
        if bits := config.quantization_config_or_none:
            heads = range(layer.n_heads)
            make_value = {
                "inhibitor": Step.balanced if bits.saturating else Step.unsigned,
                "inhibitor_signed": Step.symmetric,
                "dot_product": Step.symmetric if bits.saturating else Step.centred,
            }[self.kind]
            make_output = Step.unsigned if self.kind == "inhibitor" else Step.signed
            self.key_steps = nn.ModuleList(
                self._key_step(layer.key_bits, bits.saturating) for _ in heads
            )
            self.value_steps = nn.ModuleList(make_value(1, layer.value_bits) for _ in heads)
            if self.kind == "dot_product":
                wide = min(layer.value_bits + 1, 4)
                self.weight_steps = nn.ModuleList(Step.unsigned(1, wide) for _ in heads)
                self.reciprocal_steps = nn.ModuleList(Step.unsigned(1, 4) for _ in heads)
                self.sum_steps = nn.ModuleList(Step.signed(layer.value_head_dim, 4) for _ in heads)
            self.output_steps = nn.ModuleList(
                make_output(layer.value_head_dim, bits.activation_bits, bits.zero_points)
                for _ in heads
            )

    def _key_step(self, n_bits: int, saturating: bool) -> Step:
        """Quantize queries and keys, or what a constant query makes of the keys."""
        if not self.shape.constant_query:
            return Step.symmetric(1, n_bits) if saturating else Step.centred(1, n_bits)
        if self.kind == "dot_product":
            return Step.symmetric(1, 4) if saturating else Step.centred(1, 4)
        return Step.unsigned(1, n_bits)

    def thresholds(self, n_queries: int, n: int) -> Tensor:
        """Return the shift of each pair: `[n_heads, n_queries or 1, n or 1]`."""
        if self.shape.max_offset == 0:
            return self.shift[:, :, None]
        offset = relative_offsets(n_queries, n, self.shape.max_offset, self.shift.device)
        return self.shift[:, offset]

    def mask(self, attention_mask: Tensor, n_queries: int) -> Tensor:
        """Return which key a query may read: bool `[B, 1, n_queries, n]`."""
        near = self._near(attention_mask, n_queries)
        if not self.shape.causal:
            return near
        return near & causal_mask(n_queries, attention_mask.shape[1], near.device)

    def _near(self, attention_mask: Tensor, n_queries: int) -> Tensor:
        """Return which keys are in the window and no padding: bool `[B, 1, n_queries, n]`."""
        keys = attention_mask[:, None, None, :].bool()
        n, window = attention_mask.shape[1], self.shape.attention_window
        if not window:
            return keys.expand(-1, 1, n_queries, -1)
        position = torch.arange(n, device=keys.device)
        near = (position[:n_queries, None] - position[None, :]).abs() <= window
        return keys & near

    def forward(self, x: Tensor, attention_mask: Tensor, n_queries: int | None = None) -> Tensor:
        """Attend: `[B, n_queries, dim]`, all positions as queries if `n_queries` is None.

        The queries are the first positions; in a causal layer all of them ask.
        """
        q, k, v = self.project(x, n_queries)
        arguments: dict[str, Any] = {
            "mask": self._near(attention_mask, q.shape[2]),
            "gamma": self.gamma[:, :, None],
            "shift": self.thresholds(q.shape[2], k.shape[2]),
            "causal": self.shape.causal,
        }
        if self.kind == "inhibitor_signed":
            arguments["eta"] = self.eta[:, :, None]
        return self.join(ATTENTION[self.kind](q, k, v, **arguments))

    def project(self, x: Tensor, n_queries: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return q `[B, H, n_queries, d]`, k `[B, H, n, d]` and v `[B, H, n, d_v]`."""
        if self.shape.constant_query:
            q = self.query.expand(x.shape[0], 1, -1)
        else:
            q = self.q_lin(x[:, :n_queries])
        q, k, v = (_split(t, self.shape.n_heads) for t in (q, self.k_lin(x), self.v_lin(x)))
        return q, k, v

    def join(self, heads: Tensor) -> Tensor:
        """Return the attention's output `[B, n_q, dim]` of its heads' `[B, H, n_q, d_v]`."""
        return self.out_lin(heads.transpose(1, 2).flatten(2))


def _split(x: Tensor, n_heads: int) -> Tensor:
    """`[B, n, H d]` to `[B, H, n, d]`."""
    return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """DistilBERT's two-layer feed-forward block."""

    def __init__(self, config: InhibiDistilBertConfig, hidden_dim: int) -> None:
        super().__init__()
        self.lin1 = nn.Linear(config.dim, hidden_dim)
        self.lin2 = nn.Linear(hidden_dim, config.dim)
        self.activation = _activation(config.activation)
        self.dropout = nn.Dropout(config.dropout)
        if bits := config.quantization_config_or_none:
            make_step = Step.unsigned if config.activation == "relu" else Step.signed
            if bits.saturating:  # a ceiling above, and below what is 0 or nearly so
                make_step = Step.balanced
            self.hidden_step = make_step(hidden_dim, bits.activation_bits, bits.zero_points)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.lin2(self.activation(self.lin1(x))))


class TransformerBlock(nn.Module):
    """Attention and feed-forward block, each with its residual and its normalisation."""

    def __init__(self, config: InhibiDistilBertConfig, index: int) -> None:
        super().__init__()
        self.shape = config.layer(index)
        self.attention = SelfAttention(config, self.shape)
        self.sa_layer_norm = make_norm(config)
        if self.shape.hidden_dim:
            self.ffn = FeedForward(config, self.shape.hidden_dim)
            self.output_layer_norm = make_norm(config)
        if bits := config.quantization_config_or_none:
            signed = Step.symmetric if bits.saturating else Step.signed
            make_step = partial(signed, config.dim, bits.activation_bits, bits.zero_points)
            self.attended_step = make_step()
            if self.shape.hidden_dim:
                self.output_step = make_step()

    def forward(self, x: Tensor, attention_mask: Tensor, n_queries: int | None = None) -> Tensor:
        x, mask = self.pool(x, attention_mask)
        return self.finish(x[:, :n_queries], self.attention(x, mask, n_queries))

    def pool(self, x: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the means of neighbouring positions that this layer reads, and their mask.

        attention_mask: of the tokens, see `pooled_mask`.
        """
        if self.shape.pooled > 1:
            x = x.unflatten(1, (-1, self.shape.pooled)).mean(dim=2)
        return x, pooled_mask(attention_mask, x.shape[1])

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Return the block's output of its queries' input and what they attended to."""
        if not self.shape.constant_query:  # the residual of a constant query is a bias
            attended = attended + x
        x = self.sa_layer_norm(attended)
        return self.output_layer_norm(x + self.ffn(x)) if self.shape.hidden_dim else x


def empty_padding(x: Tensor, attention_mask: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Return x and its mask with padding that is 0, up to a multiple of `stride` positions.

    A group of positions that are pooled may hold the last tokens and padding; what that becomes
    then counts. Without pooling, a stride of 1, both stay as they are. Integers that stand for
    themselves are emptied as well as floats.
    """
    if stride == 1:
        return x, attention_mask
    missing = -x.shape[1] % stride
    mask = nn.functional.pad(attention_mask, (0, missing))
    x = x.masked_fill(~attention_mask.bool()[:, :, None], 0.0)
    return nn.functional.pad(x, (0, 0, 0, missing)), mask


def pooled_mask(attention_mask: Tensor, n: int) -> Tensor:
    """Return the mask of n positions that tokens were pooled into, `[B, n]`.

    Tokens come before padding, so a position holds some where its first one is a token.
    """
    return attention_mask[:, :: attention_mask.shape[1] // n]


def last_tokens(x: Tensor, attention_mask: Tensor) -> Tensor:
    """Return each row's last position that isn't padding, of x `[B, n, dim]`: `[B, dim]`.

    >>> last_tokens(torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]]), torch.tensor([[1, 1], [1, 0]]))
    tensor([[2.],
            [3.]])
    """
    rows = torch.arange(len(x), device=x.device)
    return x[rows, (attention_mask.long().sum(dim=1) - 1).clamp(min=0)]


class Transformer(nn.Module):
    """The stack of blocks, under DistilBERT's name `layer`."""

    def __init__(self, config: InhibiDistilBertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(TransformerBlock(config, i) for i in range(config.n_layers))


@torch.no_grad()
def initialise(module: nn.Module, config: InhibiDistilBertConfig) -> None:
    """Give the parameters of one module, not of those inside it, their first values."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=config.initializer_range)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, (nn.LayerNorm, StaticNorm)):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, SelfAttention):
        nn.init.ones_(module.gamma)
        initial = 0.0 if module.kind == "dot_product" else config.shift
        nn.init.constant_(module.shift, initial)
        if module.kind == "inhibitor_signed":
            nn.init.ones_(module.eta)
        if module.shape.constant_query:
            nn.init.normal_(module.query, std=config.initializer_range)
    elif isinstance(module, Step):
        nn.init.zeros_(module.log_size)
        if module.zero_point is not None:
            nn.init.zeros_(module.zero_point)


def features_step(config: InhibiDistilBertConfig) -> Step | None:
    """Return the quantizer of what the classifier reads, None in a float model."""
    bits = config.quantization_config_or_none
    if bits is None:
        return None
    if config.head_activation == "tanh":
        return Step.symmetric(config.dim, bits.feature_bits)
    make_step = Step.balanced if bits.saturating else Step.unsigned
    return make_step(config.dim, bits.feature_bits)


def _activation(name: str) -> nn.Module:
    """Return the activation that transformers knows by this name."""
    if name in ACTIVATIONS:
        return ACTIVATIONS[name]()
    from transformers.activations import ACT2FN  # two seconds, which the usual ones can spare

    return ACT2FN[name]
