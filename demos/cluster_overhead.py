"""What a cluster costs beside one process with as many threads, and four sentences at once.

    python -m demos.cluster_overhead --runs 7 --out build/cluster_overhead.json
    python -m demos.cluster_overhead --model inhibidistilbert-full-depth-sst2 --tokens 12 --layers 1

A `LocalCluster` of two workers with one thread each, and a session's own process with two threads,
run the same tasks on the same ciphertexts in turns; the ratio of their medians is the cluster's
overhead. With --layers only the tasks of the first layers run, whose outputs are the end. Then
several sentences run one after the other, and all at once; seconds of all workers' calls are
compared. Nothing else may run meanwhile.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from distributed import Client

from compile.local.prepared import Prepared, prepare
from compile.scaling.process import first_layers
from fhe_inhibitor.cluster.executor import ClusterExecutor
from fhe_inhibitor.cluster.local import one_thread_workers
from fhe_inhibitor.cluster.options import Cluster
from fhe_inhibitor.integer.model import DEFAULT_MODEL, IntegerModel
from fhe_inhibitor.runtime.execution import TaskDone
from fhe_inhibitor.runtime.executor import Executor, InProcess
from fhe_inhibitor.runtime.keyring import Keyring
from fhe_inhibitor.runtime.manifest import Task
from fhe_inhibitor.runtime.messages import Request
from fhe_inhibitor.runtime.server import Value
from fhe_inhibitor.system.child import silence_dependencies
from fhe_inhibitor.system.huge_pages import restart_with_huge_pages
from fhe_inhibitor.system.machine import THREADS_VARIABLE, describe_machine
from fhe_inhibitor.system.progress import Printed

PACKAGES = ("concrete-python", "distributed", "numpy", "fhe-inhibitor")


@dataclass(frozen=True)
class Overhead:
    """What was measured.

    process_s, cluster_s: wall seconds of each run, in turns; overhead is the ratio of their
    medians, less 1. median_task_s: of one call in the process. one_by_one_s, at_once_s: seconds of
    calls, added up over workers, of `sentences` one after the other and all at once, and the
    same as wall seconds. moved_bytes: between workers in the last of the runs.
    """

    model: str
    tokens: int
    split: int
    tasks: int
    lookups: int
    workers: int
    process_s: list[float]
    cluster_s: list[float]
    overhead: float
    median_task_s: float
    moved_bytes: int
    sentences: int
    one_by_one_s: float
    at_once_s: float
    one_by_one_wall_s: float
    at_once_wall_s: float


def main(
    text: str = "a gripping , funny film",
    model: str = DEFAULT_MODEL,
    tokens: Annotated[int | None, typer.Option(help="Read the N most important.")] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Run the first layers alone.")] = None,
    split: Annotated[int, typer.Option(min=1, help="Cut stages for so many workers.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Of one thread each.")] = 2,
    runs: Annotated[int, typer.Option(min=1, help="Of each, in turns.")] = 5,
    sentences: Annotated[int, typer.Option(min=1, help="At once; 1 leaves that out.")] = 4,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON there.")] = None,
) -> None:
    """Measure and print JSON."""
    silence_dependencies()
    os.environ[THREADS_VARIABLE] = str(workers)  # before Concrete is loaded
    loaded = IntegerModel.load(model)
    prepared = prepare(loaded, Keyring(), observer=Printed(), split=split)
    n_tokens, tasks, values = encrypt(loaded, prepared, text, tokens)
    tasks = first_layers(tasks, layers)
    with (
        one_thread_workers(workers) as local,
        Client(local, set_as_default=False) as client,
        ClusterExecutor(
            Cluster(client), prepared.folder, prepared.client.evaluation_keys()
        ) as executor,
    ):
        here = InProcess(prepared.server, prepared.evaluation_keys)
        measured = measure(tasks, values, here, executor, runs, sentences)
    found = Overhead(
        loaded.name,
        n_tokens,
        split,
        len(tasks),
        sum(task.n_lookups for task in tasks),
        workers,
        **measured,
    )
    content = {**asdict(found), "machine": describe_machine(PACKAGES).model_dump()}
    written = json.dumps(content, indent=1)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(written, encoding="utf-8")
    print(written)


def encrypt(
    model: IntegerModel, prepared: Prepared, text: str, tokens: int | None
) -> tuple[int, Sequence[Task], dict[str, Value]]:
    """Return length and tasks of a text, and what they start from."""
    x, padding = model.encode(model.tokenize(text, tokens))
    data = prepared.client.encrypt(x, padding, model.projections(x)).to_bytes()
    request = Request.from_bytes(data)
    tasks = prepared.server.tasks(request.n)
    return request.n, tasks, prepared.server.read_values(request)


def measure(
    tasks: Sequence[Task],
    values: dict[str, Value],
    here: Executor,
    there: ClusterExecutor,
    runs: int,
    sentences: int,
) -> dict[str, Any]:
    """Return the measured fields of `Overhead`: the first calls unpack keys, and aren't timed."""
    process_s, cluster_s, task_s = [], [], []
    for run in range(runs + 1):
        start = time.perf_counter()
        done = list(here.go_on(tasks, values))
        middle = time.perf_counter()
        if not run:
            make_ready(there, done, values)
            continue
        list(there.go_on(tasks, values))
        process_s.append(middle - start)
        cluster_s.append(time.perf_counter() - middle)
        task_s += [one.seconds for one in done]
    moved = there.placement.moved_bytes
    alone = wall = 0.0
    for _ in range(sentences):
        start = time.perf_counter()
        list(there.go_on(tasks, values))
        wall += time.perf_counter() - start
        alone += sum(there.placement.seconds.values())
    start = time.perf_counter()
    list(there.go_on(*repeated(tasks, values, sentences)))
    return {
        "process_s": process_s,
        "cluster_s": cluster_s,
        "overhead": statistics.median(cluster_s) / statistics.median(process_s) - 1,
        "median_task_s": statistics.median(task_s),
        "moved_bytes": moved,
        "sentences": sentences,
        "one_by_one_s": alone,
        "at_once_s": sum(there.placement.seconds.values()),
        "one_by_one_wall_s": wall,
        "at_once_wall_s": time.perf_counter() - start,
    }


def make_ready(
    there: ClusterExecutor, done: Sequence[TaskDone[Value]], values: Mapping[str, Value]
) -> None:
    """Have every worker call each function once, on what it was called on in this process."""
    known = dict(values)
    for one in done:
        known |= one.outputs
    for task in {one.task.function: one.task for one in done}.values():
        there.make_ready(task, {name: known[name] for name in task.inputs})


def repeated(
    tasks: Sequence[Task], values: dict[str, Value], n: int
) -> tuple[list[Task], dict[str, Value]]:
    """Return n independent copies of tasks as one program, and what they start from."""
    copies: list[Task] = []
    given: dict[str, Value] = {}
    for number in range(n):
        name = f"{number}.{{}}".format
        for task in tasks:
            inputs, outputs = tuple(map(name, task.inputs)), tuple(map(name, task.outputs))
            copies.append(replace(task, inputs=inputs, outputs=outputs))
        given |= {name(key): value for key, value in values.items()}
    return copies, given


if __name__ == "__main__":
    restart_with_huge_pages()
    typer.run(main)
