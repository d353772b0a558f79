"""A server's model on the client's side: its public files, fetched once, checked each time.

They lie in the cache under the model's hash, which covers all of them, so what is there and has
the right SHA-256 is what the server has.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.remote.connection import Connection
from fhe_inhibitor.remote.errors import ModelMismatch, UnknownModel
from fhe_inhibitor.remote.options import RemoteOptions
from fhe_inhibitor.remote.pins import Pins
from fhe_inhibitor.runtime.protocol import MODEL_FILES, PROTOCOL_VERSION, ModelInfo, circuits_hash
from fhe_inhibitor.system.folders import CACHE_VARIABLE, cache_root, keys_root
from fhe_inhibitor.system.private_files import write_private
from fhe_inhibitor.system.progress import Observer

FOLDER = "remote"


async def choose_model(connection: Connection, options: RemoteOptions) -> ModelInfo:
    """Return the model that the options name, or the only one.

    Raises UnknownModel if the server has none of that name, or several and the options name none;
    ModelMismatch if the model is not what client and server can agree on, or not the one that this
    server had. Nothing but the question has been sent then.
    """
    models = {model.name: model for model in await connection.models()}
    name = next(iter(models)) if options.model is None and len(models) == 1 else options.model
    if name is None or name not in models:
        wanted = "which model?" if name is None else f"no model {name!r};"
        raise UnknownModel(
            f"{connection.server}: {wanted} it has {', '.join(models) or 'none'}; name one of its "
            "models with --model, in Python RemoteOptions(model=...)"
        )
    model = models[name]
    if model.protocol_version != PROTOCOL_VERSION:
        raise ModelMismatch(
            f"{connection.server} speaks version {model.protocol_version} of the protocol, this "
            f"client {PROTOCOL_VERSION}: install the same version"
        )
    digests = {file.name: file.sha256 for file in model.files}
    # A file that is named twice would be fetched twice, and the hash covers one of the two.
    each_once = sorted(file.name for file in model.files) == sorted(MODEL_FILES)
    if not each_once or circuits_hash(digests) != model.circuits_hash:
        raise ModelMismatch(f"{connection.server}: the files of {name} don't have its hash")
    if options.circuits_hash not in (None, model.circuits_hash):
        raise ModelMismatch(
            f"{connection.server} has {name} with the hash {model.circuits_hash[:12]}, wanted "
            f"{str(options.circuits_hash)[:12]}; nothing was sent"
        )
    if not options.accept_new_model:
        named = options.model is not None
        Pins(keys_root(options.keys_dir)).check(connection.address, model, named)
    return model


async def fetch_files(
    connection: Connection,
    model: ModelInfo,
    cache_dir: Path | None,
    observer: Observer,
) -> Path:
    """Return a folder with the public files of a model, fetched where they aren't there.

    Raises InputError if the cache can't be written.
    """
    folder = cache_root(cache_dir) / FOLDER / model.circuits_hash
    missing = [file for file in model.files if not _holds(folder / file.name, file.sha256)]
    if missing:
        observer.begin("download")
        observer.plan(sum(file.size for file in missing), "bytes")
    for file in missing:
        content = await connection.model_file(model.name, file)
        try:
            write_private(folder / file.name, content)
        except OSError as error:
            raise InputError(
                f"the cache folder {folder} can't be written ({error.strerror}): make it "
                f"writable, or name another one in {CACHE_VARIABLE}"
            ) from error
        observer.finish(file.size)
    return folder


def _holds(path: Path, digest: str) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == digest
    except OSError:
        return False
