"""Measures one text: keys, encrypted classifications, sizes, and the memory of client and worker.

    measured = measure(model, folder, text, max_tokens=12, repeat=3)

Client and worker are processes of their own, as they are over a network; what a network would take
is no part of the seconds.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from compile.paper.processes import ClientProcess, Computed, Decrypted, Encrypted, WorkerProcess
from compile.paper.records import Measured, Sentence
from fhe_inhibitor.benchmark.energy import POWERCAP, measure_joules, unreadable
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.runtime.manifest import read_manifest
from fhe_inhibitor.system.child import Child
from fhe_inhibitor.system.machine import usable_cores
from fhe_inhibitor.system.progress import Observer


def measure(
    model: IntegerModel,
    folder: Path,
    text: str,
    max_tokens: int | None = None,
    repeat: int = 3,
    observer: Observer | None = None,
    time_lookups: bool = True,
    powercap: Path = POWERCAP,
) -> Measured:
    """Classify a text encrypted, once untimed and then `repeat` times; the keys are dropped.

    folder: circuits of the model, with its public part. max_tokens: as in `IntegerModel.tokenize`.
    time_lookups: time one lookup of each width, too. powercap: where the counters of energy are.
    Raises InputError for a text that can't be read, and for repeat below 1.
    """
    if repeat < 1:
        raise InputError(f"{repeat} repetitions; wanted 1 or more")
    observer = observer or Observer()
    tokens = model.tokenize(text, max_tokens)
    x, padding = model.encode(tokens)
    clear_logits = tuple(model.integer_logits(x, padding).tolist())
    no_energy = unreadable(powercap)
    observer.begin("keygen")
    with (
        closing(Child(ClientProcess, str(folder))) as client,
        closing(Child(WorkerProcess, str(folder))) as worker,
    ):

        def classify() -> Sentence:
            observer.begin("encrypt")
            sent: Encrypted = client.call("encrypt", text, max_tokens)
            computed: list[Computed] = []

            def compute() -> None:
                computed.append(worker.call("compute", sent.request, observer=observer))

            joules = None if no_energy else measure_joules(compute, powercap)
            if no_energy:
                compute()
            (done,) = computed
            observer.begin("decrypt")
            received: Decrypted = client.call("decrypt", done.response)
            return Sentence(
                preprocess_s=sent.preprocess_s,
                encrypt_s=sent.encrypt_s,
                compute_s=done.seconds,
                stages=done.stages,
                worker_core_s=done.core_s,
                decrypt_s=received.decrypt_s,
                postprocess_s=received.postprocess_s,
                request_bytes=len(sent.request),
                response_bytes=len(done.response),
                logits=received.logits,
                clear_logits=clear_logits,
                label=received.label,
                joules=joules,
            )

        keys, keygen_s = client.call("generate_keys")
        observer.begin("unpack evaluation keys")
        read_keys_s = worker.call("read_keys", keys)
        manifest = read_manifest(folder)
        widths = sorted(manifest.benchmarks)
        timed = {width: client.call("encrypt_benchmark", width) for width in widths}
        unpack_keys_s = sum(worker.call("unpack_keys", *pair) for pair in timed.items())
        tasks = manifest.program(len(x)).tasks
        observer.plan((1 + repeat) * sum(task.n_lookups for task in tasks), "lookups")
        classify()  # untimed: whatever a stage is the first to use of the keys is unpacked in it
        sentences = tuple(classify() for _ in range(repeat))
        client_peak_bytes, worker_peak_bytes = (
            client.peak_memory_bytes(),
            worker.peak_memory_bytes(),
        )
        observer.begin("time lookups")
        return Measured(
            text=text,
            n_tokens=tokens.n_total,
            n_read=len(tokens.tokens),
            n_positions=len(x),
            keygen_s=keygen_s,
            evaluation_keys_bytes=len(keys),
            read_keys_s=read_keys_s,
            unpack_keys_s=unpack_keys_s,
            sentences=sentences,
            client_peak_bytes=client_peak_bytes,
            worker_peak_bytes=worker_peak_bytes,
            lookup_s={
                width: worker.call("time_lookups", width, value)
                for width, value in timed.items()
                if time_lookups
            },
            processors=usable_cores(),
            no_energy=no_energy,
        )
