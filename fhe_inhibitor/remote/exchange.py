"""One text on its way to a server and back, and what the client does with it at both ends."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.public import PublicModel, Tokens
from fhe_inhibitor.remote.errors import ModelMismatch
from fhe_inhibitor.runtime.classifier import Classification
from fhe_inhibitor.runtime.costs import StageCost, stage_name, total_by_name
from fhe_inhibitor.runtime.manifest import Task
from fhe_inhibitor.runtime.messages import Response
from fhe_inhibitor.runtime.protocol import TaskEvent
from fhe_inhibitor.system.child import silence_dependencies

if TYPE_CHECKING:
    from fhe_inhibitor.runtime.client import Client


@dataclass
class Exchange:
    """A text, what is sent for it, what the server did with it, what came back."""

    text: str
    tokens: Tokens
    n_positions: int
    tasks: tuple[Task, ...]
    tasks_done: int = 0
    task_s: dict[int, float] = field(default_factory=dict)
    request: bytes = b""
    response: bytes = b""
    began: float = 0.0
    encrypt_s: float = 0.0
    ended: float = 0.0

    def note_task(self, done: int, event: TaskEvent | None) -> int:
        """Take down that `done` tasks are finished, and what the server told of the last one.

        Returns the lookups of the tasks that finished since the last call.
        """
        new = self.tasks[self.tasks_done : done]
        self.tasks_done = max(done, self.tasks_done)
        if event is not None:
            self.task_s[event.index] = event.seconds
        return sum(task.n_lookups for task in new)

    @property
    def stages(self) -> list[StageCost]:
        """What the server says that its tasks took, 0 for one that it didn't tell of."""
        return [
            StageCost(stage_name(task.stage), self.task_s.get(index, 0.0), task.lookups)
            for index, task in enumerate(self.tasks, start=1)
        ]


class ClientSide:
    """Text and ciphertexts of one model: a folder of its public files, and keys.

    Raises ModelMismatch for files of another version, or of keys that aren't secure.
    """

    def __init__(self, folder: Path) -> None:
        # Here, because Concrete takes seconds to load that asking a server can spare.
        with warnings.catch_warnings():
            silence_dependencies()
            from fhe_inhibitor.runtime.client import Client

        try:
            self.client: Client = Client(folder)
        except InputError as error:
            raise ModelMismatch(f"the server's circuits can't be used: {error}") from error

    def exchange(self, public: PublicModel, text: str, tokens: Tokens) -> Exchange:
        """Return what is to be sent for a text."""
        n = public.bucket(len(tokens.ids))
        return Exchange(text, tokens, n, self.client.manifest.program(n).tasks)

    def encrypt(self, public: PublicModel, exchange: Exchange) -> None:
        """Fill in the request."""
        exchange.began = time.perf_counter()
        x, padding = public.encode(exchange.tokens)
        exchange.request = self.client.encrypt(x, padding, public.projections(x)).to_bytes()
        exchange.encrypt_s = time.perf_counter() - exchange.began

    def decrypt(self, public: PublicModel, exchange: Exchange) -> Classification:
        """Return what a response says. Raises InputError for one that holds no logits."""
        start = time.perf_counter()
        logits = self.client.decrypt(Response.from_bytes(exchange.response))
        decrypt_s = time.perf_counter() - start
        label, probability = public.label(logits)
        encrypt, decrypt = StageCost("encrypt", exchange.encrypt_s), StageCost("decrypt", decrypt_s)
        return Classification(
            text=exchange.text,
            label=label,
            probability=probability,
            tokens=exchange.tokens.tokens,
            n_tokens=exchange.tokens.n_total,
            n_positions=exchange.n_positions,
            logits=tuple(logits.tolist()),
            clear_logits=None,
            logit_scale=public.logit_scale,
            stages=total_by_name([encrypt, *exchange.stages, decrypt]),
            seconds=exchange.ended - exchange.began + decrypt_s,
            request_bytes=len(exchange.request),
            response_bytes=len(exchange.response),
        )
