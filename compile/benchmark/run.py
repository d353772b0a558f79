"""The encrypted benchmark: circuits in turn, each in a process of its own, length by length.

At each length every circuit is compiled, gets keys and has its lookups timed; then rounds follow
in which each circuit is called once, so that a drifting machine favours none. What is finished is
in the results file after every round: a run that was stopped goes on from there, with new keys.

With a cluster its workers run the heads, one at a time: all engines of all workers have the keys of
all circuits of a length before anything is timed, and circuits are compared where both ran on
workers of the same kinds and numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from compile.benchmark.results import (
    CALLS,
    AttentionOptions,
    AttentionPoint,
    AttentionRatio,
    AttentionResults,
    measure_quality,
    start_or_resume,
    write_results,
)
from fhe_inhibitor.benchmark.heads import make_head
from fhe_inhibitor.cluster.options import Cluster
from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.child import Child, ChildDied, ChildError
from fhe_inhibitor.system.files import make_folder
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.system.statistics import compare, fit_growth, summarize

if TYPE_CHECKING:  # these load Concrete, which belongs in the children
    from compile.benchmark.circuit import HeadCall
    from compile.benchmark.process import Compiled, HeadProcess

MIN_REPETITIONS = 2
RATIOS = (
    ("dot_product_exact", "inhibitor_exact"),
    ("dot_product_rounded", "inhibitor_rounded"),
    ("inhibitor_exact", "inhibitor_rounded"),
    ("dot_product_exact", "dot_product_rounded"),
)
# For estimates before anything has run, on the slow side.
SECONDS_PER_COMPLEXITY = 1.0e-10
KEYGEN_SECONDS_PER_BYTE = 3e-8
MEMORY_BYTES, MEMORY_PER_KEY_BYTE = 5e8, 1.5
KEYS_MARGIN_BYTES = 1 << 20  # packed keys have a few bytes before them


def benchmark_attention(
    parameters: AttentionOptions,
    out: Path,
    budget_s: float | None,
    observer: Observer,
    cluster: Cluster | None = None,
) -> AttentionResults:
    """Measure what the results in `out` lack; return all.

    budget_s: wall time after which nothing is begun; what it left out says so. cluster: whose
    workers run the heads, cut into `parameters.split` blocks; None for this machine. Raises
    InputError for parameters that make no head, a folder that can't be written, or one with results
    of another version or of other parameters, ClusterError if no scheduler answers or no worker
    fits.
    """
    parameters = parameters.model_copy(update={"on_cluster": cluster is not None})
    _check(parameters)
    if cluster is not None:
        from fhe_inhibitor.cluster.connection import for_children

        cluster = for_children(cluster)
    make_folder(out)
    run = _Run(start_or_resume(out, parameters), out, budget_s, observer, cluster)
    for n in parameters.lengths:
        run.measure_length(n)
    results = _compare(run.results)
    write_results(results, out)
    return results


def _make(*arguments: Any) -> HeadProcess:
    from compile.benchmark.process import HeadProcess

    return HeadProcess(*arguments)


def _check(parameters: AttentionOptions) -> None:
    for name in ("lengths", "circuits", "seeds"):
        if not getattr(parameters, name):
            raise InputError(f"no {name}: pass at least one")
    if parameters.repetitions < 1:
        raise InputError(f"{parameters.repetitions} repetitions; wanted 1 or more")
    if parameters.split < 1:
        raise InputError(f"heads split into {parameters.split}; wanted 1 or more")
    if parameters.on_cluster and parameters.mode != "execute":
        raise InputError("a cluster runs encrypted heads: use --mode execute, or drop --scheduler")
    if parameters.split > 1 and not parameters.on_cluster:
        raise InputError("--split is for the workers of a cluster: add --scheduler, or drop it")
    for circuit in parameters.circuits:
        for n in parameters.lengths:
            make_head(circuit, n, parameters.head_dim, parameters.bits)


class _Run:
    """One run: its results so far, and the time that is left.

    cluster: by its address, as children reach it; None for this machine.
    """

    def __init__(
        self,
        results: AttentionResults,
        out: Path,
        budget_s: float | None,
        observer: Observer,
        cluster: Cluster | None,
    ) -> None:
        self.results, self._cluster = results, cluster
        self._parameters, self._out, self._observer = results.parameters, out, observer
        self._deadline = None if budget_s is None else time.monotonic() + budget_s

    def measure_length(self, n: int) -> None:
        """Measure all circuits at one length."""
        with ExitStack() as stack:
            children: dict[str, Child] = {}
            for circuit in self._parameters.circuits:
                found = self.results.find(circuit, n)
                if found is None or not found.complete:
                    children[circuit] = self._start(circuit, n)
                    stack.callback(children[circuit].stop)
                    self._attempt(self._prepare, children, circuit, n)
            if self._cluster is not None:
                sizes = [self._point(c, n).evaluation_keys_bytes or 0 for c in children]
                for circuit in list(children):
                    self._attempt(self._join, children, circuit, n, sum(sizes) + KEYS_MARGIN_BYTES)
            for repetition in range(self._parameters.repetitions):
                for circuit in list(children):
                    self._attempt(self._repeat, children, circuit, n, repetition)
            for circuit in list(children):
                self._attempt(self._finish, children, circuit, n)

    def _attempt(
        self, step: Callable[..., None], children: dict[str, Child], circuit: str, *arguments: int
    ) -> None:
        """Do a step with a child; go on without it once its point can't be measured."""
        try:
            step(children[circuit], circuit, *arguments)
        except ChildError as error:
            self._keep(self._point(circuit, arguments[0]), status="failed", reason=str(error))
        if self._point(circuit, arguments[0]).status != "measured":
            children.pop(circuit).stop()

    def _point(self, circuit: str, n: int) -> AttentionPoint:
        found = self.results.find(circuit, n)
        return found or AttentionPoint(circuit=circuit, n=n, status="measured", complete=False)

    def _start(self, circuit: str, n: int) -> Child:
        p = self._parameters
        measurable = p.mode == "execute"
        return Child(_make, circuit, n, p.head_dim, p.bits, p.p_error, measurable, p.split)

    def _call(self, child: Child, method: str, *arguments: object) -> Any:
        """Call a method that may go to the cluster, and tells an observer of it."""
        waits = self._cluster is not None
        return child.call(method, *arguments, observer=self._observer, may_wait=waits)

    def _prepare(self, child: Child, circuit: str, n: int) -> None:
        """Compile and make keys; without a cluster time lookups."""
        point = self._point(circuit, n)
        self._observer.begin(f"n = {n}, {circuit}: compile")
        try:
            compiled: Compiled = child.call("compile", self._parameters.repetitions)
        except ChildDied:
            raise  # for want of memory, say, which is no word on the circuit
        except (ChildError, InputError) as error:
            self._keep(point, status="not_compiled", reason=str(error), complete=True)
            return
        content = {name: value for name, value in vars(compiled).items() if name != "compile_s"}
        point = self._keep(
            point, **content, status="measured", reason="", complete=False,
            seconds={**point.seconds, "compile": compiled.compile_s},
        )  # fmt: skip
        if self._parameters.mode == "simulate":
            return
        if reason := self._obstacle(compiled):
            self._leave_out(point, reason)
            return
        self._observer.begin(f"n = {n}, {circuit}: keys")
        keygen_s = child.call("generate_keys", self._parameters.repetitions)
        self._keep(
            point,
            seconds={**point.seconds, "keygen": keygen_s},
            evaluation_keys_bytes=child.call("evaluation_keys_bytes"),
        )
        if self._cluster is None:
            self._time_lookups(child, circuit, n)

    def _join(self, child: Child, circuit: str, n: int, keys_bytes: int) -> None:
        """Give the workers of a cluster circuits and keys, and time lookups there.

        keys_bytes: of all circuits of this length, which engines are to keep ready.
        """
        assert self._cluster is not None
        self._observer.begin(f"n = {n}, {circuit}: give keys to workers")
        keys_bytes = max(keys_bytes, self._cluster.keys_bytes)
        self._call(child, "join", replace(self._cluster, keys_bytes=keys_bytes))
        self._time_lookups(child, circuit, n)

    def _time_lookups(self, child: Child, circuit: str, n: int) -> None:
        self._observer.begin(f"n = {n}, {circuit}: time of single lookups")
        lookup_s, predicted_s = self._call(child, "measure_lookups")
        self._keep(
            self._point(circuit, n),
            lookup_s=lookup_s,
            predicted_s=predicted_s,
            peak_memory_bytes=child.peak_memory_bytes(),
        )

    def _repeat(self, child: Child, circuit: str, n: int, repetition: int) -> None:
        """Call a circuit once more, unless it ran often or long enough."""
        p, point = self._parameters, self._point(circuit, n)
        taken = point.seconds.get("run", [])
        if len(taken) > repetition or self._ran_enough(point):
            return
        expected_s = max(taken) if taken else point.predicted_s or 0.0
        if reason := self._too_long(expected_s):
            if not taken:
                self._leave_out(point, reason)
            return
        self._observer.begin(f"n = {n}, {circuit}: repetition {repetition + 1}")
        seed = p.seeds[repetition % len(p.seeds)]
        call: HeadCall
        if p.mode == "execute":
            call = self._call(child, "call", seed)
        else:
            call = child.call("simulate", seed)
        self._keep_call(point, call)

    def _keep_call(self, point: AttentionPoint, call: HeadCall) -> None:
        phases = ("encrypt", "run", "decrypt") if self._parameters.mode == "execute" else ("run",)
        fleet = point.fleet
        if call.calls_s is not None:
            phases = (*phases, CALLS)
            self.results = self.results.with_fleet(call.workers)
            fleet = [*fleet, self.results.fleets.index(call.workers)]
        seconds = dict(point.seconds)
        for phase in phases:
            seconds[phase] = [*seconds.get(phase, []), getattr(call, f"{phase}_s")]
        h, expected = [*point.h, *call.h], [*point.expected, *call.expected]
        self._keep(
            point,
            seconds=seconds,
            request_bytes=call.request_bytes,
            response_bytes=call.response_bytes,
            equal=[*point.equal, call.equal],
            inside=point.inside is not False and call.inside,
            h=h,
            expected=expected,
            quality=measure_quality(np.array(h), np.array(expected)),
            fleet=fleet,
        )

    def _finish(self, child: Child, circuit: str, n: int) -> None:
        peak = child.peak_memory_bytes() if self._parameters.mode == "execute" else None
        point = self._point(circuit, n)
        complete = self._ran_enough(point)
        if not complete:
            self._observer.note(
                f"n = {n}, {circuit}: the time budget ended after {len(point.seconds['run'])} of "
                f"{self._parameters.repetitions} repetitions; the same command goes on with them"
            )
        self._keep(point, complete=complete, peak_memory_bytes=peak)

    def _ran_enough(self, point: AttentionPoint) -> bool:
        """Whether a circuit was called as often, or ran as long, as was asked for."""
        p, taken = self._parameters, point.seconds.get("run", [])
        if len(taken) < min(MIN_REPETITIONS, p.repetitions):
            return False
        return len(taken) >= p.repetitions or sum(taken) * (1 + 1 / len(taken)) > p.point_s

    def _obstacle(self, compiled: Compiled) -> str:
        """Why keys aren't made: no memory, or no time for them and three calls; "" if they are."""
        keys = compiled.bootstrap_keys_bytes + compiled.keyswitch_keys_bytes
        needed, free = MEMORY_BYTES + MEMORY_PER_KEY_BYTE * keys, psutil.virtual_memory().available
        if needed > free:
            return f"needs about {needed / 1e9:.0f} GB with its keys, {free / 1e9:.0f} GB are free"
        run_s = compiled.complexity * SECONDS_PER_COMPLEXITY
        return self._too_long((1 + MIN_REPETITIONS) * run_s + keys * KEYGEN_SECONDS_PER_BYTE)

    def _too_long(self, seconds: float) -> str:
        if self._deadline is None:
            return ""
        left = self._deadline - time.monotonic()
        if seconds <= left:
            return ""
        return f"needs about {seconds:.0f} s, {max(left, 0):.0f} s of the time budget are left"

    def _leave_out(self, point: AttentionPoint, reason: str) -> None:
        self._observer.note(f"n = {point.n}, {point.circuit}: left out, {reason}")
        self._keep(point, status="left_out", reason=reason, complete=False)

    def _keep(self, point: AttentionPoint, **changes: object) -> AttentionPoint:
        """Replace a point by one with these changes, in the file too."""
        content = {**dict(point), **changes}
        content["summaries"] = {
            phase: summarize(seconds) for phase, seconds in content["seconds"].items() if seconds
        }
        changed = AttentionPoint(**content)
        self.results = self.results.replacing(changed)
        write_results(self.results, self._out)
        return changed


