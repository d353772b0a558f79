"""Keys as versions before 0.2 wrote them: no digest of their own."""

from __future__ import annotations

from pathlib import Path

from fhe_inhibitor.runtime.client import Client
from fhe_inhibitor.runtime.messages import pack_keys
from fhe_inhibitor.system.private_files import write_private


def save_format_1(client: Client, path: Path) -> None:
    """Write a client's keys in format 1, which was that of evaluation keys."""
    write_private(path, pack_keys(client.manifest.keys_hash, client._keys.serialize()))
