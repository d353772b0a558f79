"""A model folder as it ships, but tiny and random: what the command line's tests load."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece

from fhe_inhibitor.integer import format as integer_format
from fhe_inhibitor.integer.model import CONFIG_FILE, INTEGER_FILE
from fhe_inhibitor.runtime.manifest import TOKENIZER_FILE
from tests.networks import NetworkShape, random_network

WORDS = "a the film is good bad great dull n't , . very and but it 's"
SHAPE = NetworkShape(dim=4, n_heads=1, key_dim=1, value_dim=2, last_key_dim=2, max_tokens=4)
# Keys of a quarter of the size, and lookups of one width: for what makes keys more than once.
SMALL_SHAPE = replace(SHAPE, n_layers=1, lookup_bits=3, max_tokens=2)


def write_tiny_model(
    folder: Path, seed: int = 0, buckets: tuple[int, ...] = (2, 4), shape: NetworkShape = SHAPE
) -> Path:
    """Write a random model that reads up to `buckets[-1]` of `WORDS`; return its folder."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    entries = ["[PAD]", "[UNK]", *WORDS.split()]
    tokenizer = Tokenizer(WordPiece({w: i for i, w in enumerate(entries)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / TOKENIZER_FILE))
    network = random_network(rng, shape)
    low, high = network.input_range
    parameters = {
        "labels": ["negative", "positive"],
        "network": network,
        "embedding": rng.integers(low, high + 1, (len(entries), network.dim)),
        "positions": np.zeros((0, network.dim), np.int8),
        "importance": rng.random(len(entries)).astype(np.float32),
        "cls_token_id": None,
        "logit_scale": 0.01,
        "buckets": list(buckets),
        "default_tokens": buckets[-1],
        "noise_std": 0.04,
        "p_error": 2.0**-20,
    }
    integer_format.write(folder / INTEGER_FILE, parameters)
    config = {
        "vocab_size": len(entries),
        "dim": network.dim,
        "n_layers": len(network.layers),
        "n_tokens": buckets[-1],
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config))
    return folder
