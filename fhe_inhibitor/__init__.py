"""Homomorphic-encryption inference with inhibitor attention: the public face, and the clear world.

    from fhe_inhibitor import Session

    print(Session().classify("a gripping , funny film").label)

What users name is here. A name is imported when it is first used, so that importing the package
takes neither torch nor Concrete. The transformers classes need the extra "train"; importing one
registers all of them with transformers.

Each folder is one system; `tests/test_imports.py` lists them in the order in which they may import
one another. Begin with `runtime/` (client and server), `integer/` (the model that they run) and
`training/` (where it comes from).
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compile.local.session import Session
    from fhe_inhibitor.cluster.options import Cluster
    from fhe_inhibitor.errors import InputError
    from fhe_inhibitor.integer.model import IntegerModel
    from fhe_inhibitor.model.modeling import (
        InhibiDistilBertConfig,
        InhibiDistilBertForSequenceClassification,
        InhibiDistilBertModel,
    )
    from fhe_inhibitor.remote.async_client import AsyncRemoteClient
    from fhe_inhibitor.remote.client import RemoteClient
    from fhe_inhibitor.remote.options import RemoteOptions
    from fhe_inhibitor.runtime.classifier import (
        Classification,
        Classifier,
        DocumentClassification,
        Outcome,
    )
    from fhe_inhibitor.runtime.keyring import Keyring
    from fhe_inhibitor.system.progress import Observer

    __version__: str

__all__ = [
    "AsyncRemoteClient",
    "Classification",
    "Classifier",
    "Cluster",
    "DocumentClassification",
    "InhibiDistilBertConfig",
    "InhibiDistilBertForSequenceClassification",
    "InhibiDistilBertModel",
    "InputError",
    "IntegerModel",
    "Keyring",
    "Observer",
    "Outcome",
    "RemoteClient",
    "RemoteOptions",
    "Session",
    "__version__",
]

# Where each name is when it is first used; as the imports for type checkers above.
_MODULES = {
    "AsyncRemoteClient": "fhe_inhibitor.remote.async_client",
    "Classification": "fhe_inhibitor.runtime.classifier",
    "Classifier": "fhe_inhibitor.runtime.classifier",
    "Cluster": "fhe_inhibitor.cluster.options",
    "DocumentClassification": "fhe_inhibitor.runtime.classifier",
    "InhibiDistilBertConfig": "fhe_inhibitor.model.modeling",  # whose import registers all three
    "InhibiDistilBertForSequenceClassification": "fhe_inhibitor.model.modeling",
    "InhibiDistilBertModel": "fhe_inhibitor.model.modeling",
    "InputError": "fhe_inhibitor.errors",
    "IntegerModel": "fhe_inhibitor.integer.model",
    "Keyring": "fhe_inhibitor.runtime.keyring",
    "Observer": "fhe_inhibitor.system.progress",
    "Outcome": "fhe_inhibitor.runtime.classifier",
    "RemoteClient": "fhe_inhibitor.remote.client",
    "RemoteOptions": "fhe_inhibitor.remote.options",
    "Session": "compile.local.session",
}

# HPX, the scheduler inside Concrete, would catch SIGPIPE from the first evaluation on, and end the
# process when a peer hangs up or a pager closes; Python wants to raise BrokenPipeError then.
os.environ.setdefault("HPX_HANDLE_SIGNALS", "0")


def __dir__() -> list[str]:
    """Return what is loaded and the public names, loaded or not."""
    return sorted({*globals(), *__all__})


def _load(name: str) -> Any:
    """Import what a public name stands for. Raises InputError if its extra is missing."""
    if name == "__version__":
        from importlib.metadata import version

        return version("fhe-inhibitor")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    from fhe_inhibitor.system.extras import needs

    with needs("train"):
        return getattr(import_module(_MODULES[name]), name)


if not TYPE_CHECKING:  # a type checker would take it for a promise of any name

    def __getattr__(name: str) -> Any:
        """Load a public name; the next time Python finds it by itself."""
        return globals().setdefault(name, _load(name))
