"""InhibiDistilBERT: DistilBERT with a choice of attention, as ordinary transformers classes.

Parameter names are DistilBERT's, so that its checkpoints load; `blocks` says which are new. Once
`quantized` is switched on, the forward pass computes in the integers that the circuits compute in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput
from transformers.modeling_utils import PreTrainedModel

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.model.blocks import (
    Embeddings,
    Transformer,
    empty_padding,
    features_step,
    initialise,
    last_tokens,
)
from fhe_inhibitor.model.configuration import InhibiDistilBertConfig
from fhe_inhibitor.model.fake_quantization import add_grids
from fhe_inhibitor.model.quantized.network import QuantizedNetwork

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # or an index of such, by transformers
UNSUPPORTED = ("inputs_embeds", "output_attentions")


class InhibiDistilBertPreTrainedModel(PreTrainedModel):
    """Initialisation and loading of InhibiDistilBERTs."""

    config_class = InhibiDistilBertConfig
    base_model_prefix = "distilbert"
    supports_gradient_checkpointing = False

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load what transformers wrote. Raises InputError for a checkpoint of another form."""
        folder = Path(pretrained_model_name_or_path or "")
        names = (*WEIGHTS, *(f"{name}.index.json" for name in WEIGHTS))
        elsewhere = kwargs.get("variant") or kwargs.get("subfolder")  # or by another name
        has_weights = elsewhere or any((folder / name).is_file() for name in names)
        if (folder / "config.json").is_file() and not has_weights:
            raise InputError(
                f"{folder} has no {WEIGHTS[0]}, which transformers loads: a student's int8 file is "
                "loaded by fhe_inhibitor.model.loading.load_model, a model's integers by "
                "fhe_inhibitor.IntegerModel.load"
            )
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def _init_weights(self, module: nn.Module) -> None:
        initialise(module, self.config)


class InhibiDistilBertModel(InhibiDistilBertPreTrainedModel):
    """The bare model: last hidden states `[B, n, dim]`, or `[B, 1, dim]` for a constant query.

    With pooling n is that of the last layer.
    """

    def __init__(self, config: InhibiDistilBertConfig) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.transformer = Transformer(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embeddings.word_embeddings = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> BaseModelOutput | tuple:
        """Encode `input_ids` `[B, n]`; `attention_mask` `[B, n]` is 0 for padding.

        Raises InputError for `inputs_embeds` and `output_attentions`, which there aren't.
        """
        input_ids = _only_ids(input_ids, kwargs)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        x = self.embeddings(input_ids)
        x, attention_mask = empty_padding(x, attention_mask, self.config.stride)
        states = [x]
        for block in self.transformer.layer:
            x = block(x, attention_mask)
            states.append(x)
        output = BaseModelOutput(
            last_hidden_state=x, hidden_states=tuple(states) if output_hidden_states else None
        )
        return output if return_dict else output.to_tuple()


class InhibiDistilBertForSequenceClassification(InhibiDistilBertPreTrainedModel):
    """InhibiDistilBERT with DistilBERT's classification head on the first position.

    A causal model reads its last token instead. The classifier of one whose labels are its
    vocabulary says which token comes next, and `every_position` says it after each token.

    `quantized` (off at first) switches the forward pass to the integers of the circuits; it
    needs a quantization configuration and calibrated steps. Then `noisy` (off at first) draws the
    noise of encrypted rounding outside of training too.
    """

    def __init__(self, config: InhibiDistilBertConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.distilbert = InhibiDistilBertModel(config)
        self.pre_classifier = nn.Linear(config.dim, config.dim)
        self.classifier = nn.Linear(config.dim, config.num_labels)
        self.dropout = nn.Dropout(config.dropout)
        self.quantized, self.noisy = False, False
        if step := features_step(config):
            self.features_step = step
        self.post_init()
        if config.fake_quantization_bits:
            add_grids(self, config.fake_quantization_bits)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> SequenceClassifierOutput | tuple:
        """Return logits `[B, num_labels]`, and a loss if `labels` `[B]` are given.

        The loss is cross entropy, or the squared error of a single output (a regression). Hidden
        states are the embeddings, then each layer's, `[B, n, dim]`, n of that layer; a quantized
        model's last is of the first position only. Raises InputError as `InhibiDistilBertModel`
        does.
        """
        input_ids = _only_ids(input_ids, kwargs)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        states: Sequence[Tensor] = ()
        if self.quantized:
            logits, states = QuantizedNetwork(self)(input_ids, attention_mask)
        elif output_hidden_states:
            states = self.distilbert(input_ids, attention_mask, True).hidden_states
            logits = self._classify(self._position_read(states[-1], attention_mask))
        else:
            logits = self._classify(self._last_layer(input_ids, attention_mask))
        loss = None
        if labels is not None and self.num_labels == 1:
            loss = nn.functional.mse_loss(logits[:, 0], labels)
        elif labels is not None:
            loss = nn.functional.cross_entropy(logits, labels)
        output = SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=tuple(states) if output_hidden_states else None
        )
        return output if return_dict else output.to_tuple()

    def every_position(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return a causal model's logits after each token, `[B, n, num_labels]`.

        Raises InputError for a model that isn't causal, or ends in a constant query.
        """
        if not self.config.layer(self.config.n_layers - 1).causal:
            raise InputError(
                "only a causal model whose last layer has queries of its own says something after "
                'each token: set causal=True and classifier_query="cls"'
            )
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if self.quantized:
            return QuantizedNetwork(self).every_position(input_ids, attention_mask)
        return self._classify(self.distilbert(input_ids, attention_mask).last_hidden_state)

    def _last_layer(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return what the classifier reads, `[B, dim]`.

        The last layer computes nothing else, unless it is causal, where that place may be another
        in each row.
        """
        x = self.distilbert.embeddings(input_ids)
        x, attention_mask = empty_padding(x, attention_mask, self.config.stride)
        *blocks, last = self.distilbert.transformer.layer
        for block in blocks:
            x = block(x, attention_mask)
        x = last(x, attention_mask, n_queries=None if last.shape.causal else 1)
        return self._position_read(x, attention_mask)

    def _position_read(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the position of the last layer's states `[B, n, dim]` that is classified."""
        if self.distilbert.transformer.layer[-1].shape.causal:
            return last_tokens(x, attention_mask)
        return x[:, 0]

    def _classify(self, x: Tensor) -> Tensor:
        features = self.pre_classifier(x)
        features = features.tanh() if self.config.head_activation == "tanh" else features.relu()
        return self.classifier(self.dropout(features))


def _only_ids(input_ids: Tensor | None, others: Mapping[str, Any]) -> Tensor:
    """Return the token ids, after refusing what DistilBERT knows and these models don't."""
    asked = [
        name for name in UNSUPPORTED if not (others.get(name) is None or others[name] is False)
    ]
    if asked or input_ids is None:
        raise InputError(
            f"{', '.join(asked) or 'no input_ids'}: these models read input_ids alone, and keep no "
            "attention weights"
        )
    return input_ids


AutoConfig.register("inhibidistilbert", InhibiDistilBertConfig)
AutoModel.register(InhibiDistilBertConfig, InhibiDistilBertModel)
AutoModelForSequenceClassification.register(
    InhibiDistilBertConfig, InhibiDistilBertForSequenceClassification
)
