"""What an interrupted training goes on from: weights, their average, and the optimizer's state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from fhe_inhibitor.system.tensors import read_tensors, write_tensors


def save_state(
    path: Path, run: str, model: nn.Module, average: AveragedModel, optimizer: Any
) -> None:
    """Write everything that the next step needs; the optimizer's state tells which that is.

    run: what the training was started with; `load_state` wants the same.
    """
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
    tensors = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    write_tensors(path, tensors, run)


def load_state(
    path: Path, run: str, model: nn.Module, average: AveragedModel, optimizer: Any
) -> int:
    """Restore what `save_state` wrote and return the step to go on with.

    Raises InputError for a damaged file, and for one of another run.
    """
    tensors = read_tensors(path, run)
    model.load_state_dict(_under(tensors, "model."))
    average.load_state_dict(_under(tensors, "average."))
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under(tensors, "optimizer.").items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return int(max(entry["step"] for entry in state.values()))


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
