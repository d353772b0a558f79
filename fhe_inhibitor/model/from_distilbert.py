"""A teacher's weights in an InhibiDistilBERT: what every student of full depth starts from.

The teacher is a DistilBERT, a BERT, or an InhibiDistilBERT with dot products. Of a BERT the
embedding of token type 0 is added to those of positions, since students read no types, and its
pooler is the first layer of the classifier, with a tanh after it in place of DistilBERT's ReLU.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import BertConfig, DistilBertConfig, PreTrainedModel

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.model.configuration import InhibiDistilBertConfig
from fhe_inhibitor.model.modeling import InhibiDistilBertForSequenceClassification
from fhe_inhibitor.text.batches import MAX_TOKENS

NEW_WEIGHTS = {"gamma", "shift", "eta"}  # which DistilBERT doesn't have
SHARED = (
    "vocab_size", "max_position_embeddings", "n_layers", "n_heads", "dim", "hidden_dim",
    "activation", "dropout",
)  # fmt: skip
OF_OUR_OWN = ("key_head_dim", "value_head_dim", "head_activation")  # also of InhibiDistilBERTs
# DistilBERT's names, per layer, for BERT's.
LAYER_NAMES = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}


def from_distilbert(
    model: PreTrainedModel, attention_kind: str = "dot_product", n_tokens: int = MAX_TOKENS
) -> InhibiDistilBertForSequenceClassification:
    """Return a float InhibiDistilBERT with a teacher's weights.

    model: a DistilBERT, a BERT (see `from_bert`), or an InhibiDistilBERT with dot products. With
    "dot_product" the result computes what the teacher does, with the teacher's gamma and shift if
    it has them. With an inhibitor, gamma and eta are 1 and delta is the configuration's shift, of
    whatever teacher; the attention is wrong until it is derived or trained. n_tokens: the most
    tokens it reads, fewer if the teacher has fewer positions. Raises InputError for any other
    model, and for an InhibiDistilBERT of which a student would not take over all (`_unlike`).
    """
    given: Any = model.config
    if isinstance(given, BertConfig):
        return from_bert(model, attention_kind, n_tokens)
    own = isinstance(given, InhibiDistilBertConfig)
    unlike = _unlike(given) if own else ""
    if unlike or not (own or isinstance(given, DistilBertConfig)):
        raise InputError(
            f"the model is a {given.model_type!r}{unlike}; a student's weights come from a "
            "'distilbert', a 'bert', or an 'inhibidistilbert' with dot products, LayerNorm, no "
            "shift by offset, and full attention that is neither causal nor pooled"
        )
    shape = {name: getattr(given, name) for name in SHARED} | {"threshold": "head"}
    if own:
        shape |= {name: getattr(given, name) for name in OF_OUR_OWN}
    return _student(shape, given, attention_kind, n_tokens, model.state_dict())


def _unlike(given: InhibiDistilBertConfig) -> str:
    """Return what sets an InhibiDistilBERT apart from a DistilBERT, in words.

    Static norms have LayerNorm's names, and the rest has no weights: they would be lost in silence.
    """
    layers = [given.layer(index) for index in range(given.n_layers)]
    unlike = {
        "attention_kind": given.attention_kind != "dot_product",
        "threshold": given.threshold == "head_offset",
        "normalization": given.normalization != "layer_norm",
        "causal": given.causal,
        "pooling": given.stride > 1,
        "attention_window": any(layer.attention_window for layer in layers),
    }
    found = [f"{name} {getattr(given, name)!r}" for name, is_unlike in unlike.items() if is_unlike]
    return f" with {', '.join(found)}" if found else ""


def from_bert(
    bert: PreTrainedModel,
    attention_kind: str = "dot_product",
    n_tokens: int = MAX_TOKENS,
    threshold: str = "head",
) -> InhibiDistilBertForSequenceClassification:
    """Return a float InhibiDistilBERT with a BERT classifier's weights; as `from_distilbert`.

    With "dot_product" it has the BERT's logits, for texts of token type 0; with threshold
    "constant" it also has no parameter that the BERT doesn't have. Raises InputError for a BERT
    that isn't a classifier, or whose layers DistilBERT can't express.
    """
    given = bert.config
    check_bert(given)
    state = bert.state_dict()
    encoder = {k.removeprefix("bert."): v for k, v in state.items() if k.startswith("bert.")}
    if "pooler.dense.weight" not in encoder or "classifier.weight" not in state:
        raise InputError("the BERT has no pooler or no classifier; wanted one of whole texts")
    weights = {f"distilbert.{name}": tensor for name, tensor in rename_bert(encoder).items()}
    for kind in ("weight", "bias"):
        weights[f"pre_classifier.{kind}"] = encoder[f"pooler.dense.{kind}"]
        weights[f"classifier.{kind}"] = state[f"classifier.{kind}"]
    shape = {
        "vocab_size": given.vocab_size,
        "max_position_embeddings": given.max_position_embeddings,
        "dim": given.hidden_size,
        "n_layers": given.num_hidden_layers,
        "n_heads": given.num_attention_heads,
        "hidden_dim": given.intermediate_size,
        "activation": given.hidden_act,
        "dropout": given.hidden_dropout_prob,
        "head_activation": "tanh",
        "threshold": threshold,
    }
    return _student(shape, given, attention_kind, n_tokens, weights)


def check_bert(config: Any) -> None:
    """Raise InputError for a BERT whose layers DistilBERT can't express."""
    if config.model_type != "bert" or config.layer_norm_eps != 1e-12:
        raise InputError(
            f"cannot convert a {config.model_type!r} with layer_norm_eps "
            f"{getattr(config, 'layer_norm_eps', None)}; wanted a 'bert' with 1e-12"
        )


