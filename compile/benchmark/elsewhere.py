"""A head whose blocks run on the workers of a cluster, as a model's tasks do.

    head = HeadElsewhere(circuit, cluster, observer)    # a HeadCircuit that has keys
    head.call(observer, seed=0)                         # encrypt here, run there, decrypt here

Circuits go as a folder, evaluation keys as the bytes that a client sends. Keys are made, and all
is encrypted and decrypted, in this process.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import numpy as np
from concrete import fhe

from compile.benchmark.circuit import HeadCall, HeadCircuit
from compile.benchmark.results import Workers
from compile.lookup_times import RUNS, benchmark_name
from compile.manifests import keys_digest, network_digest, program
from compile.module import write_circuits
from fhe_inhibitor.cluster.executor import ClusterExecutor
from fhe_inhibitor.cluster.options import Cluster
from fhe_inhibitor.cluster.orders import Equipment
from fhe_inhibitor.runtime.manifest import (
    EMBEDDING_FILE,
    TOKENIZER_FILE,
    Encryption,
    Manifest,
    Task,
)
from fhe_inhibitor.runtime.messages import pack_keys
from fhe_inhibitor.runtime.server import Value, read_value
from fhe_inhibitor.system.progress import Observer


class HeadElsewhere:
    """Calls a head as `HeadCircuit` does, its blocks run by the workers of a cluster.

    These get its circuits and evaluation keys; circuit: one that has keys. Raises InputError and
    ClusterError as `ClusterExecutor` does.
    """

    def __init__(self, circuit: HeadCircuit, cluster: Cluster, observer: Observer) -> None:
        self._circuit = circuit
        manifest = head_manifest(circuit)
        self._program = manifest.program(circuit.gaussian.head.n)
        keys = pack_keys(manifest.keys_hash, circuit.module.client.evaluation_keys.serialize())
        # Workers ask for its files as long as the executor is open.
        self._folder = TemporaryDirectory(prefix="fhe-inhibitor-", ignore_cleanup_errors=True)
        folder = Path(self._folder.name) / "circuits"
        write_head(circuit, manifest, folder)
        self._executor = ClusterExecutor(cluster, folder, keys, observer)

    def close(self) -> None:
        """Leave the cluster."""
        self._executor.close()
        self._folder.cleanup()

    def measure_lookups(self, observer: Observer) -> dict[int, float]:
        """Return the seconds of one lookup by bit width, in an engine of a worker: medians."""
        return {
            width: self._measure(width, size, observer)
            for width, size in self._circuit.timed.items()
        }

    def call(self, observer: Observer, seed: int) -> HeadCall:
        """Encrypt q, k, v drawn with this seed, have workers run the blocks, decrypt.

        Workers that came since the last call get circuits and keys first, and every engine has
        unpacked these. The time of the run is that from sending tasks to having all their outputs.
        """
        tasks = self._program.tasks
        qkv, integers = self._circuit.draw(seed)
        start = time.perf_counter()
        request = encrypt(self._circuit, self._program.encryptions, integers)
        encrypt_s = time.perf_counter() - start
        values = {name: read_value(name, data) for name, data in request.items()}
        workers = self._make_ready(values)
        start = time.perf_counter()
        outputs, calls_s = self._run(tasks, values, observer)
        run_s = time.perf_counter() - start
        response = [outputs[name].serialize() for task in tasks for name in task.outputs]
        start = time.perf_counter()
        h = decrypt(self._circuit, tasks, response)
        seconds = encrypt_s, run_s, time.perf_counter() - start
        sizes = sum(map(len, request.values())), sum(map(len, response))
        return self._circuit.judge(
            seconds, sizes, qkv, integers, h, calls_s=calls_s, workers=count_workers(workers)
        )

    def _make_ready(self, values: Mapping[str, Value]) -> dict[str, Equipment]:
        """Have each function of the blocks called once in every engine that hasn't called it."""
        by_function = {task.function: task for task in self._program.tasks}
        found = [self._executor.make_ready(task, values) for task in by_function.values()]
        return found[0]

    def _measure(self, width: int, size: int, observer: Observer) -> float:
        name = benchmark_name(width)
        zeros = self._circuit.module.client.encrypt(np.zeros(size, np.int64), function_name=name)
        values = {"x": read_value("x", zeros.serialize())}
        task = Task(name, name, ("x",), ("y",), {width: size})
        self._executor.make_ready(task, values)
        return median(self._run([task], values, observer)[1] for _ in range(RUNS)) / size

    def _run(
        self, tasks: Sequence[Task], values: Mapping[str, Value], observer: Observer
    ) -> tuple[dict[str, Value], float]:
        """Return the outputs of all tasks, and the seconds of their calls added up."""
        heard = _Notes()
        outputs: dict[str, Value] = {}
        calls_s = 0.0
        for done in self._executor.go_on(tasks, values, heard, keep=True):
            outputs.update(done.outputs)
            calls_s += done.seconds
        usual = self._executor.placement.describe()
        for note in heard.notes:
            if note != usual:
                observer.note(note)
        return outputs, calls_s


