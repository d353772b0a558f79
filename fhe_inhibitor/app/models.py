"""What the page itself knows of a model: its public part, and all of it where that is here."""

from __future__ import annotations

from fhe_inhibitor.app.engine import Here, There
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.integer.public import PublicModel
from fhe_inhibitor.remote.client import RemoteClient


def model_here(source: Here) -> IntegerModel:
    """Return the model. Raises InputError as `IntegerModel.load` does."""
    return IntegerModel.load(source.model)


def models_there(source: There) -> tuple[PublicModel, IntegerModel | None]:
    """Return the public part of a server's model, and the integer model if it is one that is here.

    Raises InputError and RemoteError as `RemoteClient` does.
    """
    with RemoteClient(source.server, source.token, source.options) as client:
        public, wanted = client.public_model(), client.connect().model_hash
    try:
        model = IntegerModel.load(public.name)
    except InputError:
        return public, None
    return public, model if model.hash == wanted else None
