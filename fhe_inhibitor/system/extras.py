"""Optional parts of an installation, and what to say where one is missing.

with needs("train"):
    from fhe_inhibitor.training import recipe

The extras themselves are in pyproject.toml.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fhe_inhibitor.errors import InputError

OUR_PACKAGES = ("circuits", "compile", "demos", "fhe_inhibitor")


def install_command(*extras: str) -> str:
    """Return how to install extras of this package, which is on no index.

    >>> install_command("train", "onnx")
    "pip install '.[train,onnx]' in the folder of the repository"
    """
    return f"pip install '.[{','.join(extras)}]' in the folder of the repository"


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Import inside what needs an extra, such as "train" or "onnx".

    Raises InputError that names the missing package and the extra that brings it. A module of
    our own that is missing is no matter of extras: its error passes as it is.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in OUR_PACKAGES:
            raise
        raise InputError(
            f"the package {package} is missing; it comes with the extra {extra!r}: "
            f"{install_command(extra)}"
        ) from error
