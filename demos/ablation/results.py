"""The results file: what is measured of each trial, kept as soon as it is there."""

from __future__ import annotations

from pathlib import Path

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.files import Record, read_results, write_atomically
from fhe_inhibitor.system.machine import Machine
from fhe_inhibitor.system.statistics import Share

NAME = "ablation"
TEACHER, WORDS = "teacher", "bag of words"  # rows that are no trials
ALL_TOKENS = 0  # a reader of whole texts


class Measured(Record):
    """Of one split: accuracy, and the divergence from the teacher that read the whole text.

    divergence: mean of KL(teacher || student), in nats.
    """

    accuracy: Share
    divergence: float


class Row(Record):
    """A trial or reader by tokens read and split: validation, held_out.

    exact: of integers, without the noise of encrypted rounding; `measured` has it drawn.
    units: the optimizer's complexity of one sentence, at the size's own length; 0 without lookups,
    None where nothing can be encrypted. commit: that measured it; the file's own if empty.
    """

    group: str
    commit: str = ""
    measured: dict[int, dict[str, Measured]]
    exact: dict[int, dict[str, Measured]] = {}
    units: float | None = None


class Results(Record):
    """The file. tokens: that the page's tables are at. rows: by name, in order."""

    size: str
    tokens: int
    float_steps: int
    integer_steps: int
    draws: int
    machine: Machine
    rows: dict[str, Row] = {}


class KeptResults:
    """Results that are written whenever a row is added.

    fresh: what the file holds if there is none. Raises InputError for a file that can't be read,
    and for one of another size, or of other steps.
    """

    def __init__(self, path: Path, fresh: Results) -> None:
        self.path, self.found, self.commit = path, fresh, fresh.machine.commit
        if not path.exists():
            return
        self.found = read_results(path, Results, "demos.ablation")
        for name in ("size", "tokens", "float_steps", "integer_steps", "draws"):
            kept, asked = getattr(self.found, name), getattr(fresh, name)
            if kept != asked:
                raise InputError(
                    f"{path} was made with {name} {kept}, asked for is {asked}: name another "
                    "folder with --out, or remove the file"
                )

    def add(self, name: str, row: Row) -> None:
        """Add a row and write the file."""
        row = row.model_copy(update={"commit": self.commit})
        self.found = self.found.model_copy(update={"rows": {**self.found.rows, name: row}})
        write_atomically(self.path, self.found.model_dump_json(indent=1) + "\n")
