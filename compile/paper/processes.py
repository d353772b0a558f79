"""The two sides of the measurement, each an object that `system.child` puts into its own process.

They import what a real client and a real worker import, and nothing of each other's, so that the
memory of their processes is that of the two roles. Only bytes go from one to the other.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from fhe_inhibitor.integer.public import PublicModel
from fhe_inhibitor.runtime.costs import total_by_name
from fhe_inhibitor.runtime.messages import Request, Response
from fhe_inhibitor.system.progress import Observer


@dataclass(frozen=True)
class Encrypted:
    """A request. preprocess_s: from the text to integers; encrypt_s: from those to bytes."""

    request: bytes
    preprocess_s: float
    encrypt_s: float


@dataclass(frozen=True)
class Computed:
    """A response. seconds: wall time; stages: of it, by name. core_s: of all threads together."""

    response: bytes
    seconds: float
    stages: dict[str, float]
    core_s: float


@dataclass(frozen=True)
class Decrypted:
    """What came of a response. logits: in integer steps."""

    logits: tuple[int, ...]
    label: str
    decrypt_s: float
    postprocess_s: float


class ClientProcess:
    """Makes keys, encrypts, decrypts. folder: circuits with their public part."""

    def __init__(self, folder: str) -> None:
        from fhe_inhibitor.runtime.client import Client

        self._client, self._model = Client(folder), PublicModel.load(folder)

    def generate_keys(self) -> tuple[bytes, float]:
        """Return the evaluation keys as they are sent, and the seconds that keys took."""
        start = time.perf_counter()
        self._client.generate_keys()
        data = self._client.evaluation_keys()
        return data, time.perf_counter() - start

    def encrypt_benchmark(self, bit_width: int) -> bytes:
        """Return the input of the function that times lookups of this width."""
        return self._client.encrypt_benchmark(bit_width)

    def encrypt(self, text: str, max_tokens: int | None) -> Encrypted:
        """Return the request of a text. Raises InputError for one that can't be read."""
        start = time.perf_counter()
        tokens = self._model.tokenize(text, max_tokens)
        x, padding = self._model.encode(tokens)
        encoded = time.perf_counter()
        projections = self._model.projections(x)
        request = self._client.encrypt(x, padding, projections).to_bytes()
        return Encrypted(request, encoded - start, time.perf_counter() - encoded)

    def decrypt(self, response: bytes) -> Decrypted:
        """Return what a response holds. Raises InputError for another one."""
        start = time.perf_counter()
        logits = self._client.decrypt(Response.from_bytes(response))
        decrypted = time.perf_counter()
        label, _ = self._model.label(logits)
        ended = time.perf_counter()
        return Decrypted(tuple(logits.tolist()), label, decrypted - start, ended - decrypted)


class WorkerProcess:
    """Evaluates requests; holds nothing that decrypts. folder: of circuits."""

    def __init__(self, folder: str) -> None:
        from fhe_inhibitor.runtime.server import Server

        self._server = Server(folder)

    def read_keys(self, data: bytes) -> float:
        """Read a client's evaluation keys; return the seconds."""
        start = time.perf_counter()
        self._keys = self._server.read_evaluation_keys(data)
        return time.perf_counter() - start

    def unpack_keys(self, bit_width: int, value: bytes) -> float:
        """Run the function that times lookups, which unpacks the keys first; return the seconds."""
        start = time.perf_counter()
        self._lookup(bit_width, value)
        return time.perf_counter() - start

    def time_lookups(self, bit_width: int, value: bytes) -> float:
        """Return the seconds of one lookup. It loads more than a worker does: the last to call."""
        from compile.lookup_times import time_lookups

        size = self._server.manifest.benchmark_size
        return time_lookups(lambda: self._lookup(bit_width, value), size)

    def compute(self, observer: Observer, request: bytes) -> Computed:
        """Return the response to a request."""
        from fhe_inhibitor.runtime.server import to_response

        start, core = time.perf_counter(), time.process_time()
        received = Request.from_bytes(request)
        done = list(self._server.start(received, self._keys, observer))
        response = to_response(received.n, done[-1]).to_bytes()
        seconds, core_s = time.perf_counter() - start, time.process_time() - core
        stages = {cost.name: cost.seconds for cost in total_by_name(task.cost for task in done)}
        return Computed(response, seconds, stages, core_s)

    def _lookup(self, bit_width: int, value: bytes) -> None:
        from fhe_inhibitor.runtime.server import read_value

        function = self._server.manifest.benchmarks[bit_width]
        self._server.call(function, [read_value("benchmark", value)], self._keys)
