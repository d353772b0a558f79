"""What the page is made of: sections of tables, whose rows name where their numbers come from.

A number stands once, in a `Cell`, with its unit and what is shown of it. Markdown, HTML and JSON
are all made of a `PaperReport`, so they can't differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from fhe_inhibitor.system.files import Record
from fhe_inhibitor.system.machine import Machine

VERSION = 1


class Source(Record):
    """Where numbers come from.

    command: that gives them; empty for what others published. machine: that it ran on, with
    versions and date; None where nothing ran. note: what else is to be known.
    """

    command: str
    machine: Machine | None = None
    note: str = ""


class Cell(Record):
    """One entry of a table. text: as shown. low, high: of the interval. n: what it is of."""

    text: str
    value: float | None = None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    n: int | None = None


class Row(Record):
    """One row. source: a name in `PaperReport.sources`."""

    cells: tuple[Cell, ...]
    source: str


class Table(Record):
    """Rows under a head, which is as wide as each of them."""

    head: tuple[str, ...]
    rows: tuple[Row, ...]


class Plot(Record):
    """A plot that lies beside the page, as `name`.pdf and `name`.png."""

    name: str
    caption: str


class Section(Record):
    """A part of the page. text: paragraphs in Markdown. Below them tables, then plots."""

    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()

    def sources(self) -> tuple[str, ...]:
        """Return the names of the sources of its rows, in their order."""
        rows = (row for table in self.tables for row in table.rows)
        return tuple(dict.fromkeys(row.source for row in rows))


class Sentence(Record):
    """One encrypted classification of the text, in seconds of the process that did each part.

    stages: of the server, by name. worker_core_s: processor seconds of the worker's threads.
    logits, clear_logits: decrypted, and of the integer model, exact. joules: of the whole processor
    meanwhile; None where they can't be read.
    """

    preprocess_s: float
    encrypt_s: float
    compute_s: float
    stages: dict[str, float]
    worker_core_s: float
    decrypt_s: float
    postprocess_s: float
    request_bytes: int
    response_bytes: int
    logits: tuple[int, ...]
    clear_logits: tuple[int, ...]
    label: str
    joules: float | None = None

    @property
    def seconds(self) -> float:
        """From encryption to the decrypted logits, without the network."""
        return self.encrypt_s + self.compute_s + self.decrypt_s


class Measured(Record):
    """What was measured of one text: a client and a worker, each in a process of its own.

    n_positions: length of the circuits. read_keys_s, unpack_keys_s: of the worker, once for each
    client; unpacking has `BENCHMARK_SIZE` lookups in it. lookup_s: of one lookup by bit width,
    empty if those weren't timed. processors: that the worker may use. no_energy: why energy can't
    be read; empty if it can. Peaks are of whole processes, Python and its libraries included.
    """

    text: str
    n_tokens: int
    n_read: int
    n_positions: int
    keygen_s: float
    evaluation_keys_bytes: int
    read_keys_s: float
    unpack_keys_s: float
    sentences: tuple[Sentence, ...]
    client_peak_bytes: int
    worker_peak_bytes: int
    lookup_s: dict[int, float]
    processors: int
    no_energy: str


class PaperReport(Record):
    """The page. sources: by name, which is short and stands beside each row that is of it.

    made: date. quiet: whether the machine had nothing else to do. measured: each single time.
    """

    format: Literal["fhe-inhibitor report"] = "fhe-inhibitor report"
    version: int = VERSION
    model: str
    model_hash: str
    made: str
    quiet: bool
    machine: Machine
    command: str
    sections: tuple[Section, ...]
    sources: dict[str, Source]
    measured: Measured

    def plots(self) -> Iterator[Plot]:
        """Yield all plots, in the page's order."""
        for section in self.sections:
            yield from section.plots
