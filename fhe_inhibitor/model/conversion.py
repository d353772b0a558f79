"""From a trained, quantized InhibiDistilBERT to the folder that a client and a server load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer import format as integer_format
from fhe_inhibitor.integer.model import INTEGER_FILE, TOKENIZER_DIGEST, IntegerModel
from fhe_inhibitor.model.modeling import InhibiDistilBertForSequenceClassification
from fhe_inhibitor.model.quantized.network import QuantizedNetwork
from fhe_inhibitor.runtime.manifest import TOKENIZER_FILE
from fhe_inhibitor.system.files import file_sha256


def save_checkpoint(
    model: InhibiDistilBertForSequenceClassification,
    tokenizer: Tokenizer,
    importance: np.ndarray | None,
    folder: str | Path,
) -> IntegerModel:
    """Write weights, integers, tokenizer and config to `folder`; return the integer model.

    importance: float `[vocab]`, or None if the model reads the first tokens of a text. The word
    embedding, most of a small model, is rounded to half precision, in `model` too. The config has
    the tokenizer's SHA-256. Raises InputError for a model without a quantization configuration.
    """
    bits = model.config.quantization_config_or_none
    if bits is None:
        raise InputError("only a quantized model has integers: set config.quantization and train")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    first = config.classifier_query == "cls" and not config.causal
    if first:
        special["cls_token"] = "[CLS]"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    tokenizer.save(str(folder / TOKENIZER_FILE), pretty=False)  # the same, a third smaller
    config.update({TOKENIZER_DIGEST: file_sha256(folder / TOKENIZER_FILE)})
    _save_weights(model, folder)
    network, logit_scale = QuantizedNetwork(model.eval()).to_circuit()
    network = replace(network, client_boundary=config.client_boundary)
    embedding, positions = _embedding_integers(model)
    integer_format.write(
        folder / INTEGER_FILE,
        {
            "labels": [config.id2label[i] for i in range(config.num_labels)],
            "network": network,
            "embedding": embedding,
            "positions": positions,
            "importance": np.zeros(len(embedding), np.float32)
            if importance is None or config.token_importance == "none"
            else importance.astype(np.float32),
            "cls_token_id": tokenizer.token_to_id("[CLS]") if first else None,
            "logit_scale": logit_scale,
            "buckets": sorted(config.buckets),
            "default_tokens": config.default_tokens,
            "noise_std": bits.rounding_noise,
            "p_error": config.p_error,
        },
    )
    return IntegerModel.load(folder)


@torch.no_grad()
def _save_weights(model: InhibiDistilBertForSequenceClassification, folder: Path) -> None:
    """Save the weights, the embedding in half precision; the model gets what the file holds."""
    embedding = model.get_input_embeddings().weight
    embedding.copy_(embedding.half())
    state = {
        name: weight.half() if weight.data_ptr() == embedding.data_ptr() else weight
        for name, weight in model.state_dict().items()
    }
    model.save_pretrained(folder, state_dict=state)


@torch.no_grad()
def _embedding_integers(
    model: InhibiDistilBertForSequenceClassification,
) -> tuple[np.ndarray, np.ndarray]:
    """Return word and position embeddings in input steps, clamped to a byte."""
    embeddings = model.distilbert.embeddings
    tables = [embeddings.word_embeddings.weight]
    if embeddings.position_embeddings is not None:
        tables.append(embeddings.position_embeddings.weight[: model.config.n_tokens])
    rounded = [(table / embeddings.step.size + 0.5).floor() for table in tables]
    integers = [x.clamp(-128, 127).to(torch.int8).numpy() for x in rounded]
    empty = np.zeros((0, model.config.dim), np.int8)
    return integers[0], integers[1] if len(integers) > 1 else empty
