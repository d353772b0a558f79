"""Fake quantization of a trained student: float arithmetic on values of 8, 6 or 4 bits.

What arXiv 2503.15983 leaves open is how a distilled inhibitor stands few bits. One width n for

    weights       of every Linear: symmetric, a step size for each output channel; tables of
                  embeddings: a step size for each row, folded, for they don't learn
    activations   affine, a step size for each tensor: what every Linear reads (so what the
                  attention's heads give, too), and q, k, v; one grid for q and k where their
                  distance counts

all of them x -> size (clamp(round(x / size) + zero, low, high) - zero) with at most 2^n values.
Float are: LayerNorm, softmax or the inhibitor's own arithmetic, GELU, sums with the residual, and
the logits. The integers that circuits compute with are another thing: `model/quantized`.

After training, ranges come from a few texts, by least squared error. In training, rounding lets
gradients through, clamping doesn't, and sizes learn as in LSQ (Esser et al., arXiv 1902.08153,
eq. 3), in the logarithm, at RATE times the learning rate of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.model.quantized.least_error import least_error
from fhe_inhibitor.model.quantized.operations import round_ste

RATE = 20.0
SHRINKS = torch.logspace(math.log10(0.05), 0, 20)  # parts of the whole range to keep
MAX_OF_TEXT, MAX_SAMPLES = 1 << 12, 1 << 15  # values of an activation to fit on


def on_grid(x: Tensor, size: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
    """Return x rounded to multiples of size, of codes low ... high that mean code - zero.

    >>> size, zero = torch.tensor(0.5), torch.tensor(1.0)
    >>> on_grid(torch.tensor([-9.0, 0.3, 0.7, 9.0]), size, zero, 0, 3).tolist()
    [-0.5, 0.5, 0.5, 1.0]
    """
    return ((round_ste(x / size) + zero).clamp(low, high) - zero) * size


class Grid(nn.Module):
    """The values that one tensor may have: all of it, or each of its rows its own.

    size: `[1]` or `[rows, 1]`, fitted times exp(RATE change); only `change` learns.
    """

    fitted: Tensor
    zero: Tensor

    def __init__(self, low: int, high: int, *shape: int) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.register_buffer("fitted", torch.ones(shape))
        self.register_buffer("zero", torch.zeros(1))
        self.change = nn.Parameter(torch.zeros(shape))
        self.sample: list[Tensor] | None = None

    @classmethod
    def of_rows(cls, n_bits: int, rows: int) -> Grid:
        """Codes -(2^(n-1) - 1) ... 2^(n-1) - 1 for the rows of a weight."""
        high = (1 << (n_bits - 1)) - 1
        return cls(-high, high, rows, 1)

    @classmethod
    def of_tensor(cls, n_bits: int) -> Grid:
        """Codes 0 ... 2^n - 1 for an activation."""
        return cls(0, (1 << n_bits) - 1, 1)

    @property
    def size(self) -> Tensor:
        return self.fitted * (RATE * self.change).exp()

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` on the grid, float32; while a sample is drawn, `x` itself."""
        if self.sample is not None:
            self.sample.append(_some(x.detach().flatten(), MAX_OF_TEXT))
            return x
        size = self.size
        fixed = size.detach()
        # LSQ's gradient scale, or sums over thousands of values would rule the gradient's norm.
        scale = 1 / (RATE * math.sqrt(x.numel() / size.numel() * self.high))
        return on_grid(x.float(), fixed + scale * (size - fixed), self.zero, self.low, self.high)

    @torch.no_grad()
    def fit_rows(self, rows: Tensor) -> None:
        """Choose each row's size that rounds it with least squared error."""
        whole = rows.abs().amax(dim=1).clamp(min=1e-8) / self.high
        sizes = SHRINKS.to(rows.device)[:, None] * whole
        best = least_error(rows.T, sizes, torch.zeros_like(sizes), self.low, self.high)
        self.fitted.copy_(sizes.gather(0, best[None]).T)

    @torch.no_grad()
    def fit_sample(self) -> None:
        """Choose size and zero that round the drawn sample with least squared error.

        The range shrinks at both ends alike, then at either one.
        """
        assert self.sample is not None
        values, self.sample = torch.cat(self.sample).float(), None
        whole = kept = values.min().clamp(max=0), values.max().clamp(min=0)
        values = _some(values, MAX_SAMPLES)
        shrinks = SHRINKS.to(values.device)
        for ends in ((0, 1), (0,), (1,)):
            low, high = (
                shrinks * whole[end] if end in ends else kept[end].expand_as(shrinks)
                for end in (0, 1)
            )
            sizes = (high - low).clamp(min=1e-8) / self.high
            zeros = (-low / sizes).round()
            candidates = (sizes[:, None], zeros[:, None])
            best = least_error(values[:, None], *candidates, self.low, self.high)[0]
            kept = low[best], high[best]
        self.fitted.fill_(sizes[best])
        self.zero.fill_(zeros[best])


