"""What circuits are compiled for if nothing else is said; it loads nothing of Concrete."""

from __future__ import annotations

from fhe_inhibitor.errors import InputError

DEFAULT_P_ERROR = 2.0**-20
BENCHMARK_SIZE = 128  # lookups of a function that only times lookups
UNREACHABLE = ("NoParametersFound", "Unfeasible noise constraint")  # Concrete's words


def refusal(error: RuntimeError, p_error: float) -> Exception:
    """Return what to raise for an error of the compiler: InputError if no parameters fit."""
    if not any(reason in str(error) for reason in UNREACHABLE):
        return error
    return InputError(
        f"no parameters reach p_error {p_error:.3g}: narrow the widest lookup, lower "
        "the weights' norm or allow a larger p_error"
    )
