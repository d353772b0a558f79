"""What an experiment leaves in its folder beside the student: settings, journal, result.

experiment.json   the settings; another call must have the same ones
journal.jsonl     every logged loss, a line each
result.json       what was measured, written last: a folder that has it is finished
work/             what an interrupted call goes on from
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.experiments.settings import Experiment
from fhe_inhibitor.system.files import Record, make_folder, write_atomically
from fhe_inhibitor.system.machine import Machine

RESULT, JOURNAL, SETTINGS, WORK = "result.json", "journal.jsonl", "experiment.json", "work"
INPUTS = "inputs.json"  # in the work folder


class Row(Record):
    """One measured value. settings: what else tells rows apart, such as bits or attention."""

    recipe: str
    task: str
    seed: int
    metric: str
    value: float
    split: str = "validation"
    settings: dict[str, Any] = {}


class Result(Record):
    """What an experiment measured, and on what.

    initial: each layer's error before and after derivation. layers: the journal of the phases
    that train one layer at a time.
    """

    experiment: Experiment
    machine: Machine
    rows: list[Row]
    initial: list[dict[str, float]] = []
    layers: list[dict[str, Any]] = []
    phase_s: dict[str, float] = {}
    peak_memory_bytes: int = 0


def check_folder(out: Path, experiment: Experiment) -> None:
    """Raise InputError for a folder of another experiment, or of something else.

    A setting that the folder's experiment doesn't name had its default.
    """
    path = out / SETTINGS
    if path.exists():
        default = {name: field.default for name, field in Experiment.model_fields.items()}
        other = {**default, **json.loads(path.read_text())}
        now = experiment.model_dump(mode="json")
        changed = [name for name in now if other.get(name) != now[name]]
        if changed:
            raise InputError(
                f"{out} is the folder of another experiment: {changed[0]} was "
                f"{other.get(changed[0])!r}, now {now[changed[0]]!r}; name another --out"
            )
    elif out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty and holds no experiment; name another --out")


def claim_folder(out: Path, experiment: Experiment) -> None:
    """Make the folder and write the settings to it, for an experiment whose inputs are all there.

    Raises InputError if it can't be written.
    """
    make_folder(out)
    if not (out / SETTINGS).exists():
        write_atomically(out / SETTINGS, experiment.model_dump_json(indent=1) + "\n")


def check_inputs(out: Path, models: dict[str, Any], texts: dict[str, Iterable[Any]]) -> None:
    """Refuse to go on if a model or texts, by name, are others than when the folder was begun.

    An older folder, which lacks some of the names, is not compared by them. Raises InputError.
    """
    sums = {
        name: _checksum(weight.cpu().numpy().data for weight in model.state_dict().values())
        for name, model in models.items()
    }
    for name, examples in texts.items():
        sums[name] = _checksum(repr(example).encode() for example in examples)
    path = out / WORK / INPUTS
    before = json.loads(path.read_text()) if path.exists() else {}
    if changed := [name for name in sums if before.get(name, sums[name]) != sums[name]]:
        raise InputError(
            f"{out} has checkpoints of another model: its {changed[0]} changed since "
            "they were written; remove the folder or name another --out"
        )
    write_atomically(path, json.dumps(sums))


def read_layers(out: Path) -> list[dict[str, Any]]:
    """Return the lines of the journal that tell of one layer."""
    path = out / JOURNAL
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    kept = ("layer", "step", "loss", "held_out")
    return [{k: row[k] for k in kept if k in row} for row in rows if "layer" in row]


def _checksum(parts: Iterable[Any]) -> int:
    total = 0
    for part in parts:
        total = zlib.crc32(part, total)
    return total