def _some(values: Tensor, n: int) -> Tensor:
    """At most n of them, the same ones each time."""
    if len(values) <= n:
        return values
    drawn = torch.randint(len(values), (n,), generator=torch.Generator().manual_seed(0))
    return values[drawn.to(values.device)]


@torch.no_grad()
def quantize(model: Any, n_bits: int, rows: Sequence[Sequence[int]]) -> None:
    """Quantize a trained float student in place, ranges from the token ids of some texts.

    The model says so in its configuration: saved and loaded it is quantized still. Raises
    InputError for one that is quantized already, pools positions, or ends with a constant query.
    """
    config = model.config
    if config.fake_quantization_bits or config.quantization:
        raise InputError("the student is quantized already; name a float one")
    add_grids(model, n_bits)
    config.fake_quantization_bits = n_bits
    for module in model.modules():
        if isinstance(module, nn.Linear):
            weight: Any = module.parametrizations["weight"]
            weight[0].fit_rows(weight.original)
        elif isinstance(module, nn.Embedding):
            grid = Grid.of_rows(n_bits, module.num_embeddings).to(module.weight.device)
            grid.fit_rows(module.weight)
            module.weight.copy_(grid(module.weight))
    _fit_activations(model, rows)


def add_grids(model: Any, n_bits: int) -> None:
    """Put a grid of its own, not fitted yet, on every weight and activation."""
    if model.config.classifier_query == "constant":
        raise InputError("a student that ends with a constant query can't be fake-quantized")
    if model.config.stride > 1:
        raise InputError(
            "a student that pools positions can't be fake-quantized: set pooling to 1, or give it "
            "a quantization, whose integers know pooling"
        )
    device = model.classifier.weight.device
    for module in list(model.modules()):
        if isinstance(module, nn.Linear):
            grid = Grid.of_rows(n_bits, module.out_features).to(device)
            parametrize.register_parametrization(module, "weight", grid)
    for owner, name, readers, writers in list(_places(model)):
        grid = Grid.of_tensor(n_bits).to(device)
        owner.add_module(f"{name}_grid", grid)
        for module in readers:
            module.register_forward_pre_hook(partial(_round_input, grid))
        for module in writers:
            module.register_forward_hook(partial(_round_output, grid))


def _places(model: Any) -> Iterator[tuple[nn.Module, str, list[nn.Module], list[nn.Module]]]:
    """Each activation: who owns its grid, its name, who reads it, who writes it."""
    for block in model.distilbert.transformer.layer:
        attention, ffn = block.attention, block.ffn
        yield attention, "input", [attention], []
        if attention.kind == "dot_product":
            yield attention, "query", [], [attention.q_lin]
            yield attention, "key", [], [attention.k_lin]
        else:
            yield attention, "pair", [], [attention.q_lin, attention.k_lin]
        yield attention, "value", [], [attention.v_lin]
        yield attention, "heads", [attention.out_lin], []
        yield ffn, "input", [ffn], []
        yield ffn, "hidden", [ffn.lin2], []
    yield model, "pre_classifier", [model.pre_classifier], []
    yield model, "classifier", [model.classifier], []


def _round_input(grid: Grid, _: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return (grid(arguments[0]), *arguments[1:])


def _round_output(grid: Grid, _: nn.Module, __: tuple[Any, ...], output: Tensor) -> Tensor:
    return grid(output)


def _fit_activations(model: Any, rows: Sequence[Sequence[int]]) -> None:
    """Run the texts one by one, so that no padding is sampled, on float activations."""
    grids = [owner.get_submodule(f"{name}_grid") for owner, name, *_ in _places(model)]
    for grid in grids:
        grid.sample = []
    model.eval()
    for row in rows:
        model(torch.tensor([row], device=model.device), output_hidden_states=True)
    for grid in grids:
        grid.fit_sample()