def comparable(first: AttentionPoint, second: AttentionPoint) -> list[tuple[float, float]]:
    """Return the run times of two circuits round by round, where both had the same fleet."""
    pairs = list(zip(first.seconds["run"], second.seconds["run"], strict=False))
    if not (first.fleet or second.fleet):
        return pairs
    fleets = zip(first.fleet, second.fleet, strict=False)
    return [pair for pair, (one, other) in zip(pairs, fleets, strict=True) if one == other]


def _compare(results: AttentionResults) -> AttentionResults:
    """Add ratios and growth; in simulation, where times mean nothing, only that of lookups."""
    timed = results.parameters.mode == "execute"
    ratios = []
    for circuit, other in RATIOS if timed else ():
        for n in results.parameters.lengths:
            first, second = results.find(circuit, n), results.find(other, n)
            if first is None or second is None or first.run_s is None or second.run_s is None:
                continue
            pairs = comparable(first, second)
            if not pairs:
                continue
            assert first.complexity and second.complexity
            ratios.append(
                AttentionRatio(
                    circuit=circuit,
                    other=other,
                    n=n,
                    ratio=compare(*zip(*pairs, strict=True)),
                    complexity_ratio=first.complexity / second.complexity,
                )
            )
    growth, lookup_growth = {}, {}
    for circuit in results.parameters.circuits:
        points = [p for p in results.points if p.circuit == circuit and p.lookups]
        lookups = fit_growth([p.n for p in points], [p.n_lookups for p in points])
        if lookups is not None:
            lookup_growth[circuit] = lookups
        measured = results.measured(circuit) if timed else []
        times = fit_growth([p.n for p in measured], [p.summaries["run"].median for p in measured])
        if times is not None:
            growth[circuit] = times
    return results.model_copy(
        update={"ratios": tuple(ratios), "growth": growth, "lookup_growth": lookup_growth}
    )
