"""The noise of approximate encrypted rounding, measured: what training and simulation must draw.

A rounded lookup reads index floor(x / 2^lsbs + 1/2 + noise). For accumulators spread evenly over
a rounding step, and noise well inside half a step,

    P(index one too high) - P(index one too low) = E noise
    P(index one too high) + P(index one too low) = E |noise| = std * sqrt(2 / pi)   if centred

Most of it is the rounding of the ciphertext itself before the bootstrap, which the parameters of
the key fix; the weights before the lookup add the noise of earlier lookups, times their 2-norm. So
a model is measured on a layer of its own that has the model's width, its largest norm and its
p_error: the optimizer chooses the key by these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from circuits.encrypted import encrypted_lookup
from circuits.linear import Linear, linear
from circuits.lookups import Table, exact_lookup
from circuits.network import Network
from compile.functions import DeclaredFunction
from compile.module import DEFAULT_P_ERROR, compile_functions
from fhe_inhibitor.errors import InputError

INPUT_BITS = 4
CHANNELS = 256  # rounded lookups that share their inputs
LARGE_DIFFERENCE = 0.2  # of the noise that was trained for


@dataclass(frozen=True)
class RoundingNoise:
    """Noise of rounded lookups in units of one rounding step.

    mean_error, std_error: standard errors of `mean` and `std`. flip_rate: share of lookups that
    read the neighbouring entry. far_rate: of those that read any other wrong one.
    """

    mean: float
    mean_error: float
    std: float
    std_error: float
    flip_rate: float
    far_rate: float
    n_lookups: int


@dataclass(frozen=True)
class ModelNoise:
    """Noise of a model's rounded lookups of one width, in rounding steps.

    weight_norm: the largest 2-norm before them, behind which `std` was measured. trained_std: what
    training and `evaluate` draw; None where the model doesn't say.
    """

    bit_width: int
    weight_norm: float
    trained_std: float | None
    std: float
    std_error: float

    @property
    def differs(self) -> bool:
        """Whether the measured noise is another one than the model was trained for."""
        trained = self.trained_std
        return trained is not None and abs(self.std - trained) > LARGE_DIFFERENCE * trained


def measure_model_noise(
    network: Network, p_error: float, trained_std: float | None, n_lookups: int = 2048
) -> tuple[ModelNoise, ...]:
    """Measure the noise behind the largest weights of each width; see `measure_rounding_noise`."""
    measured = []
    for bits, norm in largest_norms(network).items():
        # A smaller norm leaves no bits to round; its noise is about the same.
        noise = measure_rounding_noise(bits, max(norm, 2 ** (bits / 2)), p_error, n_lookups)
        measured.append(ModelNoise(bits, norm, trained_std, noise.std, noise.std_error))
    return tuple(measured)


def largest_norms(network: Network) -> dict[int, float]:
    """Return the largest 2-norm of a linear layer's weights before a rounded lookup, by its width.

    Without residuals, and without the sums of heads, whose weights are 1. Projections of a layer
    that pools read sums: each weight is of `pooled` positions.
    """
    read: list[tuple[Linear | None, int]] = [(network.classifier.pre_classifier, 1)]
    for layer in network.layers:
        read += [(part, 1) for part in (layer.attention_output, layer.hidden, layer.output)]
        for head in layer.heads:
            read += [(part, layer.pooled) for part in (head.query, head.key, head.value)]
    norms: dict[int, float] = {}
    for part, positions in read:
        if part is not None and part.table.lsbs:
            norm = float(np.linalg.norm(part.weight, axis=0).max()) * math.sqrt(positions)
            width = part.table.bit_width
            norms[width] = max(norm, norms.get(width, 0.0))
    return dict(sorted(norms.items()))


def measure_rounding_noise(
    lookup_bits: int = 5,
    weight_norm: float = 8.0,
    p_error: float = DEFAULT_P_ERROR,
    n_lookups: int = 2048,
    seed: int = 0,
) -> RoundingNoise:
    """Run rounded lookups of encrypted dot products, and compare with exact rounding.

    weight_norm: 2-norm of the weights, rounded to that of a vector of +-1. Compiles a circuit
    and makes keys of its own: some 15 s on two cores, then some 8 ms a lookup.

    Raises InputError if so few weights leave nothing to round, or if no parameters reach p_error.
    """
    rng = np.random.default_rng(seed)
    dim = round(weight_norm**2)
    layer = _identity_layer(rng, dim, lookup_bits)
    x = rng.integers(0, 1 << INPUT_BITS, (-(-n_lookups // CHANNELS), dim))
    read = _run_encrypted(layer, x, p_error) - linear(x, layer, exact_lookup)
    above, below = float(np.mean(read == 1)), float(np.mean(read == -1))
    flip_rate = above + below
    to_std = math.sqrt(math.pi / 2)
    mean_error = math.sqrt(flip_rate / read.size)
    return RoundingNoise(
        mean=above - below,
        mean_error=mean_error,
        std=to_std * flip_rate,
        std_error=to_std * mean_error,
        flip_rate=flip_rate,
        far_rate=float(np.mean(np.abs(read) > 1)),
        n_lookups=read.size,
    )


def _identity_layer(rng: np.random.Generator, dim: int, bits: int) -> Linear:
    """Return a linear layer whose rounded lookup gives the index that it reads."""
    weight = rng.choice([-1, 1], (dim, CHANNELS))
    span = dim * ((1 << INPUT_BITS) - 1)
    lsbs = math.ceil(math.log2(max(1, span / ((1 << bits) - 1))))
    if lsbs < 3:
        raise InputError(f"{dim} weights of 1 leave {lsbs} bits to round; wanted a larger norm")
    offset = ((1 << INPUT_BITS) - 1) * (weight < 0).sum(axis=0)
    index = np.tile(np.arange(1 << bits), (CHANNELS, 1))
    return Linear(weight, offset, Table(index, lsbs=lsbs))


def _run_encrypted(layer: Linear, x: np.ndarray, p_error: float) -> np.ndarray:
    """Return the layer's output, its input fresh from another lookup as inside a network."""
    lookup = encrypted_lookup()
    fresh = Table(np.arange(1 << INPUT_BITS))

    def noise(x: Any) -> Any:
        return linear(lookup(x, fresh), layer, lookup)

    function = DeclaredFunction(noise, {"x": "encrypted"})
    function.inputset.extend(np.full(x.shape, end) for end in (0, (1 << INPUT_BITS) - 1))
    module = compile_functions([function], [], p_error)
    return np.asarray(module.functions()["noise"].encrypt_run_decrypt(x))
