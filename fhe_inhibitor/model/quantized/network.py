"""The quantized network: a trained model seen as the stages that are compiled.

`QuantizedNetwork(model)` reads the float weights and steps of an InhibiDistilBERT with a
quantization configuration and arranges them as project, attend, feed_forward and classify.
Calling it trains (integers, straight-through gradients, rounding noise while the model is in
training mode or `noisy`); `to_circuit` gives the integer parameters, equal entry by entry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from circuits.linear import Linear
from circuits.network import Network
from circuits.stages import Classifier, Head, Layer
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.model.attention import causal_mask, relative_offsets
from fhe_inhibitor.model.blocks import empty_padding, last_tokens, pooled_mask
from fhe_inhibitor.model.configuration import LayerConfig, QuantizationConfig
from fhe_inhibitor.model.quantized.attention import (
    QuantizedDotProduct,
    QuantizedInhibitor,
)
from fhe_inhibitor.model.quantized.functions import Bounds, need_finite, row_scales
from fhe_inhibitor.model.quantized.operations import readable, round_ste
from fhe_inhibitor.model.quantized.steps import (
    JoinedSteps,
    PooledStep,
    Step,
    TableLinear,
    clamp_leaky,
    to_integers,
)


def _unchanged(x: Tensor) -> Tensor:
    return x


@dataclass
class QuantizedLayer:
    """One layer; `block` is the transformer block that it was made from.

    query, key, value: of all heads, side by side.
    """

    block: nn.Module
    query: TableLinear | None
    key: TableLinear
    value: TableLinear
    heads: list[QuantizedInhibitor | QuantizedDotProduct]
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
        self.calibrating = step.calibrating
        self.layers = []
        for block in model.distilbert.transformer.layer:
            self.layers.append(self._layer(block, step))
            step = _output_step(block)
        # A step without negative codes is a ReLU by itself.
        function = torch.tanh if self.config.head_activation == "tanh" else _unchanged
        self.features = self._linear(model.pre_classifier, step, model.features_step, function)

    def __call__(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return real logits `[B, n_labels]` and hidden states, each `[B, n, dim]`, n of its layer.

        The states are the embeddings and each layer's, as real numbers; the last layer's is
        `[B, 1, dim]`, of the position that is read.
        """
        x, states = self._states(input_ids, attention_mask)
        if self.layers[-1].block.shape.causal:
            x, states[-1] = (last_tokens(t, attention_mask)[:, None] for t in (x, states[-1]))
        return self._classify(x)[:, 0], states

    def every_position(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return a causal model's real logits after each token, `[B, n, n_labels]`."""
        return self._classify(self._states(input_ids, attention_mask)[0])

    def _states(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the integers of the last layer, and what those of all layers stand for."""
        x, attention_mask = empty_padding(self.embed(input_ids), attention_mask, self.config.stride)
        states = [self.model.distilbert.embeddings.step.reals(x)]
        for index, layer in enumerate(self.layers):
            x = self._run_layer(layer, x, attention_mask, index == len(self.layers) - 1)
            states.append(_output_step(layer.block).reals(x))
        return x, states

    def _classify(self, x: Tensor) -> Tensor:
        """Return the real logits of integers of the last layer."""
        x = self.features(x, noise_std=self.noise_std)  # calibrates the step that logits read
        weight, offset, scale = self._logits()
        return (x @ weight.T + offset) * scale

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
        if attention.shape.pooled > 1:
            x = x.unflatten(1, (-1, attention.shape.pooled)).sum(dim=2)
        queries = x[:, :1] if last and not attention.shape.causal else x
        keys = pooled_mask(attention_mask, x.shape[1])
        mask, offset = _pairs(keys, queries.shape[1], attention.shape)
        n_heads = len(layer.heads)
        query: Sequence[Tensor | None] = [None] * n_heads
        if layer.query is not None:
            query = layer.query(queries, noise_std=noise_std).chunk(n_heads, dim=-1)
        key, value = (
            linear(x, noise_std=noise_std).chunk(n_heads, dim=-1)
            for linear in (layer.key, layer.value)
        )
        outputs = [
            head(q, k, v, mask, offset, noise_std)
            for head, q, k, v in zip(layer.heads, query, key, value, strict=True)
        ]
        residual = None if attention.shape.constant_query else queries
        attended = layer.attention_output(torch.cat(outputs, dim=-1), residual, noise_std)
        if layer.hidden is None or layer.output is None:
            return attended
        hidden = layer.hidden(attended, noise_std=noise_std)
        return layer.output(hidden, attended, noise_std)

    def _layer(self, block: nn.Module, step: Step) -> QuantizedLayer:
        attention = block.attention
        shape, keys = attention.shape, JoinedSteps(tuple(attention.key_steps))
        given = PooledStep(step, shape.pooled) if shape.pooled > 1 else step
        layer = QuantizedLayer(
            block,
            query=None if shape.constant_query else self._linear(attention.q_lin, given, keys),
            key=self._key(attention, given, keys),
            value=self._linear(attention.v_lin, given, JoinedSteps(tuple(attention.value_steps))),
            heads=[self._attention(attention, head) for head in range(shape.n_heads)],
            attention_output=self._linear(
                attention.out_lin,
                JoinedSteps(tuple(attention.output_steps)),
                block.attended_step,
                block.sa_layer_norm,
                residual=None if shape.constant_query else given,
            ),
        )
        if block.shape.hidden_dim:
            ffn, attended = block.ffn, block.attended_step
            layer.hidden = self._linear(ffn.lin1, attended, ffn.hidden_step, ffn.activation)
            layer.output = self._linear(
                ffn.lin2, ffn.hidden_step, block.output_step, block.output_layer_norm, attended
            )
        return layer

    def _key(
        self, attention: nn.Module, step: Step | PooledStep, steps: JoinedSteps
    ) -> TableLinear:
        """Keys; with a constant query distances to it, channel by channel, or products with it."""
        shape, k_lin = attention.shape, attention.k_lin
        if not shape.constant_query:
            return self._linear(k_lin, step, steps)
        query = attention.query
        if attention.kind != "dot_product":
            return self._linear(k_lin, step, steps, lambda x: (x - query).abs(), monotone=False)
        # A product with a constant query is linear: one output per head.
        by_head = query.unflatten(0, (shape.n_heads, 1, -1))
        weight = by_head @ k_lin.weight.unflatten(0, (shape.n_heads, -1))
        bias = by_head @ k_lin.bias.unflatten(0, (shape.n_heads, -1, 1))
        return TableLinear(
            weight.flatten(0, 1),
            bias.flatten(),
            step,
            _unchanged,
            steps,
            self.bits,
            calibrating=self.calibrating,
        )

    def _attention(
        self, attention: nn.Module, head: int
    ) -> QuantizedInhibitor | QuantizedDotProduct:
        shape = attention.shape
        common = {
            "gamma": attention.gamma[head],
            "shift": attention.shift[head],
            "key_dim": shape.key_head_dim,
            "key_step": attention.key_steps[head],
            "value_step": attention.value_steps[head],
            "output_step": attention.output_steps[head],
            "max_keys": shape.max_keys,
            "window": shape.attention_window,
            "keys_per_sum": shape.keys_per_sum,
            "table_bits": self.bits.table_bits,
            "constant_query": shape.constant_query,
        }
        if attention.kind != "dot_product":
            eta = attention.eta[head] if attention.kind == "inhibitor_signed" else None
            return QuantizedInhibitor(eta=eta, antiperiodic=self.bits.saturating, **common)
        return QuantizedDotProduct(
            weight_step=attention.weight_steps[head],
            sum_step=attention.sum_steps[head],
            reciprocal_step=attention.reciprocal_steps[head],
            **common,
        )

    def _linear(
        self,
        module: nn.Linear,
        input_step: Step | JoinedSteps | PooledStep,
        output_step: Step | JoinedSteps,
        function: Callable[[Tensor], Tensor] = _unchanged,
        residual: Step | PooledStep | None = None,
        monotone: bool = True,
    ) -> TableLinear:
        return TableLinear(
            module.weight,
            module.bias,
            input_step,
            function,
            output_step,
            self.bits,
            residual,
            self.calibrating,
            monotone,
        )

    def _logits(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return integer weight `[n_labels, dim]`, integer offset `[n_labels]` and logit scale.

        Raises InputError, before quantized training starts, if no weight but 0 is left.
        """
        classifier, step, bits = self.model.classifier, self.model.features_step, self.bits
        # Softmax ignores what all logits have in common; without it they need fewer bits.
        weight, bias = (w - w.mean(dim=0) for w in (classifier.weight, classifier.bias))
        need_finite(weight, bias)
        weight = weight * step.size
        if 0 < bits.classifier_fan_in < weight.shape[1]:
            heaviest = weight.detach().abs().sum(dim=0)
            weight = weight * (heaviest >= heaviest.topk(bits.classifier_fan_in).values[-1])
        codes, zero = float(step.high - step.low), step.centre
        above, below = step.high - zero, zero - step.low  # codes on either side of 0
        span = weight.new_full((weight.shape[1],), codes)
        largest = float((1 << (bits.logit_bits - 1)) - 1)
        bounds = Bounds((1 << (bits.weight_bits - 1)) - 1, bits.weight_norm, 2 * largest)
        scale = row_scales(weight, span, bounds).max()
        while True:
            integers, offset = round_ste(weight / scale), round_ste(bias / scale)
            fixed = integers.detach()
            up, down = (side.clamp(min=0).sum(dim=1) for side in (fixed, -fixed))
            reach = [above * up + below * down, above * down + below * up]
            if (torch.maximum(*reach) + offset.detach().abs()).max() <= largest:
                if self.calibrating and not fixed.any():
                    raise InputError(
                        f"logits of {bits.logit_bits} bits can't sum features of "
                        f"{bits.feature_bits} bits: every weight of the classifier is rounded to "
                        "0. Set classifier_fan_in to read fewer of them, or raise logit_bits"
                    )
                return integers, offset - zero * integers.sum(dim=1), scale
            scale = 1.02 * scale

    @torch.no_grad()
    def to_circuit(self) -> tuple[Network, float]:
        """Return the integer parameters of the encrypted part, and the scale of its logits.

        Raises InputError for a model that isn't on the processor.
        """
        device = self.model.classifier.weight.device
        if device.type != "cpu":
            raise InputError(
                f"the model is on {device.type}, and its integers are those of the processor: move "
                'it there with model.to("cpu")'
            )
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
        query: Sequence[Linear | None] = [None] * shape.n_heads
        if layer.query is not None:
            query = _by_head(layer.query.to_circuit(), shape.n_heads)
        key, value = (_by_head(x.to_circuit(), shape.n_heads) for x in (layer.key, layer.value))
        heads = [head.to_circuit(shape.value_head_dim) for head in layer.heads]
        return Layer(
            attention=self.config.attention_kind,
            window=shape.attention_window,
            max_offset=shape.max_offset,
            single_query=layer is self.layers[-1],
            heads=tuple(map(Head, query, key, value, heads)),
            attention_output=layer.attention_output.to_circuit(),
            hidden=None if layer.hidden is None else layer.hidden.to_circuit(),
            output=None if layer.output is None else layer.output.to_circuit(),
            pooled=shape.pooled,
            causal=shape.causal,
        )


def _by_head(linear: Linear, n_heads: int) -> list[Linear]:
    """Return the outputs of each head, which lie side by side."""
    columns = np.split(np.arange(len(linear.offset)), n_heads)
    return [
        Linear(
            weight=np.ascontiguousarray(linear.weight[:, own]),
            offset=linear.offset[own],
            table=replace(linear.table, values=linear.table.values[own]),
        )
        for own in columns
    ]


def _output_step(block: nn.Module) -> Step:
    """Return what the integers that leave a block stand for."""
    return block.output_step if block.shape.hidden_dim else block.attended_step


def _pairs(attention_mask: Tensor, n_queries: int, shape: LayerConfig) -> tuple[Tensor, Tensor]:
    """Return which rows of `readable` are keys, bool, and each pair's row in offset tables."""
    window, furthest = shape.attention_window, shape.max_offset
    n = attention_mask.shape[1]
    mask = readable(attention_mask, n_queries, window).bool()
    if not window:
        if shape.causal:
            mask = mask & causal_mask(n_queries, n, mask.device)
        return mask, relative_offsets(n_queries, n, furthest, mask.device)
    offset = torch.arange(-window, window + 1, device=mask.device)
    if shape.causal:
        mask = mask & (offset <= 0)
    return mask, (offset.clamp(-furthest, furthest) + furthest).expand(n_queries, -1)


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
    x = model.distilbert.embeddings(input_ids)
    x, attention_mask = empty_padding(x, attention_mask, model.config.stride)
    for block in model.distilbert.transformer.layer:
        attention = block.attention
        given, mask = block.pool(x, attention_mask)
        if attention.kind != "dot_product" and not attention.shape.constant_query:
            q_lin, k_lin = attention.q_lin, attention.k_lin
            given = given[mask.bool()]
            middle = (q_lin(given).mean(dim=0) + k_lin(given).mean(dim=0)) / 2
            q_lin.bias -= middle
            k_lin.bias -= middle
        x = block(x, attention_mask)


@torch.no_grad()
def calibrate(model: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> None:
    """Fit all step sizes of a float-trained model to one batch and switch quantization on.

    Steps are fitted in the order of evaluation, each on values that are already quantized. They
    are fitted to padding as well, although `centre_keys` and fake quantization leave it out: so
    were those of the shipped models.
    """
    training = model.training
    model.train(False)
    model.quantized = True
    set_calibrating(model, True)
    model(input_ids, attention_mask)
    set_calibrating(model, False)
    model.train(training)