class _Notes(Observer):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def head_manifest(circuit: HeadCircuit) -> Manifest:
    """Return what a folder of a head's circuits says of them: the blocks are tasks."""
    head, module = circuit.gaussian.head, circuit.module
    proved = head.prove()
    return Manifest(
        model_hash=network_digest(head),
        keys_hash=keys_digest(module),
        p_error=circuit.p_error,
        exact_rounding=False,
        dim=head.head_dim,
        n_labels=head.head_dim,
        input_range=head.qk_range,
        logit_range=(int(proved.low.min()), int(proved.high.max())),
        programs={head.n: program(module, circuit.calls, circuit.function_lookups, circuit.wires)},
        benchmarks={},
        benchmark_size=0,
    )


def write_head(circuit: HeadCircuit, manifest: Manifest, folder: Path) -> None:
    """Write a folder of circuits; its public part is empty, since a head reads no text."""
    write_circuits(circuit.module, manifest, folder)
    for name in (EMBEDDING_FILE, TOKENIZER_FILE):
        (folder / name).touch()


def encrypt(
    circuit: HeadCircuit, encryptions: Iterable[Encryption], integers: Sequence[np.ndarray]
) -> dict[str, bytes]:
    """Return the ciphertexts that the tasks start from; integers: q, k, v."""
    values = dict(zip("qkv", integers, strict=True))
    ciphertexts = {}
    for encryption in encryptions:
        given: list[np.ndarray | None] = [None] * len(values)
        given[encryption.position] = encryption.take(values)
        sent = circuit.module.client.encrypt(*given, function_name=encryption.function)
        ciphertexts[encryption.name] = sent[encryption.position].serialize()
    return ciphertexts


def decrypt(circuit: HeadCircuit, tasks: Sequence[Task], response: Sequence[bytes]) -> np.ndarray:
    """Return H, int `[n, head_dim]`, of the blocks' outputs in the order of their tasks."""
    client = circuit.module.client
    blocks = [
        np.asarray(client.decrypt(fhe.Value.deserialize(data), function_name=task.function))
        for task, data in zip(tasks, response, strict=True)
    ]
    return np.concatenate(blocks, axis=0)


def count_workers(fleet: Mapping[str, Equipment]) -> tuple[Workers, ...]:
    """Return how many workers of each kind there are; fleet: by address."""
    kinds: dict[Equipment, list[str]] = {}
    for address, kind in fleet.items():
        kinds.setdefault(kind, []).append(address)
    return tuple(
        Workers(
            **asdict(kind),
            machines=len({urlsplit(address).hostname for address in addresses}),
            workers=len(addresses),
        )
        for kind, addresses in sorted(kinds.items(), key=lambda item: repr(item[0]))
    )
