"""Sections on the circuits: the model, parameters and keys, and what failing less would cost."""

from __future__ import annotations

from compile.options import BENCHMARK_SIZE
from compile.paper.cells import milliseconds, missing, number, pairs, seconds, sentence, size, words
from compile.paper.inputs import Inputs
from compile.paper.records import Cell, Plot, Row, Section, Table
from compile.paper.sources import COMPILE, COST, REPORT
from fhe_inhibitor.runtime.parameters import TABLE_HEAD, TABLE_NOTE, table_rows


def model_section(inputs: Inputs) -> Section:
    """Return what the model and its circuits are."""
    compiled, n = inputs.compiled, inputs.measured.n_positions
    length = compiled.length(n)
    return Section(
        title="Model and circuits",
        tables=(
            pairs(
                [
                    ("model", words(inputs.model), COMPILE),
                    ("SHA-256 of its integers", words(inputs.model_hash[:16]), COMPILE),
                    ("sequence length, tokens", number(n), REPORT),
                    ("lookups of one sentence", number(sum(length.lookups.values())), COMPILE),
                    ("of them by width", words(_by_width(length.lookups)), COMPILE),
                    ("widest lookup", number(compiled.widest_lookup, unit="bits"), COMPILE),
                    ("encrypted functions, all lengths", number(compiled.n_functions), COMPILE),
                    (
                        "complexity, all lengths, in the optimizer's units",
                        number(compiled.complexity, f"{compiled.complexity:.3e}"),
                        COMPILE,
                    ),
                    ("time to compile", seconds(compiled.compile_s), COMPILE),
                    *_lookup_times(inputs),
                ]
            ),
        ),
    )


def security_section(inputs: Inputs) -> Section:
    """Return the parameters of each secret key, and what the keys cost."""
    compiled, measured = inputs.compiled, inputs.measured
    rows = tuple(
        Row(cells=tuple(words(cell) for cell in cells), source=COMPILE)
        for cells in table_rows(compiled.parameters)
    )
    keys = pairs(
        [
            (
                "security asked of the optimizer",
                number(compiled.security_bits, unit="bits"),
                COMPILE,
            ),
            ("keys made by the client", seconds(measured.keygen_s), REPORT),
            ("evaluation keys as sent, once", size(measured.evaluation_keys_bytes), REPORT),
            ("unpacked, for bootstraps", size(compiled.bootstrap_keys_bytes), COMPILE),
            ("unpacked, for keyswitches", size(compiled.keyswitch_keys_bytes), COMPILE),
            ("keys read by the worker, once", seconds(measured.read_keys_s), REPORT),
            (
                f"keys unpacked by the worker, once, in {BENCHMARK_SIZE} lookups a width",
                seconds(measured.unpack_keys_s),
                REPORT,
            ),
        ]
    )
    return Section(
        title="Parameters, security and keys",
        text=(
            f"{sentence(TABLE_NOTE)} A client refuses parameters below that line.",
            "The server must be honest but curious. It learns the sequence length, sizes and "
            "times, and who asks; the text, the logits and the label stay with the client.",
        ),
        tables=(Table(head=TABLE_HEAD, rows=rows), keys),
    )


def errors_section(inputs: Inputs) -> Section:
    """Return how likely errors are, and what fewer would cost."""
    own = inputs.compiled.p_error
    usual = next(price for price in inputs.predictions.errors if price.p_error == own)
    rows = []
    for price in inputs.predictions.errors:
        ratio = price.units / usual.units
        name = f"{price.name}, these circuits" if price.p_error == own else price.name
        cells = (
            number(price.p_error, name),
            number(price.of_sentence, f"{price.of_sentence:.2g}"),
            seconds(price.units * inputs.predictions.unit_s),
            number(ratio, f"{ratio:.2f}"),
            size(price.evaluation_keys_bytes),
            size(price.response_bytes),
        )
        rows.append(Row(cells=cells, source=COST))
    head = (
        "a lookup errs", "a lookup of a sentence errs", "predicted", "times these", "keys as sent",
        "response",
    )  # fmt: skip
    return Section(
        title="Failure probability and its price",
        text=(
            "To err means that the noise passed half a rounding step. Smaller noise is always "
            "there, moves values to the neighbouring entry, and is part of all accuracies with "
            "drawn noise.",
        ),
        tables=(Table(head=head, rows=tuple(rows)),),
        plots=(
            Plot(
                name="errors",
                caption="Predicted seconds of one sentence against the probability that a lookup "
                "errs.",
            ),
        ),
    )


def _lookup_times(inputs: Inputs) -> list[tuple[str, Cell, str]]:
    times = inputs.measured.lookup_s
    if not times:
        return [("one lookup, all cores used", missing(), COMPILE)]
    return [
        (f"one lookup of {bits} bits, all cores used", milliseconds(value), REPORT)
        for bits, value in sorted(times.items())
    ]


def _by_width(lookups: dict[int, int]) -> str:
    return ", ".join(f"{count:,} of {bits} bits" for bits, count in sorted(lookups.items()))
