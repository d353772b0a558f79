"""How a client reaches its server."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fhe_inhibitor.errors import InputError


@dataclass(frozen=True)
class RemoteOptions:
    """Options of a client of a server; all have defaults.

    Raises InputError for an `in_flight` that would wait for ever.

    model: a name that the server offers; its only one if None. circuits_hash: refuse a server whose
    model has another one. accept_new_model: take a model that isn't the one which the server had.
    ca: certificates to trust instead of the system's; verify: False trusts any server, for tests.
    insecure: send the token even where others can read it, which is refused else. passphrase: of
    the keys. keys_dir, cache_dir: see `system.folders`. patience_s: how long a server that was
    there may be away. in_flight: requests of `classify_many` that the server has at once.
    """

    model: str | None = None
    circuits_hash: str | None = None
    accept_new_model: bool = False
    ca: Path | None = None
    verify: bool = True
    insecure: bool = False
    passphrase: str | None = field(default=None, repr=False)
    keys_dir: Path | None = None
    cache_dir: Path | None = None
    patience_s: float = 60.0
    in_flight: int = 2

    def __post_init__(self) -> None:
        if self.in_flight < 1:
            raise InputError(f"in_flight is {self.in_flight}: pass 1 or more requests at once")
