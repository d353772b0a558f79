"""One text on its way to a server and back, and what the client does with it at both ends."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.documents import Document, encode_pieces, mean_logits, neutral_of
from fhe_inhibitor.integer.public import PublicModel, Tokens
from fhe_inhibitor.remote.errors import ModelMismatch
from fhe_inhibitor.runtime.classifier import Classification, of_document
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
    read: Tokens | Document
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

    def exchange(self, public: PublicModel, text: str, read: Tokens | Document) -> Exchange:
        """Return what is to be sent for a text. Raises InputError for too many pieces."""
        pieces = encode_pieces(public, read)
        n = len(pieces[0][0])
        return Exchange(text, read, n, self.client.manifest.program(n, len(pieces)).tasks)

    def encrypt(self, public: PublicModel, exchange: Exchange) -> None:
        """Fill in the request."""
        exchange.began = time.perf_counter()
        pieces = encode_pieces(public, exchange.read)
        given = [(x, padding, public.projections(x)) for x, padding in pieces]
        exchange.request = self.client.encrypt_document(given).to_bytes()
        exchange.encrypt_s = time.perf_counter() - exchange.began

    def decrypt(self, public: PublicModel, exchange: Exchange) -> Classification:
        """Return what a response says. Raises InputError for one that holds no logits."""
        start = time.perf_counter()
        logits = self.client.decrypt(Response.from_bytes(exchange.response))
        decrypt_s = time.perf_counter() - start
        encrypt, decrypt = StageCost("encrypt", exchange.encrypt_s), StageCost("decrypt", decrypt_s)
        read, found = exchange.read, logits
        if isinstance(read, Document):
            logits = logits * self.client.manifest.step(len(read.pieces))
            found = mean_logits(public, logits, read)
        label, probability = public.label(found)
        result = Classification(
            text=exchange.text,
            label=label,
            probability=probability,
            tokens=read.tokens,
            n_tokens=read.n_total,
            n_positions=exchange.n_positions,
            logits=tuple(logits.tolist()),
            clear_logits=None,
            logit_scale=public.logit_scale,
            stages=total_by_name([encrypt, *exchange.stages, decrypt]),
            seconds=exchange.ended - exchange.began + decrypt_s,
            request_bytes=len(exchange.request),
            response_bytes=len(exchange.response),
        )
        if not isinstance(read, Document):
            return result
        pieces = tuple(piece.tokens for piece in read.pieces)
        return of_document(result, pieces, read.n_pieces, neutral_of(public, read))
