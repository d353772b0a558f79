"""The trials: each changes one thing of a size, in its float student or in its integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fhe_inhibitor.model.configuration import QuantizationConfig
from fhe_inhibitor.training.hyperparameters import Size

TOKENS = (8, 12, 16, 24)
SHARES_OF_TOKENS = (0.1, 0.4, 0.3, 0.2)
NOISE = "rounding_noise"
BASE, BASE_INTEGERS = "the size itself, in float", "the size itself, in integers"


@dataclass(frozen=True)
class Trial:
    """A student that is trained, and what it differs in from the size.

    group: heading of its row. student, quantization: changed entries of the size's.
    integers: whether it is the base's float student that is trained on as integers, or a float
    student of its own. texts: share of the corpus that it learns from. steps: factor of the steps
    of its phase. seed: of the student.
    """

    name: str
    group: str
    student: Mapping[str, Any] = field(default_factory=dict)
    quantization: Mapping[str, Any] = field(default_factory=dict)
    integers: bool = False
    texts: float = 1.0
    steps: float = 1.0
    seed: int = 0

    def size(self, base: Size, float_steps: int, integer_steps: int) -> Size:
        """Return the size that this trial trains, for so many steps."""
        student = base.student | {"n_tokens": max(TOKENS), "buckets": [*TOKENS]}
        student |= {"quantization": student["quantization"] | dict(self.quantization)}
        student |= dict(self.student)
        distillation = replace(
            base.distillation,
            steps=round(self.steps * (integer_steps if self.integers else float_steps)),
            float_fraction=0.0 if self.integers else 1.0,
            token_counts=TOKENS,
            token_weights=SHARES_OF_TOKENS,
            seed=self.seed,
        )
        return replace(base, student=student, distillation=distillation)


BASE_TRIAL = Trial(BASE, "base")


def list_trials(base: Size) -> list[Trial]:
    """Return all trials of a size, float students before the integers made from them."""
    student, bits = base.student, base.student["quantization"]
    dim, layers = student["dim"], student["n_layers"]
    return [
        BASE_TRIAL,
        Trial("another seed", "base", seed=1),
        *(Trial(f"{k * dim:g} channels", "capacity", _wide(student, k)) for k in (0.5, 2, 4)),
        *(
            Trial(f"{n} layer{'s' * (n > 1)}", "capacity", **_deep(student, n))
            for n in (layers - 1, layers + 1)
            if n
        ),
        Trial("keys of 4 channels a head", "capacity", {"key_head_dim": [4] * layers}),
        Trial("every layer sees all tokens", "capacity", {"attention_window": [0] * layers}),
        Trial("a sixteenth of the texts", "texts", texts=1 / 16),
        Trial("a quarter of the texts", "texts", texts=1 / 4),
        Trial("three times the steps", "steps", steps=3),
        Trial(BASE_INTEGERS, "base", integers=True),
        Trial("three times the steps, in integers", "steps", integers=True, steps=3),
        *(
            Trial(f"tables of {b} bits", "bits", quantization={"table_bits": b}, integers=True)
            for b in range(4, 7)
            if b != bits["table_bits"]
        ),
        *_one_bit_more(bits),
        Trial(
            "a third of the features classify",
            "bits",
            integers=True,
            quantization={"classifier_fan_in": dim // 3},
        ),
        Trial("half of the inputs kept", "bits", quantization={"fan_in": dim // 2}, integers=True),
        Trial("trained without noise", "noise", quantization={NOISE: 0.0}, integers=True),
        Trial("trained for twice the noise", "noise", quantization={NOISE: 0.2}, integers=True),
    ]


def _one_bit_more(bits: Mapping[str, Any]) -> Iterator[Trial]:
    """Yield a trial for each width that can be raised; no integer has more than 8 bits."""
    for name in ("key", "value", "weight", "activation", "feature", "logit"):
        width = f"{name}_bits"
        more = bits.get(width, getattr(QuantizationConfig, width)) + 1
        if more <= 8:
            yield Trial(
                f"{name}s of {more} bits", "bits", quantization={width: more}, integers=True
            )


def _wide(student: Mapping[str, Any], k: float) -> dict[str, Any]:
    """Return a width k times as large: residual stream and values."""
    values = [max(1, round(k * width)) for width in student["value_head_dim"]]
    return {"dim": round(k * student["dim"]), "value_head_dim": values}


def _deep(student: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """Return what changes with the number of layers: one more or less like the first."""

    def stretch(values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: [value[0]] * (layers - 1) + value[-1:]
            for name, value in values.items()
            if isinstance(value, list) and len(value) == student["n_layers"] and name != "buckets"
        }

    return {
        "student": stretch(student) | {"n_layers": layers},
        "quantization": stretch(student["quantization"]),
    }
