"""The integer network of a configuration whose model isn't trained yet, with random weights.

What it computes is worthless. What it would cost under encryption is what the trained model will
cost: widths and counts of lookups follow from the configuration, and quantization stretches random
weights to the same bounds as trained ones.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from circuits.network import Network
from fhe_inhibitor.errors import InputError, first_line
from fhe_inhibitor.integer.model import CONFIG_FILE
from fhe_inhibitor.model.blocks import Embeddings, Transformer, features_step, initialise
from fhe_inhibitor.model.configuration import InhibiDistilBertConfig
from fhe_inhibitor.model.quantized.network import QuantizedNetwork
from fhe_inhibitor.system.files import read_json


class _Student(nn.Module):
    """What `QuantizedNetwork` reads of a model; the real class takes seconds to import."""

    def __init__(self, config: InhibiDistilBertConfig) -> None:
        super().__init__()
        self.config, self.noisy = config, False
        self.embeddings, self.transformer = Embeddings(config), Transformer(config)
        self.distilbert = SimpleNamespace(embeddings=self.embeddings, transformer=self.transformer)
        self.pre_classifier = nn.Linear(config.dim, config.dim)
        self.classifier = nn.Linear(config.dim, config.num_labels)
        self.features_step = features_step(config)
        self.apply(partial(initialise, config=config))


def read_config(path: str | Path) -> InhibiDistilBertConfig:
    """Return the configuration in a file, or in the config.json of a folder.

    Raises InputError for a file that can't be read, is of another kind of model, has values that
    don't fit together, or no quantization.
    """
    path = Path(path)
    if path.is_dir():
        path = path / CONFIG_FILE
    content = read_json(path)
    kind = content.get("model_type") if isinstance(content, dict) else None
    if kind != InhibiDistilBertConfig.model_type:
        raise InputError(
            f"{path} has the model_type {kind!r}; wanted {InhibiDistilBertConfig.model_type!r}, "
            "the config.json of an InhibiDistilBERT"
        )
    try:
        config = InhibiDistilBertConfig(**content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} is no configuration: {first_line(error)}") from error
    if config.quantization is None:
        raise InputError(f'{path} has no quantization: add one, such as {{"table_bits": 5}}')
    return config


def untrained_network(config: InhibiDistilBertConfig, seed: int = 0) -> Network:
    """Return the network of a model of this configuration, fresh from its initialisation.

    Layers of one shape share their weights: one of each is made.
    """
    first_of: dict[Any, int] = {}
    last = config.n_layers - 1
    chosen = [first_of.setdefault((config.layer(i), i == last), i) for i in range(config.n_layers)]
    made = sorted(set(chosen))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        student = _Student(_only_layers(config, made)).eval()
    network, _ = QuantizedNetwork(student).to_circuit()
    layers = tuple(network.layers[made.index(index)] for index in chosen)
    return replace(network, layers=layers, client_boundary=config.client_boundary)


def _only_layers(config: InhibiDistilBertConfig, indices: list[int]) -> InhibiDistilBertConfig:
    """Return the configuration of a model of these layers alone, with a vocabulary of one word."""

    def only(values: dict[str, Any]) -> dict[str, Any]:
        """Return what is given once per layer for these layers."""
        return {
            name: [value[index] for index in indices]
            if isinstance(value, (list, tuple)) and len(value) == config.n_layers
            else value
            for name, value in values.items()
        }

    assert config.quantization is not None
    changed = {
        "n_layers": len(indices),
        # A layer that pools is always the first of its kind.
        "pooling": [*(config.layer(index).pooled for index in indices[1:]), 1],
        "buckets": config.buckets,
        "vocab_size": 1,
        "pad_token_id": 0,
        "initializer_range": 1.0,  # large: each table then uses all of its output's range
        "quantization": only(config.quantization),
    }
    return InhibiDistilBertConfig(**only(config.to_dict()) | changed)
