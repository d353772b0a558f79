"""The measured half: one sentence on 1, 2, ... threads, each in a process of its own, in turn.

Threads take turns, one run each in every round, so that a drifting machine favours none. What is
finished is in the results file after every run: a benchmark that was stopped goes on from there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compile.scaling.results import (
    ScalingOptions,
    ScalingPoint,
    ScalingResults,
    start_or_resume,
    write_results,
)
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.integer.model import IntegerModel
from fhe_inhibitor.system.child import Child
from fhe_inhibitor.system.files import make_folder
from fhe_inhibitor.system.machine import MAX_THREADS
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.system.statistics import summarize

if TYPE_CHECKING:  # it loads Concrete, which belongs in the children
    from compile.scaling.process import ScalingProcess, TimedRun

CACHE = "circuits"  # in the folder of results: those of a session have all lengths


def all_threads() -> list[int]:
    """Return 1, 2, 4, ... and the number of cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
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
) -> ScalingResults:
    """Measure what the results in `out` lack; return all.

    layers: how many of the first layers run, with the keys of the whole network; None runs the
    whole sentence. Raises InputError for a length, threads, layers or repetitions that can't be,
    for a folder that can't be written, or one with results of something else.
    """
    _check(model, n, threads, layers, repetitions)
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
        children: dict[int, Child] = {}
        for number in sorted(set(threads)):
            point = results.find("threads", number)
            if point is not None and len(point.seconds) >= repetitions:
                continue
            observer.begin(f"{number} threads: compile, make keys")
            child = Child(_make, alone, split, layers, out / CACHE, threads=number)
            children[number] = stack.enter_context(closing(child))
            there = child.call("prepare", observer=observer)
            assert there == number, f"{there} threads, wanted {number}"
        for repetition in range(repetitions):
            for number, child in children.items():
                point = results.find("threads", number) or ScalingPoint(
                    series="threads", cores=number, lookups=0
                )
                if len(point.seconds) <= repetition:
                    observer.begin(f"{number} threads: repetition {repetition + 1}")
                    timed: TimedRun = child.call("run", repetition, observer=observer)
                    results = results.replacing(with_run(point, timed))
                    write_results(results, out)
    return results


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
    model: IntegerModel, n: int, threads: Sequence[int], layers: int | None, repetitions: int
) -> None:
    if not 1 <= n <= model.max_tokens:
        raise InputError(f"--tokens {n}: this model reads 1 to {model.max_tokens} tokens")
    if not threads or not all(1 <= number <= MAX_THREADS for number in threads):
        raise InputError(f"threads {list(threads)}; wanted numbers from 1 to {MAX_THREADS}")
    n_layers = len(model.network.layers)
    if layers is not None and not 1 <= layers <= n_layers:
        raise InputError(f"--layers {layers}: this model has {n_layers}")
    if repetitions < 1:
        raise InputError(f"{repetitions} repetitions; wanted 1 or more")