def _student(
    shape: dict[str, Any],
    given: Any,
    attention_kind: str,
    n_tokens: int,
    weights: dict[str, Tensor],
) -> InhibiDistilBertForSequenceClassification:
    """Return the student of these sizes and weights; given: the teacher's configuration."""
    student = InhibiDistilBertForSequenceClassification(
        InhibiDistilBertConfig(
            **shape,
            attention_kind=attention_kind,
            n_tokens=min(n_tokens, shape["max_position_embeddings"]),
            pad_token_id=given.pad_token_id,
            id2label=given.id2label,
            label2id=given.label2id,
        )
    )
    if attention_kind != "dot_product":
        weights = _without_thresholds(weights)
    missing, unexpected = student.load_state_dict(weights, strict=False)
    if unexpected or any(name.rsplit(".")[-1] not in NEW_WEIGHTS for name in missing):
        raise InputError(f"the teacher's weights don't fit: {[*unexpected, *missing][:4]}")
    return student.eval()


def _without_thresholds(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A dot-product model's weights, its gamma multiplied into the queries, its shift left out.

    softmax(gamma q k^T + shift) = softmax((gamma q) k^T): it doesn't notice a shift of all keys.
    """
    kept = {k: tensor for k, tensor in weights.items() if k.rsplit(".")[-1] not in NEW_WEIGHTS}
    for name in [name for name in kept if ".attention.q_lin." in name]:
        gamma = weights.get(name.split("q_lin.")[0] + "gamma")
        if gamma is not None:
            heads = kept[name].unflatten(0, (len(gamma), -1))  # [H, d] or [H, d, dim]
            kept[name] = (gamma.view(-1, *[1] * (heads.dim() - 1)) * heads).flatten(0, 1)
    return kept


def rename_bert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """DistilBertModel's state for a BertModel's."""
    renamed = {
        "embeddings.word_embeddings.weight": state["embeddings.word_embeddings.weight"],
        "embeddings.position_embeddings.weight": state["embeddings.position_embeddings.weight"]
        + state["embeddings.token_type_embeddings.weight"][0],
        "embeddings.LayerNorm.weight": state["embeddings.LayerNorm.weight"],
        "embeddings.LayerNorm.bias": state["embeddings.LayerNorm.bias"],
    }
    for name, tensor in state.items():
        if not name.startswith("encoder.layer."):
            continue
        layer, module = name.removeprefix("encoder.layer.").split(".", 1)
        module, kind = module.rsplit(".", 1)
        renamed[f"transformer.layer.{layer}.{LAYER_NAMES[module]}.{kind}"] = tensor
    return renamed
