"""Fused inhibitors: values and gradients of the definition, in little memory, on any thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from demos.attention_speed import peak_growth_bytes
from fhe_inhibitor.model import attention
from fhe_inhibitor.model import fused_attention as fused_inhibitor
from fhe_inhibitor.model.modeling import InhibiDistilBertForSequenceClassification
from tests.fhe_inhibitor.model.test_modeling import make

KINDS = ("inhibitor", "inhibitor_signed")
SHAPES = {
    "square": (2, 3, 9, 9, 5, 6),
    "one query": (2, 2, 1, 8, 4, 3),
    "one key": (1, 2, 3, 1, 1, 1),
    "whole vectors": (1, 2, 33, 64, 32, 32),
}
CAUSAL = ("square", "one query", "whole vectors")  # at most as many queries as keys


def draw(
    shape: str = "square", dtype: torch.dtype = torch.float32, round_to: float = 0
) -> dict[str, Any]:
    """Arguments of an inhibitor, leaves with gradients; some keys are masked for some queries."""
    batch, heads, n_queries, n, key_dim, value_dim = SHAPES[shape]
    torch.manual_seed(0)
    drawn: dict[str, Any] = {
        "q": torch.randn(batch, heads, n_queries, key_dim, dtype=dtype),
        "k": torch.randn(batch, heads, n, key_dim, dtype=dtype),
        "v": torch.randn(batch, heads, n, value_dim, dtype=dtype),
        "gamma": torch.rand(heads, 1, 1, dtype=dtype) / key_dim**0.5,
        "shift": torch.rand(heads, n_queries, n, dtype=dtype),
        "eta": torch.rand(heads, 1, 1, dtype=dtype),
    }
    if round_to:
        drawn = {name: (x / round_to).round() * round_to for name, x in drawn.items()}
    for x in drawn.values():
        x.requires_grad_()
    return drawn | {"mask": torch.rand(batch, 1, n_queries, n) < 0.8}


def run(function: Callable[..., Tensor], arguments: dict[str, Any]) -> list[Tensor]:
    """Return output and gradients of a weighted sum of it."""
    if function.__name__ == "inhibitor":
        arguments = {name: x for name, x in arguments.items() if name != "eta"}
    out = function(**arguments)
    leaves = [x for x in arguments.values() if isinstance(x, Tensor) and x.requires_grad]
    weight = torch.linspace(-1, 1, out.numel()).to(out.dtype).view_as(out)
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), leaves)]


@pytest.fixture(params=["kernels", "blocks"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Either way to compute: the processor's kernels, or blocks of three queries anywhere."""
    if request.param == "blocks":
        monkeypatch.setattr(fused_inhibitor, "_has_kernels", lambda q: False)
        monkeypatch.setattr(fused_inhibitor, "BLOCK_VALUES", 400)
    return request.param


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_the_definition_s(path: str, kind: str, shape: str) -> None:
    arguments = draw(shape)
    expected = run(getattr(attention, kind), arguments)
    for found, wanted in zip(run(getattr(fused_inhibitor, kind), arguments), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("shape", CAUSAL)
@pytest.mark.parametrize("kind", KINDS)
def test_causal_values_and_gradients_are_the_definition_s(path: str, kind: str, shape: str) -> None:
    arguments = draw(shape) | {"causal": True}
    expected = run(getattr(attention, kind), arguments)
    found = run(getattr(fused_inhibitor, kind), arguments)
    for ours, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, wanted, atol=2e-5, rtol=2e-5)
    if shape == "square":  # the last key is read by the last query alone, the first by all
        assert not found[1][:, :, :-1].equal(torch.zeros_like(found[1][:, :, :-1]))
        plain = run(getattr(fused_inhibitor, kind), arguments | {"causal": False})
        assert (plain[2][:, :, -1] != found[2][:, :, -1]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_later_contributes_exactly_nothing(path: str, kind: str) -> None:
    arguments = draw() | {"causal": True}
    plain = run(getattr(fused_inhibitor, kind), arguments)[0]
    with torch.no_grad():
        arguments["k"][:, :, 5:], arguments["v"][:, :, 5:] = 1e4, -1e4
    changed = run(getattr(fused_inhibitor, kind), arguments)[0]
    assert torch.equal(plain[:, :, :5], changed[:, :, :5])
    assert not torch.equal(plain[:, :, 5:], changed[:, :, 5:])


@pytest.mark.parametrize("kind", KINDS)
def test_subgradients_are_the_definition_s(path: str, kind: str) -> None:
    """On a coarse grid many q equal k, many v equal Z, and many Z are 0 to the last bit."""
    arguments = draw(round_to=0.5)
    with torch.no_grad():
        arguments["q"], arguments["k"] = (arguments[x][..., :4].clone() for x in "qk")
        arguments["gamma"].fill_(1.0)  # gamma / sqrt(4) is exact
    arguments["q"].requires_grad_(), arguments["k"].requires_grad_()
    expected = run(getattr(attention, kind), arguments)
    for found, wanted in zip(run(getattr(fused_inhibitor, kind), arguments), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind: str, causal: bool) -> None:
    arguments = draw(dtype=torch.float64)
    names = [name for name in arguments if name != "mask" and (name != "eta" or "signed" in kind)]

    def function(*tensors: Tensor) -> Tensor:
        given = dict(zip(names, tensors, strict=True))
        return getattr(fused_inhibitor, kind)(**given, mask=arguments["mask"], causal=causal)

    assert torch.autograd.gradcheck(function, [arguments[name] for name in names])


@pytest.mark.parametrize("kind", KINDS)
def test_masked_keys_contribute_exactly_nothing(path: str, kind: str) -> None:
    arguments = draw()
    arguments["mask"] = torch.ones(1, 1, 1, 9, dtype=torch.bool)
    arguments["mask"][..., 5:] = False
    plain = run(getattr(fused_inhibitor, kind), arguments)
    with torch.no_grad():
        arguments["k"][:, :, 5:], arguments["v"][:, :, 5:] = 1e4, -1e4
    changed = run(getattr(fused_inhibitor, kind), arguments)
    assert all(torch.equal(a, b) for a, b in zip(plain, changed, strict=True))
    assert not changed[2][:, :, 5:].any() and not changed[3][:, :, 5:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_threads_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_inhibitor, "SHARED_WORK", 0)
    arguments, results = draw(), []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            results.append(run(getattr(fused_inhibitor, kind), arguments))
    finally:
        torch.set_num_threads(threads)
    for others in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], others, strict=True))


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_flush_denormals_where_the_caller_does(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused_inhibitor, "SHARED_WORK", 0)
    arguments = {name: x.detach() for name, x in draw().items()}
    arguments["v"] = torch.full_like(arguments["v"], 1e-39)
    arguments |= {"q": arguments["k"], "shift": 9.0}
    del arguments["eta"]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert fused_inhibitor.inhibitor(**arguments).any()
        torch.set_flush_denormal(True)
        assert not fused_inhibitor.inhibitor(**arguments).any()
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)


