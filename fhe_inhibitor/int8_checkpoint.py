"""A fake-quantized student as a file of int8: the codes of its weights, and their step sizes.

Every weight of a Linear and every row of an embedding is a code of at most 8 bits times a step
size, so a quarter of the float file holds the same student. The rest (step sizes, norms, biases,
thresholds) stays float32. Loaded, it computes what it computed, and it can go on learning.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fhe_inhibitor.configuration import InhibiDistilBertConfig
from fhe_inhibitor.errors import InputError, first_line
from fhe_inhibitor.modeling import InhibiDistilBertForSequenceClassification

INT8_FILE = "model.int8.safetensors"
SIZE = "size"  # of an embedding's rows; a Linear's are in its grid


@torch.no_grad()
def save_int8(model: Any, folder: Path) -> None:
    """Write a fake-quantized model's `config.json` and `model.int8.safetensors`.

    Raises InputError for a model that isn't fake-quantized.
    """
    high = _largest_code(model.config)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    for prefix, module in model.named_modules():
        if isinstance(module, nn.Linear):
            parametrized: Any = module.parametrizations["weight"]
            key, size = f"{prefix}.parametrizations.weight.original", parametrized[0].size
        elif isinstance(module, nn.Embedding):
            # Each row was rounded with its largest value at the end of the codes.
            key, size = f"{prefix}.weight", module.weight.abs().amax(dim=1, keepdim=True) / high
            size = size.clamp(min=torch.finfo(torch.float32).tiny)
            state[f"{prefix}.{SIZE}"] = size
        else:
            continue
        state[key] = (state[key] / size).round().clamp(-high, high).to(torch.int8)
    model.config.save_pretrained(folder)
    save_file(state, folder / INT8_FILE)


@torch.no_grad()
def load_int8(folder: Path) -> InhibiDistilBertForSequenceClassification:
    """Load what `save_int8` wrote. Raises InputError for files that don't fit."""
    try:
        config = InhibiDistilBertConfig.from_pretrained(folder, local_files_only=True)
        model = InhibiDistilBertForSequenceClassification(config)
        _largest_code(config)
        state: dict[str, Tensor] = load_file(folder / INT8_FILE)
        sizes = {
            f"{name}.weight": state.pop(f"{name}.{SIZE}")
            for name, module in model.named_modules()
            if isinstance(module, nn.Embedding)
        }
        codes = {key: state.pop(key) for key in list(state) if state[key].dtype == torch.int8}
        model.load_state_dict({**state, **{key: code.float() for key, code in codes.items()}})
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"no int8 student could be loaded from {folder} ({first_line(error)}); pass a folder "
            f"with config.json and {INT8_FILE} as `fhe-inhibitor distill` writes them"
        ) from None
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            parametrized: Any = module.parametrizations["weight"]
            parametrized.original.mul_(parametrized[0].size)
        elif isinstance(module, nn.Embedding):
            module.weight.mul_(sizes[f"{name}.weight"])
    return model.eval()


def _largest_code(config: InhibiDistilBertConfig) -> int:
    if not config.fake_quantization_bits:
        raise InputError("only a fake-quantized student has int8 weights; make it with bits: 8")
    return (1 << (config.fake_quantization_bits - 1)) - 1
