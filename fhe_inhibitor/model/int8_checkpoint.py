"""A fake-quantized student as a file of int8: the codes of its weights, and their step sizes.

Every weight of a Linear and every row of an embedding is a code of at most 8 bits times a step
size, so a quarter of the float file holds the same student. The rest (step sizes, norms, biases,
thresholds) stays float32. Loaded, it computes what it computed, and it can go on learning.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.model.configuration import InhibiDistilBertConfig
from fhe_inhibitor.model.modeling import InhibiDistilBertForSequenceClassification
from fhe_inhibitor.system.tensors import read_tensors, write_tensors

INT8_FILE = "model.int8.safetensors"


@torch.no_grad()
def save_int8(model: Any, folder: Path) -> None:
    """Write a fake-quantized model's `config.json` and `model.int8.safetensors`.

    Raises InputError for a model that isn't fake-quantized.
    """
    high = _largest_code(model.config)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    for key, grid in _coded_weights(model):
        if grid is not None:
            size = grid.size
        else:  # each row was rounded with its largest value at the end of the codes
            size = state[key].abs().amax(dim=1, keepdim=True) / high
            size = state[_size_of(key)] = size.clamp(min=torch.finfo(torch.float32).tiny)
        state[key] = (state[key] / size).round().clamp(-high, high).to(torch.int8)
    model.config.save_pretrained(folder)
    write_tensors(folder / INT8_FILE, state)


@torch.no_grad()
def load_int8(folder: Path) -> InhibiDistilBertForSequenceClassification:
    """Load what `save_int8` wrote; `loading` does it for any kind of checkpoint.

    Raises OSError, KeyError, RuntimeError or SafetensorError for files that are missing, damaged
    or don't fit together, InputError for a configuration of a float student.
    """
    config = InhibiDistilBertConfig.from_pretrained(folder, local_files_only=True)
    _largest_code(config)
    model = InhibiDistilBertForSequenceClassification(config)
    try:
        state = read_tensors(folder / INT8_FILE, may_lack_digest=True)  # as the shipped one does
    except InputError as error:
        raise OSError(str(error)) from error
    weights = list(_coded_weights(model))
    folded = {key: state.pop(_size_of(key)) for key, grid in weights if grid is None}
    model.load_state_dict(state)
    for key, grid in weights:
        model.get_parameter(key).mul_(folded[key] if grid is None else grid.size)
    return model.eval()


def _coded_weights(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Each weight that is codes, by its key, and its grid; None for an embedding's: folded."""
    for prefix, module in model.named_modules():
        if isinstance(module, nn.Linear):
            parametrized: Any = module.parametrizations["weight"]
            yield f"{prefix}.parametrizations.weight.original", parametrized[0]
        elif isinstance(module, nn.Embedding):
            yield f"{prefix}.weight", None


def _size_of(key: str) -> str:
    """The key of the step sizes of an embedding's rows."""
    return f"{key.removesuffix('.weight')}.size"


def _largest_code(config: InhibiDistilBertConfig) -> int:
    if not config.fake_quantization_bits:
        raise InputError("only a fake-quantized student has int8 weights; make it with bits: 8")
    return (1 << (config.fake_quantization_bits - 1)) - 1
