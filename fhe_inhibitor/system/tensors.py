"""Files of tensors that know whether they are whole, and what they belong to.

They are safetensors. Their header has the run, and a SHA-256 of the file in which 64 zeros stand
for the SHA-256 itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.files import write_atomically

NO_DIGEST = "0" * 64


def write_tensors(path: Path, tensors: Mapping[str, Tensor], run: str = "") -> None:
    """Write tensors, whole or not at all.

    run: what the training was started with; `read_tensors` wants the same.
    """
    data = save(dict(tensors), {"run": run, "sha256": NO_DIGEST})
    write_atomically(path, data.replace(NO_DIGEST.encode(), _sha256(data).encode(), 1))


def read_tensors(path: Path, run: str = "", may_lack_digest: bool = False) -> dict[str, Tensor]:
    """Read what `write_tensors` wrote.

    may_lack_digest: read a file of another program, or of an older version, too. Raises OSError for
    a missing file, InputError for a damaged one, and for one of another run.
    """
    data = path.read_bytes()
    try:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])
        if may_lack_digest and "sha256" not in header.get("__metadata__", {}):
            return load(data)
        metadata = header["__metadata__"]
        digest, other = str(metadata["sha256"]), metadata["run"]
        whole = _sha256(data.replace(digest.encode(), NO_DIGEST.encode(), 1)) == digest
        tensors = load(data) if whole else {}
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} can't be read ({type(error).__name__}): restore it, or remove it to begin anew"
        ) from error
    if not whole:
        raise InputError(
            f"{path} is damaged, its SHA-256 is another one: restore it, or remove it to begin anew"
        )
    if other != run:
        raise InputError(
            f"{path} is the checkpoint of other settings or data ({other}, now {run}): remove it, "
            "or name another folder"
        )
    return tensors


def fingerprint(tensors: Iterable[Tensor]) -> str:
    """Return 16 hexadecimal digits that tell data apart."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
