"""Sections on the measured sentences: seconds by stage, bytes, memory, energy, cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from compile.paper.cells import (
    core_seconds,
    median,
    missing,
    pairs,
    ratio,
    seconds,
    sentence,
    size,
    words,
)
from compile.paper.inputs import Inputs
from compile.paper.records import Cell, Plot, Row, Section, Sentence, Table
from compile.paper.sources import REPORT
from fhe_inhibitor.system.statistics import LEVEL, Summary, summarize

RATES_MBIT = (10, 100)
SENTENCES = 1000
HOUR_S = 3600


def latency_section(inputs: Inputs) -> Section:
    """Return the seconds of each part of a sentence, and of all."""
    measured = inputs.measured
    runs = measured.sentences
    total = summary_of(runs, lambda run: run.seconds)
    rows = []
    for name, times in _parts(runs).items():
        summary = summarize(times)
        cells = words(name), median(summary), ratio(summary.median / total.median)
        rows.append(Row(cells=cells, source=REPORT))
    cells = words("from encryption to the logits"), median(total), ratio(1.0)
    rows.append(Row(cells=cells, source=REPORT))
    predicted = inputs.predictions.sentence_s
    if predicted is not None:
        told = words("predicted: lookups times the time of one")
        cells = told, seconds(predicted), ratio(predicted / total.median)
        rows.append(Row(cells=cells, source=REPORT))
    equal = sum(_largest(run.logits) == _largest(run.clear_logits) for run in runs)
    return Section(
        title="Latency by stage",
        text=(
            f"One sentence of {measured.n_tokens} tokens, of which {measured.n_read} were read, in "
            f"circuits of {measured.n_positions} positions, {_times(len(runs))} with the same "
            f"keys. Medians; in brackets {_interval(total)}. Client and worker are processes on "
            f"one machine; what a network takes is below. {equal} of {len(runs)} labels are those "
            "of the integer model.",
        ),
        tables=(Table(head=("part", "seconds", "share"), rows=tuple(rows)),),
        plots=(Plot(name="stages", caption="Median seconds of one sentence, stage after stage."),),
    )


def bytes_section(inputs: Inputs) -> Section:
    """Return what is sent, and how long that takes on two lines."""
    measured = inputs.measured
    run = measured.sentences[0]
    computing = summary_of(measured.sentences, lambda run: run.seconds).median
    rows = [
        _sent("evaluation keys, once for each client", measured.evaluation_keys_bytes),
        _sent("request", run.request_bytes),
        _sent("response", run.response_bytes),
    ]
    both = run.request_bytes + run.response_bytes
    rows.append(_sent("one sentence, there and back", both))
    whole = [computing + _transfer(both, rate) for rate in RATES_MBIT]
    cells = words("that and its computation"), words(""), *(seconds(value) for value in whole)
    rows.append(Row(cells=cells, source=REPORT))
    rates = tuple(f"at {rate} Mbit/s" for rate in RATES_MBIT)
    return Section(
        title="Bytes on the wire",
        text=(
            "Sizes are of what is sent, headers of our own format included, those of HTTP not. "
            "Seconds are bits over bits per second: no latency, no other traffic.",
        ),
        tables=(Table(head=("what", "size", *rates), rows=tuple(rows)),),
    )


def memory_section(inputs: Inputs) -> Section:
    """Return the peak memory of client and worker."""
    measured = inputs.measured
    return Section(
        title="Memory",
        text=(
            "Largest resident memory of each process (ru_maxrss), Python and its libraries "
            "included. The client makes keys, which takes most of its own.",
        ),
        tables=(
            pairs(
                [
                    ("client", size(measured.client_peak_bytes), REPORT),
                    ("worker", size(measured.worker_peak_bytes), REPORT),
                ]
            ),
        ),
    )


def energy_section(inputs: Inputs) -> Section:
    """Return the joules of one sentence, or why they are not known."""
    measured = inputs.measured
    joules = [run.joules for run in measured.sentences if run.joules is not None]
    if joules:
        cell, text = median(summarize(joules), "J"), "RAPL's counters of whole packages"
    else:
        cell, text = missing(), f"Energy can't be read here: {measured.no_energy}"
    return Section(
        title="Energy",
        text=(f"{sentence(text)} Whatever else runs on the processor would be in the number.",),
        tables=(pairs([("one sentence, by the worker", cell, REPORT)]),),
    )


def cost_section(inputs: Inputs) -> Section:
    """Return core-seconds, and what they cost if the user gave a price."""
    measured, price = inputs.measured, inputs.price
    runs = measured.sentences
    reserved = SENTENCES * measured.processors * summary_of(runs, lambda run: run.compute_s).median
    used = SENTENCES * summary_of(runs, lambda run: run.worker_core_s).median
    money, asked = missing(), "Nobody said what a core-hour costs: add --price '0.05 EUR'."
    if price is not None:
        value = price.value * reserved / HOUR_S
        money = Cell(text=f"{value:.3g} {price.currency}", value=value, unit=price.currency)
        asked = f"A core-hour was said to cost {price.value:g} {price.currency}."
    return Section(
        title="Cost of 1,000 sentences",
        text=(
            f"Of this length, one after the other, on the worker's {measured.processors} "
            f"processors. {asked} Cost is that of the reserved core-seconds; keys are not in it.",
        ),
        tables=(
            pairs(
                [
                    (
                        "core-seconds reserved: processors times seconds",
                        core_seconds(reserved),
                        REPORT,
                    ),
                    ("core-seconds used by the worker's threads", core_seconds(used), REPORT),
                    ("cost", money, REPORT),
                ]
            ),
        ),
    )


def _parts(runs: Sequence[Sentence]) -> dict[str, list[float]]:
    """Return the seconds of each run's parts, in their order."""
    return {
        "client: text to integers": [run.preprocess_s for run in runs],
        "client: encrypt": [run.encrypt_s for run in runs],
        **{f"worker: {name}": [run.stages[name] for run in runs] for name in runs[0].stages},
        "worker: the rest": [run.compute_s - sum(run.stages.values()) for run in runs],
        "client: decrypt": [run.decrypt_s for run in runs],
    }


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n} times"


def _largest(logits: Sequence[int]) -> int:
    return logits.index(max(logits))


def summary_of(runs: Sequence[Sentence], of: Callable[[Sentence], float]) -> Summary:
    """Return the median of what each run took."""
    return summarize([of(run) for run in runs])


def _interval(summary: Summary) -> str:
    if summary.confidence < LEVEL:
        return "the whole range, which for so few runs is no 95% interval"
    return "95% intervals of order statistics"


def _sent(name: str, n_bytes: int) -> Row:
    times = (seconds(_transfer(n_bytes, rate)) for rate in RATES_MBIT)
    return Row(cells=(words(name), size(n_bytes), *times), source=REPORT)


def _transfer(n_bytes: int, rate_mbit: int) -> float:
    return 8 * n_bytes / (rate_mbit * 1e6)