def test_half_precision_is_computed_in_float32(path: str) -> None:
    arguments = draw()
    halves = {n: x.detach().bfloat16() if n in "qkv" else x for n, x in arguments.items()}
    rounded = {n: x.float() if n in "qkv" else x for n, x in halves.items()}
    for kind in KINDS:
        given = [{n: x for n, x in a.items() if n != "eta"} for a in (halves, rounded)]
        if kind == "inhibitor_signed":
            given = [halves, rounded]
        found, wanted = (getattr(fused_inhibitor, kind)(**a) for a in given)
        assert found.dtype == torch.float32 and torch.equal(found, wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_half_precision_keeps_it(path: str, kind: str, dtype: torch.dtype) -> None:
    exact = make(attention_kind=kind, threshold="head")
    ids = torch.arange(1, 25).view(2, 12)
    wanted = exact(ids).logits
    found = exact.to(dtype)(ids).logits
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), wanted, atol=0.2, rtol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_torch_compile_traces_half_precision_as_one_graph(kind: str) -> None:
    """It can't trace the kernels, so it takes the blocks."""
    names = "qkv" if kind == "inhibitor" else ("q", "k", "v", "eta")
    drawn = draw()
    halves = {name: drawn[name].detach().bfloat16() for name in (*names, "gamma", "shift")}
    function = getattr(fused_inhibitor, kind)
    compiled = torch.compile(function, backend="eager", fullgraph=True)
    found, wanted = (f(**halves, mask=drawn["mask"]) for f in (compiled, function))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, wanted, atol=1e-2, rtol=1e-2)


def gradient_norms(model: InhibiDistilBertForSequenceClassification, autocast: bool) -> Tensor:
    ids = torch.arange(1, 25).view(2, 12)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = model(ids, labels=torch.tensor([0, 1])).loss
    model.zero_grad()
    loss.backward()
    gradients = [x.grad for x in model.parameters()]
    return torch.stack([g.float().norm() for g in gradients if g is not None])


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_trains_under_autocast(kind: str) -> None:
    model = make(attention_kind=kind, threshold="head_offset", shift=0.1)
    exact, rounded = gradient_norms(model, False), gradient_norms(model, True)
    assert exact.count_nonzero() == rounded.count_nonzero() == len(exact)
    assert ((exact - rounded).norm() / exact.norm()) < 0.1


class LargestTensor(TorchDispatchMode):
    """Notes the most values of any tensor that torch makes."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, Tensor):
                self.numel = max(self.numel, x.numel())
        return out


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_bound_every_tensor(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_inhibitor, "_has_kernels", lambda q: False)
    monkeypatch.setattr(fused_inhibitor, "BLOCK_VALUES", 1 << 15)
    with LargestTensor() as largest:
        run(getattr(fused_inhibitor, kind), draw("whole vectors"))
    assert 0 < largest.numel <= 1 << 15 < 2 * 33 * 64 * 32


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_need_no_memory_for_pairs_times_channels(kind: str) -> None:
    """Values of all pairs and channels would be 1 GB, of all pairs 17 MB."""
    assert peak_growth_bytes(kind, n=1024, batch=1, heads=4, head_dim=64) < 1.6e7
