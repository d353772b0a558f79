"""The quantized network: a trained model seen as the stages that are compiled.

`QuantizedNetwork(model)` reads the float weights and steps of an InhibiDistilBERT with a
quantization configuration and arranges them as project, attend, feed_forward and classify.
Calling it trains (integers, straight-through gradients, rounding noise while the model is in
training mode or `noisy`); `to_circuit` gives the integer parameters, equal entry by entry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from circuits.network import Network
from circuits.stages import Classifier, Head, Layer
from fhe_inhibitor.attention import relative_offsets
from fhe_inhibitor.configuration import LayerConfig, QuantizationConfig
from fhe_inhibitor.quantization import (
    JoinedSteps,
    Step,
    TableLinear,
    clamp_leaky,
    keep_largest,
    round_ste,
    row_scales,
    to_integers,
)
from fhe_inhibitor.quantized_attention import QuantizedDotProduct, QuantizedInhibitor


@dataclass
class QuantizedHead:
    """Projections and attention of one head."""

    query: TableLinear | None
    key: TableLinear
    value: TableLinear
    attention: QuantizedInhibitor | QuantizedDotProduct


@dataclass
class QuantizedLayer:
    """One layer; `block` is the transformer block that it was made from."""

    block: nn.Module
    heads: list[QuantizedHead]
    attention_output: TableLinear
    hidden: TableLinear | None = None
    output: TableLinear | None = None


class QuantizedNetwork:
    """The quantized stages of a model, rebuilt from its parameters for each training step."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.config = model.config
        self.bits: QuantizationConfig = self.config.quantization_config_or_none
        is_noisy = model.training or model.noisy
        self.noise_std = self.bits.rounding_noise if is_noisy else 0.0
        step = model.distilbert.embeddings.step
        self.layers = []
        for block in model.distilbert.transformer.layer:
            self.layers.append(self._layer(block, step))
            step = _output_step(block)
        self.features = self._linear(model.pre_classifier, step, model.features_step)

    def __call__(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return real logits `[B, n_labels]` and hidden states, each `[B, n, dim]`.

        The states are the embeddings and each layer's, as real numbers; the last layer's is
        `[B, 1, dim]`, of the first position.
        """
        x = self.embed(input_ids)
        states = [self.model.distilbert.embeddings.step.reals(x)]
        for index, layer in enumerate(self.layers):
            x = self._run_layer(layer, x, attention_mask, index == len(self.layers) - 1)
            states.append(_output_step(layer.block).reals(x))
        x = self.features(x, noise_std=self.noise_std)[:, 0]
        weight, offset, scale = self._logits()
        return (x @ weight.T + offset) * scale, states

    def embed(self, input_ids: Tensor) -> Tensor:
        """Return the integers that the client encrypts, `[B, n, dim]`."""
        embeddings = self.model.distilbert.embeddings
        step, table = embeddings.step, embeddings.word_embeddings(input_ids)
        if step.calibrating:
            step.calibrate(table.detach())
        x = round_ste(table / step.size)
        if embeddings.position_embeddings is not None:
            positions = embeddings.position_embeddings.weight[: input_ids.shape[1]]
            x = x + round_ste(positions / step.size)
        return clamp_leaky(x, step.low, step.high)

    def _run_layer(
        self, layer: QuantizedLayer, x: Tensor, attention_mask: Tensor, last: bool
    ) -> Tensor:
        attention, noise_std = layer.block.attention, self.noise_std
        window = attention.shape.attention_window
        queries = x[:, :1] if last else x
        mask, offset = _pairs(attention_mask, queries.shape[1], attention.shape)
        outputs = []
        for head in layer.heads:
            q = None if head.query is None else head.query(queries, noise_std=noise_std)
            k, v = (
                _readable(linear(x, noise_std=noise_std), queries.shape[1], window)
                for linear in (head.key, head.value)
            )
            outputs.append(head.attention(q, k, v, mask, offset, noise_std))
        residual = None if attention.shape.constant_query else queries
        attended = layer.attention_output(torch.cat(outputs, dim=-1), residual, noise_std)
        if layer.hidden is None or layer.output is None:
            return attended
        hidden = layer.hidden(attended, noise_std=noise_std)
        return layer.output(hidden, attended, noise_std)

    def _layer(self, block: nn.Module, step: Step) -> QuantizedLayer:
        attention = block.attention
        heads = [self._head(attention, step, head) for head in range(attention.shape.n_heads)]
        joined = JoinedSteps(tuple(attention.output_steps))
        layer = QuantizedLayer(
            block,
            heads,
            self._linear(
                attention.out_lin,
                joined,
                lambda x: block.attended_step(block.sa_layer_norm(x)),
                residual=None if attention.shape.constant_query else step,
            ),
        )
        if block.shape.hidden_dim:
            ffn, attended = block.ffn, block.attended_step
            layer.hidden = self._linear(
                ffn.lin1, attended, lambda x: ffn.hidden_step(ffn.activation(x))
            )
            layer.output = self._linear(
                ffn.lin2,
                ffn.hidden_step,
                lambda x: block.output_step(block.output_layer_norm(x)),
                residual=attended,
            )
        return layer

    def _head(self, attention: nn.Module, step: Step, head: int) -> QuantizedHead:
        shape, key_step = attention.shape, attention.key_steps[head]
        value_step = attention.value_steps[head]
        keys = slice(head * shape.key_head_dim, (head + 1) * shape.key_head_dim)
        values = slice(head * shape.value_head_dim, (head + 1) * shape.value_head_dim)
        query = None
        key = self._linear(attention.k_lin, step, key_step, keys)
        if not shape.constant_query:
            query = self._linear(attention.q_lin, step, key_step, keys)
        elif attention.kind == "dot_product":
            key = self._constant_scores(attention, step, head, keys)
        else:
            constant = attention.query[keys]
            key.entry = lambda x: key_step((x - constant).abs())
        value = self._linear(attention.v_lin, step, value_step, values)
        return QuantizedHead(query, key, value, self._attention(attention, head))

    def _attention(
        self, attention: nn.Module, head: int
    ) -> QuantizedInhibitor | QuantizedDotProduct:
        shape, window = attention.shape, attention.shape.attention_window
        common = {
            "gamma": attention.gamma[head],
            "shift": attention.shift[head],
            "key_dim": shape.key_head_dim,
            "key_step": attention.key_steps[head],
            "value_step": attention.value_steps[head],
            "output_step": attention.output_steps[head],
            "max_keys": min(2 * window + 1, self.config.n_tokens)
            if window
            else self.config.n_tokens,
            "keys_per_sum": shape.keys_per_sum,
            "table_bits": self.bits.table_bits,
        }
        if attention.kind != "dot_product":
            eta = attention.eta[head] if attention.kind == "inhibitor_signed" else None
            return QuantizedInhibitor(eta=eta, **common)
        return QuantizedDotProduct(
            constant_query=shape.constant_query,
            weight_step=attention.weight_steps[head],
            sum_step=attention.sum_steps[head],
            reciprocal_step=attention.reciprocal_steps[head],
            **common,
        )

    def _constant_scores(
        self, attention: nn.Module, step: Step, head: int, keys: slice
    ) -> TableLinear:
        """A product with a constant query is linear: one output per head."""
        query, weight = attention.query[keys], attention.k_lin.weight[keys]
        return TableLinear(
            weight=(query @ weight)[None, :],
            bias=(query @ attention.k_lin.bias[keys])[None],
            input_step=step,
            entry=attention.key_steps[head],
            bits=self.bits,
        )

    def _linear(
        self,
        module: nn.Linear,
        step: Step | JoinedSteps,
        entry: Callable[[Tensor], Tensor],
        rows: slice = slice(None),
        residual: Step | None = None,
    ) -> TableLinear:
        return TableLinear(
            weight=module.weight[rows],
            bias=module.bias[rows],
            input_step=step,
            entry=entry,
            bits=self.bits,
            residual_step=residual,
        )

    def _logits(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return integer weight `[n_labels, dim]`, integer offset `[n_labels]` and logit scale."""
        classifier, step, bits = self.model.classifier, self.model.features_step, self.bits
        # Softmax ignores what all logits have in common; without it they need fewer bits.
        weight, bias = (w - w.mean(dim=0) for w in (classifier.weight, classifier.bias))
        weight = weight * step.size
        if 0 < bits.classifier_fan_in < weight.shape[1]:
            heaviest = weight.detach().abs().sum(dim=0, keepdim=True)
            weight = weight * (keep_largest(heaviest, bits.classifier_fan_in) > 0)
        span = torch.full((weight.shape[1],), float(step.high - step.low))
        largest = float((1 << (bits.logit_bits - 1)) - 1)
        scale = row_scales(weight, span, bits.weight_bits, bits.weight_norm, 2 * largest).max()
        while True:
            integers, offset = round_ste(weight / scale), round_ste(bias / scale)
            fixed = integers.detach()
            reach = [step.high * side.clamp(min=0).sum(dim=1) for side in (fixed, -fixed)]
            if (torch.maximum(*reach) + offset.detach().abs()).max() <= largest:
                return integers, offset, scale
            scale = 1.02 * scale

    @torch.no_grad()
    def to_circuit(self) -> tuple[Network, float]:
        """Return the integer parameters of the encrypted part, and the scale of its logits."""
        weight, offset, scale = self._logits()
        step = self.model.distilbert.embeddings.step
        network = Network(
            layers=tuple(self._layer_to_circuit(layer) for layer in self.layers),
            classifier=Classifier(
                self.features.to_circuit(), to_integers(weight.T), to_integers(offset)
            ),
            dim=self.config.dim,
            input_range=step.range,
        )
        return network, float(scale)

    def _layer_to_circuit(self, layer: QuantizedLayer) -> Layer:
        shape = layer.block.shape
        return Layer(
            attention=self.config.attention_kind,
            window=shape.attention_window,
            max_offset=shape.max_offset,
            single_query=layer is self.layers[-1],
            heads=tuple(
                Head(
                    None if head.query is None else head.query.to_circuit(),
                    head.key.to_circuit(),
                    head.value.to_circuit(),
                    head.attention.to_circuit(shape.value_head_dim),
                )
                for head in layer.heads
            ),
            attention_output=layer.attention_output.to_circuit(),
            hidden=None if layer.hidden is None else layer.hidden.to_circuit(),
            output=None if layer.output is None else layer.output.to_circuit(),
        )


def _output_step(block: nn.Module) -> Step:
    """Return what the integers that leave a block stand for."""
    return block.output_step if block.shape.hidden_dim else block.attended_step


def _readable(x: Tensor, n_queries: int, window: int) -> Tensor:
    """Return the rows of x `[B, n, ...]` that each query may read: `[B, n_queries, m, ...]`.

    m is n for full attention (window 0), else 2 window + 1, with 0 beyond the ends.
    """
    if not window:
        return x[:, None].expand(-1, n_queries, *x.shape[1:])
    edge = x.new_zeros(x.shape[0], window, *x.shape[2:])
    padded = torch.cat([edge, x, edge], dim=1)
    shifted = [padded[:, start : start + n_queries] for start in range(2 * window + 1)]
    return torch.stack(shifted, dim=2)


def _pairs(attention_mask: Tensor, n_queries: int, shape: LayerConfig) -> tuple[Tensor, Tensor]:
    """Return which rows of `_readable` are keys, bool, and each pair's row in offset tables."""
    window, furthest = shape.attention_window, shape.max_offset
    mask = _readable(attention_mask, n_queries, window).bool()
    if not window:
        return mask, relative_offsets(n_queries, attention_mask.shape[1], furthest)
    offset = torch.arange(-window, window + 1).clamp(-furthest, furthest) + furthest
    return mask, offset.expand(n_queries, -1)


def set_calibrating(model: nn.Module, calibrating: bool) -> None:
    """Let every `Step` fit its size to the next batch that it sees, or stop that."""
    for module in model.modules():
        if isinstance(module, Step):
            module.calibrating = calibrating


@torch.no_grad()
def centre_keys(model: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> None:
    """Move the queries and keys of a float model together, so that their codes are well used.

    A distance doesn't notice a constant that is added to both. Codes are symmetric around 0: there
    each channel's mean is put, that over the tokens of one batch. Dot products stay as they are.
    """
    x, read = model.distilbert.embeddings(input_ids), attention_mask.bool()
    for block in model.distilbert.transformer.layer:
        attention = block.attention
        if attention.kind != "dot_product" and not attention.shape.constant_query:
            q_lin, k_lin = attention.q_lin, attention.k_lin
            middle = (q_lin(x[read]).mean(dim=0) + k_lin(x[read]).mean(dim=0)) / 2
            q_lin.bias -= middle
            k_lin.bias -= middle
        x = block(x, attention_mask)


@torch.no_grad()
def calibrate(model: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> None:
    """Fit all step sizes of a float-trained model to one batch and switch quantization on.

    Steps are fitted in the order of evaluation, each on values that are already quantized.
    """
    training = model.training
    model.train(False)
    model.quantized = True
    set_calibrating(model, True)
    model(input_ids, attention_mask)
    set_calibrating(model, False)
    model.train(training)
