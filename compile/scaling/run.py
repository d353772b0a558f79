"""The measured half: one sentence on 1, 2, ... threads, or Dask workers of one thread, in turn.

Each number of threads has a process of its own, and each number of workers a cluster on this
machine. They take turns, one run each in every round, so that a drifting machine favours none. What
is finished is in the results file after every run: a benchmark that was stopped goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compile.scaling.results import (
    ScalingOptions,
    ScalingPoint,
    ScalingResults,
    Series,
    start_or_resume,
    write_results,
)
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.system.child import Child
from fhe_inhibitor.system.files import make_folder
from fhe_inhibitor.system.machine import MAX_THREADS, usable_cores
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.system.statistics import summarize

if TYPE_CHECKING:  # it loads Concrete, which belongs in the children
    from compile.scaling.process import ScalingProcess, TimedRun

CACHE = "circuits"  # in the folder of results: those of a session have all lengths


def all_threads() -> list[int]:
    """Return 1, 2, 4, ... and the number of cores that this process may use."""
    cores = usable_cores()
    powers = [1 << bit for bit in range(cores.bit_length())]
    return sorted({power for power in powers if power <= cores} | {cores})


def measure_scaling(
    model: IntegerModel,
    n: int,
    threads: Sequence[int],
    split: int,
    layers: int | None,
    repetitions: int,
    out: Path,
    observer: Observer,
    workers: Sequence[int] = (),
) -> ScalingResults:
    """Measure what the results in `out` lack; return all.

    layers: how many of the first layers run, with the keys of the whole network; None runs the
    whole sentence. workers: numbers of Dask workers of one thread each, beside the threads of one
    process. Raises InputError for a length, numbers, layers or repetitions that can't be, for a
    folder that can't be written, or one with results of something else.
    """
    _check(model, n, threads, workers, layers, repetitions)
    make_folder(out)
    options = ScalingOptions(
        model=model.name,
        model_hash=model.hash,
        tokens=n,
        split=split,
        layers=layers,
        repetitions=repetitions,
    )
    results = start_or_resume(out, options)
    alone = replace(model, buckets=(n,), default_tokens=n)

    with ExitStack() as stack:

        def start(threads: int) -> Child:
            child = Child(_make, alone, split, layers, out / CACHE, threads=threads)
            stack.callback(child.close)
            return child

        def prepare(threads: int) -> Child:
            child = start(threads)
            there = child.call("prepare", observer=observer)
            assert there == threads, f"{there} threads, wanted {threads}"
            return child

        def is_missing(series: Series, number: int) -> bool:
            point = results.find(series, number)
            return point is None or len(point.seconds) < repetitions

        runs: dict[tuple[Series, int], Callable[[int], TimedRun]] = {}
        for number in sorted(set(threads)):
            if is_missing("threads", number):
                observer.begin(f"{number} threads: compile, make keys")
                child = prepare(number)
                runs["threads", number] = partial(child.call, "run", observer=observer)
        for number in sorted(set(workers)):
            if is_missing("workers", number):
                observer.begin(f"{number} workers: start, give them keys")
                child = prepare(1)
                scheduler = stack.enter_context(_workers(number))
                child.call("join", scheduler, observer=observer, may_wait=True)
                runs["workers", number] = partial(
                    _run_on, child, scheduler=scheduler, observer=observer
                )
        for repetition in range(repetitions):
            for (series, number), run in runs.items():
                point = results.find(series, number) or ScalingPoint(
                    series=series, cores=number, lookups=0
                )
                if len(point.seconds) <= repetition:
                    observer.begin(f"{number} {series}: repetition {repetition + 1}")
                    results = results.replacing(with_run(point, run(repetition)))
                    write_results(results, out)
        one = results.find("threads", 1)
        for point in results.points:
            if point.series == "workers" and point.simulated_s is None and one and one.task_s:
                child = start(1)
                seconds = child.call("simulate", one.task_s, point.cores, observer=observer)
                results = results.replacing(point.model_copy(update={"simulated_s": seconds}))
                write_results(results, out)
    return results


@contextmanager
def _workers(number: int) -> Iterator[str]:
    """Start so many Dask workers of one thread on this machine; yield their scheduler's address."""
    from fhe_inhibitor.cluster.local import one_thread_workers

    with one_thread_workers(number) as cluster:
        yield cluster.scheduler_address


def _run_on(child: Child, repetition: int, *, scheduler: str, observer: Observer) -> TimedRun:
    timed: TimedRun = child.call("run_on", repetition, scheduler, observer=observer, may_wait=True)
    return timed


def with_run(point: ScalingPoint, timed: TimedRun) -> ScalingPoint:
    """Return a point with one run more."""
    seconds = (*point.seconds, timed.seconds)
    fastest = not point.seconds or timed.seconds < min(point.seconds)
    differences = [d for d in (point.difference, timed.difference) if d is not None]
    return ScalingPoint(
        series=point.series,
        cores=point.cores,
        lookups=timed.lookups,
        seconds=seconds,
        summary=summarize(seconds),
        task_s=timed.task_s if fastest else point.task_s,
        difference=max(differences) if differences else None,
    )


def _make(*arguments: Any) -> ScalingProcess:
    from compile.scaling.process import ScalingProcess

    return ScalingProcess(*arguments)


def _check(
    model: IntegerModel,
    n: int,
    threads: Sequence[int],
    workers: Sequence[int],
    layers: int | None,
    repetitions: int,
) -> None:
    if not 1 <= n <= model.max_tokens:
        raise InputError(f"--tokens {n}: this model reads 1 to {model.max_tokens} tokens")
    if not threads or not all(1 <= number <= MAX_THREADS for number in threads):
        raise InputError(f"threads {list(threads)}; wanted numbers from 1 to {MAX_THREADS}")
    if not all(1 <= number <= MAX_THREADS for number in workers):
        raise InputError(f"workers {list(workers)}; wanted numbers from 1 to {MAX_THREADS}")
    n_layers = len(model.network.layers)
    if layers is not None and not 1 <= layers <= n_layers:
        raise InputError(f"--layers {layers}: this model has {n_layers}")
    if repetitions < 1:
        raise InputError(f"{repetitions} repetitions; wanted 1 or more")
