"""InhibiDistilBERT's configuration: DistilBERT's names, and what encryption adds to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from math import prod
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PretrainedConfig

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.model.allowed import Allowed, Choices, Integers, Numbers, check, check_lengths

PER_LAYER = (
    "n_heads", "hidden_dim", "key_head_dim", "value_head_dim", "attention_window", "pooling",
)  # fmt: skip
QUANTIZATION_PER_LAYER = ("key_bits", "value_bits", "keys_per_sum")
HEAD_ACTIVATIONS = ("relu", "tanh")
ATTENTION_KINDS = ("inhibitor", "inhibitor_signed", "dot_product")
USUAL_ACTIVATIONS = ("gelu", "relu")  # which need nothing of transformers
DTYPES = ("float16", "bfloat16", "float32", "float64")
SWITCH = Choices((False, True))

# What a configuration may hold. Bounds from above are far beyond what can be encrypted: they keep a
# mistyped size from filling the memory.
CHANNELS, POSITIONS = 1 << 14, 1 << 20
ALLOWED: dict[str, Allowed] = {
    "attention_kind": Choices(ATTENTION_KINDS),
    "threshold": Choices(("constant", "head", "head_offset")),
    "classifier_query": Choices(("cls", "constant")),
    "head_activation": Choices(HEAD_ACTIVATIONS),
    "normalization": Choices(("layer_norm", "static")),
    "token_importance": Choices(("none", "public")),
    "client_boundary": Choices(("embedding", "projection")),
    "causal": SWITCH,
    "embedding_layer_norm": SWITCH,
    "vocab_size": Integers(1, 1 << 31),
    "max_position_embeddings": Integers(0, POSITIONS),
    "dim": Integers(1, CHANNELS),
    "n_layers": Integers(1, 1000),
    "n_heads": Integers(1, CHANNELS, per_layer=True),
    "hidden_dim": Integers(0, 8 * CHANNELS, per_layer=True),
    "key_head_dim": Integers(1, CHANNELS, per_layer=True, or_none=True),
    "value_head_dim": Integers(1, CHANNELS, per_layer=True, or_none=True),
    "attention_window": Integers(0, POSITIONS, per_layer=True),
    "max_relative_offset": Integers(0, POSITIONS),
    "n_tokens": Integers(1, POSITIONS),
    "default_tokens": Integers(1, POSITIONS),
    "fake_quantization_bits": Integers(2, 8, or_none=True),
    "pad_token_id": Integers(0, 1 << 31, or_none=True),
    "num_labels": Integers(1, CHANNELS, or_none=True),
    "shift": Numbers(),
    "dropout": Numbers(0, 1),
    "initializer_range": Numbers(0),
    "p_error": Numbers(2**-128, 1),
}
BITS, BITS_PER_LAYER = Integers(2, 8), Integers(2, 8, per_layer=True)
ALLOWED_QUANTIZATION: dict[str, Allowed] = {
    "activation_bits": BITS,
    "key_bits": BITS_PER_LAYER,
    "value_bits": BITS_PER_LAYER,
    "feature_bits": BITS,
    "weight_bits": BITS,
    "weight_norm": Numbers(1),
    "fan_in": Integers(0, 8 * CHANNELS, but=1),
    "classifier_fan_in": Integers(0, CHANNELS, but=1),
    "keys_per_sum": Integers(0, POSITIONS, but=1, per_layer=True),
    "table_bits": BITS,
    "sum_reach": Numbers(1, 2),
    "zero_points": SWITCH,
    "logit_bits": BITS,
    "rounding_noise": Numbers(0, 0.5),
}


@dataclass(frozen=True)
class QuantizationConfig:
    """Bit widths of the integer model, 2 to 8, and the noise it is trained for.

    activation_bits: residual stream and feed-forward values. key_bits: queries and keys.
    value_bits: values and inhibitions; both are one number, or one per layer. feature_bits: what
    the classifier reads. weight_bits: clear weights, signed. weight_norm: largest 2-norm of an
    output's integer weights; encrypted noise grows with it, and beyond some norm (in the nano
    network about 11) every lookup of the network gets dearer. fan_in: inputs that an output keeps,
    those of its largest weights, or 0 for all; fewer inputs reach less far, so that a table of the
    same bits has finer steps. classifier_fan_in: inputs that the classifier keeps, the same for all
    labels, or 0 for all; fewer leave more of logit_bits to each. keys_per_sum: how many keys a
    query adds before a lookup that saturates, or 0 for all; one number, or one per layer; only for
    full attention. table_bits: the widest lookup, of sums: over inputs, over keys, over a key's
    channels. sum_reach: how far a sum may reach, in lengths of its table: 1 for tables that
    hold an entry for every sum, up to 2 for such as are flat at both ends, which read right
    beyond them (`circuits.lookups.SaturatingTable`). With more than 1 all codes are symmetric
    around 0, and |q - k| and |v - Z| are read from antiperiodic tables, one bit narrower.
    zero_points: give each channel of the residual stream, the feed-forward values and the
    heads' outputs its own, for channels whose mean is far from 0; it costs nothing under
    encryption. logit_bits: signed integer logits, sums without a lookup. rounding_noise:
    standard deviation of the noise of approximate encrypted rounding, in rounding steps.
    """

    activation_bits: int = 4
    key_bits: int | Sequence[int] = 2
    value_bits: int | Sequence[int] = 2
    feature_bits: int = 3
    weight_bits: int = 4
    weight_norm: float = 11.0
    fan_in: int = 0
    classifier_fan_in: int = 0
    keys_per_sum: int | Sequence[int] = 0
    table_bits: int = 5
    sum_reach: float = 1.0
    zero_points: bool = False
    logit_bits: int = 7
    rounding_noise: float = 0.1

    def __post_init__(self) -> None:
        check(vars(self), ALLOWED_QUANTIZATION)

    @property
    def saturating(self) -> bool:
        """Whether tables are flat at both ends, so that sums may reach beyond them."""
        return self.sum_reach > 1


@dataclass(frozen=True)
class LayerConfig:
    """The shape of one layer. Head widths of keys and of values are independent.

    pooled: how many neighbouring positions of the layer before become one of this layer.
    n_positions: the most positions that it has. key_bits, value_bits, keys_per_sum: 0 in a float
    model. causal: whether a query reads no key after it; a constant query comes after all of them,
    so that its layer is not.
    """

    n_heads: int
    key_head_dim: int
    value_head_dim: int
    hidden_dim: int
    attention_window: int
    max_offset: int
    constant_query: bool
    pooled: int
    n_positions: int
    key_bits: int
    value_bits: int
    keys_per_sum: int
    causal: bool

    @property
    def max_keys(self) -> int:
        """The most keys that one query reads."""
        if not self.attention_window:
            return self.n_positions
        sides = 1 if self.causal else 2
        return min(sides * self.attention_window + 1, self.n_positions)


class InhibiDistilBertConfig(PretrainedConfig):
    """Configuration of an InhibiDistilBERT.

    Args:
        vocab_size, dim, n_layers, dropout, activation, initializer_range: as
            DistilBERT. `hidden_dim`, `n_heads`, `key_head_dim`, `value_head_dim`,
            `attention_window` and `pooling` are one number, or one number per layer.
        max_position_embeddings: 0 for a model without position embeddings.
        hidden_dim: feed-forward width; 0 leaves the feed-forward block out.
        key_head_dim, value_head_dim: None for `dim // n_heads`.
        attention_kind: "inhibitor", "inhibitor_signed" or "dot_product".
        attention_window: largest distance between query and key; 0 is full attention.
        causal: whether a position reads none that come after it. Then the classifier reads the last
            token, and circuits take padding before the tokens.
        pooling: how many neighbouring positions become one, their mean, between a layer and the
            next one; 1 is none. After the last layer there is nothing to pool: one number means
            the others, and a list ends with 1. A window counts positions of its layer.
        threshold: "constant" (the shift is `shift`, not learned), "head" (learned per head) or
            "head_offset" (learned per head and relative offset up to `max_relative_offset`).
        shift: initial threshold, alpha in Brännvall 2023.
        classifier_query: "cls" reads the first token, in a causal model the last; "constant" ends
            the network with one learned query, whose distances to the keys then are tables.
        head_activation: between the classifier's two layers, "relu" as in DistilBERT or "tanh" as
            in BERT.
        normalization: "layer_norm", or "static" (a learned affine, no statistics).
        embedding_layer_norm: whether a static model keeps the embeddings' LayerNorm, which the
            client computes.
        n_tokens: most tokens the model reads. default_tokens: how many it reads if not told
            otherwise; fewer cost less. buckets: sequence lengths that circuits are built for,
            multiples of `stride`.
        token_importance: "public" keeps the most important tokens by a public list, "none"
            the first ones, when a text is longer than `n_tokens`.
        client_boundary: "embedding", or "projection": the client looks up the first layer's
            projections too, and the server skips that stage.
        quantization: a `QuantizationConfig` as a dictionary, or None for a float model.
        fake_quantization_bits: of weights and activations in float arithmetic (see
            `fake_quantization`), or None.
        p_error: failure probability of one encrypted lookup.

    Raises InputError for values that don't fit together.
    """

    model_type = "inhibidistilbert"
    attribute_map = {  # noqa: RUF012
        "hidden_size": "dim",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
    }

    def __init__(
        self,
        vocab_size: int = 30522,
        max_position_embeddings: int = 512,
        dim: int = 768,
        n_layers: int = 6,
        n_heads: int | Sequence[int] = 12,
        hidden_dim: int | Sequence[int] = 3072,
        key_head_dim: int | Sequence[int] | None = None,
        value_head_dim: int | Sequence[int] | None = None,
        attention_kind: str = "inhibitor",
        attention_window: int | Sequence[int] = 0,
        causal: bool = False,
        pooling: int | Sequence[int] = 1,
        threshold: str = "constant",
        max_relative_offset: int = 2,
        shift: float = 0.5,
        classifier_query: str = "cls",
        head_activation: str = "relu",
        normalization: str = "layer_norm",
        embedding_layer_norm: bool = False,
        activation: str = "gelu",
        dropout: float = 0.1,
        initializer_range: float = 0.02,
        n_tokens: int = 128,
        default_tokens: int | None = None,
        buckets: Sequence[int] | None = None,
        token_importance: str = "none",
        client_boundary: str = "embedding",
        quantization: dict[str, Any] | None = None,
        fake_quantization_bits: int | None = None,
        p_error: float = 2**-20,
        pad_token_id: int = 0,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.max_position_embeddings = max_position_embeddings
        self.dim = dim
        self.n_layers = n_layers
        self.n_heads = n_heads
        self.hidden_dim = hidden_dim
        self.key_head_dim = key_head_dim
        self.value_head_dim = value_head_dim
        self.attention_kind = attention_kind
        self.attention_window = attention_window
        self.causal = causal
        self.pooling = pooling
        self.threshold = threshold
        self.max_relative_offset = max_relative_offset
        self.shift = shift
        self.classifier_query = classifier_query
        self.head_activation = head_activation
        self.normalization = normalization
        self.embedding_layer_norm = embedding_layer_norm
        self.activation = activation
        self.dropout = dropout
        self.initializer_range = initializer_range
        self.n_tokens = n_tokens
        self.default_tokens = n_tokens if default_tokens is None else default_tokens
        self.buckets: Sequence[int] = buckets or [n_tokens]
        self.token_importance = token_importance
        self.client_boundary = client_boundary
        self.quantization = quantization
        self.fake_quantization_bits = fake_quantization_bits
        self.p_error = p_error
        _check_of_transformers(kwargs)
        try:
            super().__init__(pad_token_id=pad_token_id, **kwargs)
        except (AttributeError, TypeError, ValueError, StrictDataclassError) as error:
            said = " ".join(str(error).split())
            raise InputError(f"transformers can't use the configuration: {said}") from error
        self._check()

    def layer(self, index: int) -> LayerConfig:
        """Return the shape of layer `index`, counted from 0."""
        n_heads = self._layer_value("n_heads", index)
        bits = self.quantization_config_or_none
        constant = index == self.n_layers - 1 and self.classifier_query == "constant"
        offsets = self.threshold == "head_offset" and not constant
        return LayerConfig(
            n_heads=n_heads,
            key_head_dim=self._layer_value("key_head_dim", index) or self.dim // n_heads,
            value_head_dim=self._layer_value("value_head_dim", index) or self.dim // n_heads,
            hidden_dim=self._layer_value("hidden_dim", index) or 0,
            attention_window=0 if constant else self._layer_value("attention_window", index) or 0,
            max_offset=self.max_relative_offset if offsets else 0,
            constant_query=constant,
            pooled=self._pooled(index),
            n_positions=self.n_tokens // prod(self._pooled(i) for i in range(index + 1)),
            key_bits=_layer_value(bits.key_bits, index) if bits else 0,
            value_bits=_layer_value(bits.value_bits, index) if bits else 0,
            keys_per_sum=_layer_value(bits.keys_per_sum, index) if bits else 0,
            causal=self.causal and not constant,
        )

    @property
    def stride(self) -> int:
        """How many tokens become one position of the last layer."""
        return prod(self._pooled(index) for index in range(self.n_layers))

    @property
    def quantization_config_or_none(self) -> QuantizationConfig | None:
        """The bit widths, or None for a float model."""
        if self.quantization is None:
            return None
        return _quantization(self.quantization)

    def _pooled(self, index: int) -> int:
        """Return how many positions become one before layer `index`."""
        return self._layer_value("pooling", index - 1) if index else 1

    def _layer_value(self, name: str, index: int) -> Any:
        return _layer_value(getattr(self, name), index)

    def _check(self) -> None:
        """Refuse values that no model can be built from."""
        check(vars(self), ALLOWED)
        check_lengths(vars(self), PER_LAYER, self.n_layers)
        self._check_sizes()
        self._check_activation()
        self._check_pooling()
        if self.quantization is not None:
            self.quantization = asdict(_quantization(self.quantization))
            check_lengths(self.quantization, QUANTIZATION_PER_LAYER, self.n_layers)
            if self.normalization != "static":
                raise InputError('a quantized model needs normalization="static"')
            if self.embedding_layer_norm or self.fake_quantization_bits:
                raise InputError(
                    "a quantized model's embeddings are integers: it has no LayerNorm there, and "
                    "no fake quantization"
                )
        layers = [self.layer(index) for index in range(self.n_layers)]
        if not all(layer.key_head_dim and layer.value_head_dim for layer in layers):
            raise InputError(
                f"n_heads is {self.n_heads!r} and dim {self.dim}: heads have no channel; wanted "
                "fewer of them, or key_head_dim and value_head_dim"
            )
        if any(layer.keys_per_sum and layer.attention_window for layer in layers):
            raise InputError("keys_per_sum needs full attention, attention_window 0")
        if self.causal and any(layer.keys_per_sum for layer in layers):
            raise InputError(
                "keys_per_sum counts keys from the first one, which in a causal model is "
                "padding; wanted 0"
            )

    def _check_sizes(self) -> None:
        """Refuse sizes that don't fit each other."""
        lengths = self.buckets
        allowed = Integers(1, self.n_tokens)
        if not isinstance(lengths, (list, tuple)) or not (
            all(n in allowed for n in lengths) and max(lengths) == self.n_tokens
        ):
            raise InputError(
                f"buckets are {self.buckets}, wanted lengths of 1 to n_tokens = {self.n_tokens}, "
                "n_tokens among them"
            )
        self.buckets = list(lengths)
        if self.default_tokens > self.n_tokens:
            raise InputError(
                f"default_tokens is {self.default_tokens}, wanted at most n_tokens, {self.n_tokens}"
            )
        if self.pad_token_id is not None and self.pad_token_id >= self.vocab_size:
            raise InputError(
                f"pad_token_id is {self.pad_token_id}, wanted one of the vocabulary of "
                f"{self.vocab_size} tokens"
            )

    def _check_activation(self) -> None:
        if self.activation in USUAL_ACTIVATIONS:
            return
        from transformers.activations import ACT2FN  # two seconds, as in `blocks`

        if not (isinstance(self.activation, str) and self.activation in ACT2FN):
            raise InputError(
                f"activation is {self.activation!r}, wanted one that transformers knows, such as "
                f"{', '.join(USUAL_ACTIVATIONS)}"
            )

    def _check_pooling(self) -> None:
        given = self.pooling
        values = list(given) if isinstance(given, (list, tuple)) else [given, 1]
        if values[-1] != 1 or not all(type(p) is int and p >= 1 for p in values):
            raise InputError(
                f"pooling is {self.pooling!r}, wanted an integer from 1, or one for each layer and "
                "1 for the last, after which there is nothing to pool"
            )
        stride = self.stride
        if self.causal and stride > 1:
            raise InputError(
                f"pooling is {self.pooling!r} in a causal model, whose queries would read what "
                "comes after them; wanted 1"
            )
        if any(bucket % stride for bucket in self.buckets):
            raise InputError(
                f"buckets are {self.buckets}, wanted multiples of {stride}: with pooling "
                f"{self.pooling!r} so many tokens become one position of the last layer"
            )


def _check_of_transformers(given: dict[str, Any]) -> None:
    """Refuse what transformers makes something else of: dtype, num_labels, id2label."""
    check(given, {"num_labels": ALLOWED["num_labels"]})
    if isinstance(given.get("dtype"), str):
        check(given, {"dtype": Choices(DTYPES)})
    names = given.get("id2label")
    if names is None:
        return
    if not (isinstance(names, dict) and names) or (
        {str(index) for index in names} != {str(index) for index in range(len(names))}
    ):
        raise InputError(
            f"id2label is {names!r}, wanted a dictionary with a name for each of the labels 0, 1, "
            "..."
        )


def _quantization(given: Any) -> QuantizationConfig:
    """Return the bit widths of a dictionary. Raises InputError for what holds others, or none."""
    names = [field.name for field in fields(QuantizationConfig)]
    if not isinstance(given, dict) or not set(given) <= set(names):
        raise InputError(
            f"quantization is {given!r}, wanted a dictionary of some of {', '.join(names)}"
        )
    return QuantizationConfig(**given)


def _layer_value(value: Any, index: int) -> Any:
    """Return a layer's entry of a value that is given once, or once per layer."""
    return value[index] if isinstance(value, (list, tuple)) else value
