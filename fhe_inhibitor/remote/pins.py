"""Which model each server had when it was first used: another one is refused until it is accepted.

The hash of a model covers the specifications that keys are made with, the tokenizer and the
embedding. A server that could change them unseen could have a text read in another way. What was
seen first is believed; `RemoteOptions.circuits_hash` is for whom that isn't enough.
"""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock
from pydantic import TypeAdapter, ValidationError

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.remote.errors import ModelMismatch
from fhe_inhibitor.runtime.protocol import ModelInfo, Sha256
from fhe_inhibitor.system.folders import KEYS_VARIABLE
from fhe_inhibitor.system.private_files import make_private, write_private

PINS_FILE, LOCK_FILE = "servers.json", ".servers.lock"

Hashes = dict[str, dict[str, Sha256]]  # by server and model's name
_HASHES = TypeAdapter(Hashes)


class Pins:
    """The models of servers, in a file beside the keys."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / PINS_FILE

    def check(self, server: str, model: ModelInfo, named: bool) -> None:
        """Refuse a model that isn't the one which this server had.

        named: whether the user named the model. If not, one of a new name is refused as well.
        Raises ModelMismatch; InputError if the file can't be read.
        """
        known = self._read().get(server, {})
        before = known.get(model.name)
        if before is None and known and not named:
            raise _changed(server, model, f"it had {' and '.join(sorted(known))} before")
        if before not in (None, model.circuits_hash):
            raise _changed(server, model, f"it was {str(before)[:12]} before")

    def pin(self, server: str, model: ModelInfo) -> None:
        """Write down the model that a server has. Raises InputError if that can't be written."""
        try:
            make_private(self.path.parent)
            with FileLock(self.path.with_name(LOCK_FILE), mode=0o600):
                hashes = self._read()
                if hashes.setdefault(server, {}).get(model.name) != model.circuits_hash:
                    hashes[server][model.name] = model.circuits_hash
                    write_private(self.path, _HASHES.dump_json(hashes, indent=1))
        except OSError as error:
            raise InputError(
                f"{self.path} can't be written ({error.strerror}): make it writable, or name "
                f"another folder in {KEYS_VARIABLE}"
            ) from error

    def _read(self) -> Hashes:
        try:
            return _HASHES.validate_json(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            raise InputError(
                f"{self.path} can't be read ({type(error).__name__}): restore it, or remove it to "
                "forget which models servers had"
            ) from error


def _changed(server: str, model: ModelInfo, before: str) -> ModelMismatch:
    return ModelMismatch(
        f"{server} has the model {model.name} with the hash {model.circuits_hash[:12]}, {before}; "
        "nothing was sent; if whoever runs it says why, accept that with --accept-new-model "
        "(in Python: accept_new_model=True)"
    )
