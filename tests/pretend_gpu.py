"""A GPU for tests on a machine without one: tensors that say so, and that meet no others.

They compute on the processor, so results are those of the processor, bit by bit. What a real GPU
refuses raises here: an operation on tensors of both, and `numpy`. C++ that takes tensors apart by
itself is not looked into, so this finds a batch that was left behind, not a fault of CUDA.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from fhe_inhibitor.model import fused_attention

GPU = torch.device("cuda")
BETWEEN = (Tensor.copy_, Tensor.__getitem__)  # tensors of both may meet here


class OnGpu(Tensor):
    """A tensor that passes for one on a GPU, as all that is computed from it does."""

    @property
    def device(self) -> torch.device:
        return GPU

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copy = self.detach().clone()
        if isinstance(self, nn.Parameter):
            copy = nn.Parameter(copy, self.requires_grad)
        memo[id(self)] = copy
        return copy

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.cpu or (func is Tensor.to and _names(args, kwargs, "cpu")):
            return args[0].as_subclass(Tensor)
        if func is Tensor.numpy:
            raise TypeError("can't convert a tensor on a GPU to numpy")
        with torch._C.DisableTorchFunctionSubclass():
            tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.dim()]
        here = [isinstance(x, OnGpu) for x in tensors]
        if func is torch._has_compatible_shallow_copy_type and any(here):
            return False  # so that a module that moves gets new parameters, whose type says where
        if func not in BETWEEN and any(here) and not all(here):
            raise RuntimeError(f"{func} got tensors of a GPU and of the processor")
        found = super().__torch_function__(func, types, args, kwargs)
        if func == Tensor.grad.__get__ and found is not None:
            return found.as_subclass(OnGpu)
        return found


class _Moves(TorchFunctionMode):
    """Makes what is asked for on the GPU, or moved to it, an `OnGpu`."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.to and _names(args, kwargs, "cuda"):
            dtypes = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.dtype)]
            return args[0].to(*dtypes).clone().as_subclass(OnGpu)
        if func is not Tensor.to and torch.device(kwargs.get("device") or "cpu") == GPU:
            return func(*args, **{**kwargs, "device": "cpu"}).as_subclass(OnGpu)
        return func(*args, **kwargs)


@contextmanager
def pretended_gpu(monkeypatch: pytest.MonkeyPatch, *modules: Any) -> Iterator[None]:
    """Have these modules, which import them by name, find a GPU, and multiply in float32.

    Nothing is computed again for its gradients: tensors that autograd kept don't say where they
    are.
    """
    monkeypatch.setattr(fused_attention, "checkpoint", lambda run, *given, **_: run(*given))
    for module in modules:
        if hasattr(module, "fastest_device"):
            monkeypatch.setattr(module, "fastest_device", lambda: GPU)
        if hasattr(module, "autocast"):
            monkeypatch.setattr(module, "autocast", lambda *_, **__: nullcontext())
    with _Moves():
        yield


def _names(args: tuple[Any, ...], kwargs: dict[str, Any], device_type: str) -> bool:
    """Whether the arguments of `Tensor.to` name such a device."""
    values = [x for x in (*args[1:], *kwargs.values()) if isinstance(x, torch.device | str)]
    return any(torch.device(x).type == device_type for x in values)
