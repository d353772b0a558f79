"""A plan of many experiments: a YAML file that names them, each run once, results as JSON.

    data: ../shared/data/glue           # a folder of TSV folders, one per task
    experiments:
      - name: recipes                   # a section of the report
        settings: {recipe: aligned, teacher: "{work}/teachers/{task}"}
        each: {task: [sst2, cola], seed: [0, 1, 2]}

An entry makes one experiment for each combination under `each`, of the kind that it names: a
distillation (`settings.Experiment`) if none, language models (`language`), errors by length
(`lengths`), pairs of texts to compare (`matching`), or a small experiment (`small`). `{work}`,
`{data}` and the names of settings in braces are filled in. Models go to `<work>/<name>/<variant>`,
results to `<results>/<name>/<variant>.json`: what has a result isn't run again, and what was
interrupted goes on. A student's weights are removed once it is measured unless the entry says
`keep: true`.

Results are of one form, whoever made them: an object with "rows", each with recipe, task, seed,
split, metric, value and settings, and "machine" (see `record.Row`, `record.Result`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.experiments.language import LanguageExperiment, run_language
from fhe_inhibitor.experiments.lengths import Lengths, run_lengths
from fhe_inhibitor.experiments.matching import Matching, run_matching
from fhe_inhibitor.experiments.record import RESULT
from fhe_inhibitor.experiments.run import run
from fhe_inhibitor.experiments.settings import Experiment, read_settings
from fhe_inhibitor.experiments.small import OneLayer, Vision, run_one_layer, run_vision
from fhe_inhibitor.system.files import Record, first_problem, read_yaml, write_atomically
from fhe_inhibitor.system.progress import Observer

WEIGHTS = "model*.safetensors"
DISTILLATION = "distillation"
# The settings of each kind of experiment, and what runs one in a folder.
KINDS: dict[str, tuple[type[Record], Callable[..., Any]]] = {
    DISTILLATION: (Experiment, run),
    "language": (LanguageExperiment, run_language),
    "lengths": (Lengths, run_lengths),
    "matching": (Matching, run_matching),
    "one-layer": (OneLayer, run_one_layer),
    "vision": (Vision, run_vision),
}


class Entry(Record):
    """Experiments that differ in the values under `each`. kind: one of `KINDS`."""

    name: str
    kind: str = DISTILLATION
    settings: dict[str, Any] = {}
    each: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    keep: bool = False


class Plan(Record):
    """All experiments, in the order they are run. data: a folder with one folder per task."""

    data: str | None = None
    experiments: list[Entry] = Field(min_length=1)


def read_plan(path: Path) -> Plan:
    """Return a plan. Raises InputError for a file that is none."""
    content = read_yaml(path)
    try:
        return Plan.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path} is no plan of experiments: {first_problem(error)}") from None


def run_plan(
    plan: Plan,
    work: Path,
    results: Path,
    names: list[str] | None = None,
    observer: Observer | None = None,
) -> list[Path]:
    """Run what has no result yet, of these names or of all, and return all results' files.

    observer: gets a note with the name of each experiment, and hears what `run` tells. Raises
    InputError for a name that the plan lacks and for settings that can't be used.
    """
    observer = observer or Observer()
    entries = {entry.name for entry in plan.experiments}
    if unknown := [name for name in names or () if name not in entries]:
        raise InputError(f"the plan has no {unknown[0]!r}; wanted some of {', '.join(entries)}")
    written = []
    for entry in plan.experiments:
        if names and entry.name not in names:
            continue
        for variant, experiment in expand(plan, entry, work):
            observer.note(f"{entry.name} {variant}")
            path = results / entry.name / f"{variant}.json"
            if not path.exists() or (entry.keep and not (work / entry.name / variant).exists()):
                folder = work / entry.name / variant
                KINDS[entry.kind][1](experiment, folder, observer)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, (folder / RESULT).read_bytes())
                if not entry.keep:
                    for weights in folder.glob(WEIGHTS):
                        weights.unlink()
            written.append(path)
    return written


def expand(plan: Plan, entry: Entry, work: Path) -> Iterator[tuple[str, Any]]:
    """Yield name and settings of each experiment of an entry.

    >>> entry = Entry(name="a", settings={"recipe": "aligned", "teacher": "{work}/{task}"},
    ...               each={"task": ["rte"], "seed": [0, 1]})
    >>> [(name, e.teacher) for name, e in expand(Plan(experiments=[entry]), entry, Path("w"))]
    [('rte-0', 'w/rte'), ('rte-1', 'w/rte')]

    Raises InputError for an unknown kind, for settings that it doesn't have, and for braces that
    can't be filled in.
    """
    if entry.kind not in KINDS:
        raise InputError(f"{entry.name} is of kind {entry.kind!r}; wanted {', '.join(KINDS)}")
    for values in itertools.product(*entry.each.values()):
        chosen = dict(zip(entry.each, values, strict=True))
        settings = {**entry.settings, **chosen}
        if plan.data and "data" not in settings and entry.kind == DISTILLATION:
            settings["data"] = f"{plan.data}/{{task}}"
        places = {**settings, "work": str(work)}
        filled = {
            name: _fill_in(value, places) if isinstance(value, str) else value
            for name, value in settings.items()
        }
        variant = "-".join(str(value) for value in values) or "only"
        yield variant, read_settings(KINDS[entry.kind][0], filled)


def _fill_in(text: str, places: dict[str, Any]) -> str:
    try:
        return text.format_map(places)
    except (LookupError, ValueError, AttributeError, TypeError) as error:
        raise InputError(
            f"the braces of {text!r} can't be filled in ({type(error).__name__}: {error}); wanted "
            f"some of {', '.join(f'{{{name}}}' for name in places)}, and {{{{ for a brace"
        ) from error
