"""Evaluation keys that are ready for use, those used last, within a limit of bytes."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.runtime.server import EvaluationKeys, Server


class ReadyKeys:
    """Keys that were read once: at least one client's, else `n_bytes` of them as they are sent.

    Unpacked they take about ten times as much. n_bytes may change: it counts when keys are read.
    """

    def __init__(self, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        self._kept: OrderedDict[Hashable, tuple[EvaluationKeys, int]] = OrderedDict()

    def get(
        self, name: Hashable, sha256: str, read: Callable[[], bytes], server: Server
    ) -> EvaluationKeys:
        """Return keys for a server's circuits, read unless they are here.

        name: of the keys and all that they belong to. read: gives their bytes, whose SHA-256 is
        checked. Raises InputError for keys that are damaged, or none of these circuits.
        """
        if name not in self._kept:
            data = undamaged(read(), sha256)
            self._make_room(len(data))
            self._kept[name] = (server.read_evaluation_keys(data), len(data))
        self._kept.move_to_end(name)
        return self._kept[name][0]

    def _make_room(self, n_bytes: int) -> None:
        used = sum(size for _, size in self._kept.values())
        while self._kept and used + n_bytes > self.n_bytes:
            _, (_, size) = self._kept.popitem(last=False)
            used -= size


def undamaged(keys: bytes, sha256: str) -> bytes:
    """Return keys that have this SHA-256. Raises InputError for others."""
    if hashlib.sha256(keys).hexdigest() != sha256:
        raise InputError("the keys were damaged on the server: delete and send them again")
    return keys
