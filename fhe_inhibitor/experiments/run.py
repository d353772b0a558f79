"""One experiment: a recipe, a task, a teacher, a seed; everything that decides a student.

An experiment is a YAML or JSON file, or the options of `fhe-inhibitor distill`; `run` makes its
folder: the student and its tokenizer as transformers writes them, journal.jsonl with every
logged loss, and result.json. A call that was interrupted, however rudely, goes on where it
stopped: finished phases are loaded, the current one continues from its last checkpoint.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from pydantic import NonNegativeInt, PositiveInt, ValidationError
from safetensors.torch import load_file, save_file

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.experiments.recipes import TUNING, Recipe, find_recipe
from fhe_inhibitor.model.fake_quantization import quantize
from fhe_inhibitor.model.from_distilbert import from_distilbert
from fhe_inhibitor.model.int8_checkpoint import save_int8
from fhe_inhibitor.system.files import Record, make_folder
from fhe_inhibitor.system.machine import Machine, describe_machine
from fhe_inhibitor.text.alteration import alter
from fhe_inhibitor.text.batches import MAX_TOKENS
from fhe_inhibitor.text.data import read_sentences
from fhe_inhibitor.text.tasks import (
    TRAIN,
    UNKNOWN,
    Example,
    Splits,
    Task,
    find_task,
    hold_out_examples,
    load_task,
)
from fhe_inhibitor.training.alignment import align_layers
from fhe_inhibitor.training.derivation import CALIBRATION_TEXTS, LayerFit, derive
from fhe_inhibitor.training.phases import Journal, Phase, Settings, choose_trained, train_model
from fhe_inhibitor.training.rows import (
    TokenRow,
    encode_examples,
    load_classifier,
    measure_rows,
)
from fhe_inhibitor.training.static_norm import make_static
from fhe_inhibitor.training.teacher import (
    OFFLINE_TEACHER,
    Teacher,
    as_distilbert,
    load_teacher,
)

RESULT, JOURNAL, SETTINGS, WORK = "result.json", "journal.jsonl", "experiment.json", "work"
PACKAGES = ("torch", "transformers", "accelerate")
CONVERSION_TEXTS = 256  # that static norms and ranges are fitted on
OnStep = Callable[[dict[str, Any], int, int], None]


class Experiment(Settings):
    """Everything that decides what `run` makes, but for the folder it is made in.

    data: a folder of TSV files, or None for the hub. text: a file of unlabelled texts, or None
    for the task's own. student: a folder to start from in place of the teacher's weights.
    initial: of gamma, eta and delta; "default" is 1, 1 and the configuration's shift.
    normalization: "static" makes the student's static before its phases begin, and bits
    fake-quantizes its weights and activations (see `fake_quantization`); None is float.
    held_out: examples kept out of train, to stop early by; they are measured too. limit: train
    on so many examples only. phases: changes of the recipe's phases, by their name.
    """

    recipe: str
    task: str
    teacher: str = OFFLINE_TEACHER
    data: str | None = None
    text: str | None = None
    student: str | None = None
    attention_kind: Literal["inhibitor_signed", "inhibitor", "dot_product"] = "inhibitor_signed"
    initial: Literal["derived", "default"] = "derived"
    normalization: Literal["layer_norm", "static"] = "layer_norm"
    bits: Literal[4, 6, 8] | None = None
    learn_thresholds: bool = True
    max_tokens: PositiveInt = MAX_TOKENS
    held_out: NonNegativeInt = 0
    limit: PositiveInt | None = None
    phases: dict[str, dict[str, Any]] = {}

    def changed(self, recipe: Recipe) -> list[Phase]:
        """Return the recipe's phases with this experiment's changes."""
        names = [phase.name for phase in (TUNING, *recipe.phases)]
        if unknown := [name for name in self.phases if name not in names]:
            raise InputError(
                f"phases of {recipe.name} are {', '.join(names)}; there is no {unknown[0]!r}"
            )
        return [self.change(phase) for phase in recipe.phases]

    def change(self, phase: Phase) -> Phase:
        return _validated(Phase, {**phase.model_dump(), **self.phases.get(phase.name, {})})


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


def read_experiment(path: Path | None, changes: dict[str, Any]) -> Experiment:
    """Return the experiment of a YAML or JSON file, with changes that are not None.

    Raises InputError for a file that can't be read and for unknown or impossible values.
    """
    content: Any = {}
    if path is not None:
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(f"{path} is no YAML or JSON file: {error}") from None
        if not isinstance(content, dict):
            raise InputError(f"{path} holds no settings; wanted lines such as `task: sst2`")
    given = {name: value for name, value in changes.items() if value is not None}
    return _validated(Experiment, {**content, **given})


def _validated(kind: Any, content: dict[str, Any]) -> Any:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"setting {where!r}: {first['msg'].lower()}") from None


def run(
    experiment: Experiment, out: str | Path, on_step: OnStep = lambda place, step, steps: None
) -> Result:
    """Make a student in `out` and return what was measured, which lies there as JSON too.

    on_step: gets the place (phase, and layer), the step and the number of steps. Repeated after
    it has finished, it only reads the result. Raises InputError for tasks, recipes, teachers,
    students, data and folders that can't be used, and for a folder of another experiment.
    """
    out = Path(out)
    task, recipe = find_task(experiment.task), find_recipe(experiment.recipe)
    experiment.changed(recipe)
    if not recipe.makes_student and (experiment.bits or experiment.normalization != "layer_norm"):
        raise InputError(
            f"the recipe {recipe.name} makes no student whose bits or normalization could change; "
            f"wanted another recipe, such as converted"
        )
    if find_spec("accelerate") is None:
        raise InputError("distilling needs accelerate; run `pip install 'fhe-inhibitor[train]'`")
    _claim(out, experiment)
    if (out / RESULT).exists():
        return Result.model_validate_json((out / RESULT).read_text())
    return _Run(experiment, task, recipe, out, on_step).run()


def _claim(out: Path, experiment: Experiment) -> None:
    """Write the settings to a new folder, or check that it is this experiment's."""
    path = out / SETTINGS
    if path.exists():
        other = json.loads(path.read_text())
        now = experiment.model_dump(mode="json")
        changed = [name for name in now if other.get(name) != now[name]]
        if changed:
            raise InputError(
                f"{out} is the folder of another experiment: {changed[0]} was "
                f"{other.get(changed[0])!r}, now {now[changed[0]]!r}; name another --out"
            )
    elif out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty and holds no experiment; name another --out")
    make_folder(out)
    path.write_text(experiment.model_dump_json(indent=1) + "\n")


class _Run:
    """The parts of one run, in order."""

    def __init__(
        self, experiment: Experiment, task: Task, recipe: Recipe, out: Path, on_step: OnStep
    ) -> None:
        self.experiment, self.task, self.recipe, self.out = experiment, task, recipe, out
        self.on_step, self.work = on_step, out / WORK
        self.phase_s: dict[str, float] = {}
        self.initial: list[LayerFit] = []
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.splits: Splits = {}
        self.held_out: list[TokenRow] = []

    def run(self) -> Result:
        self.work.mkdir(exist_ok=True)
        torch.manual_seed(self.experiment.seed)
        teacher = as_distilbert(
            load_teacher(self.experiment.teacher, self.task.n_labels, may_be_untuned=True)
        )
        self._load(teacher)
        self._check_inputs(teacher)
        teacher = self._tuned(teacher) if self.recipe.tuned_teacher else teacher
        model = teacher.model
        if self.recipe.makes_student:
            model = self._student(teacher)
            reference = from_distilbert(teacher.model, "dot_product").to(self.device)
            reference.requires_grad_(False)
            for phase in self.experiment.changed(self.recipe):
                self._phase(phase, model, reference, teacher)
        rows = self._measure(model, teacher)
        if self.experiment.bits:
            save_int8(model, self.out)
        else:
            model.save_pretrained(self.out)
        teacher.tokenizer.save_pretrained(self.out)
        result = Result(
            experiment=self.experiment,
            machine=describe_machine(PACKAGES),
            rows=rows,
            initial=[asdict(fit) for fit in self.initial],
            layers=self._layers(),
            phase_s=self.phase_s,
            peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )
        (self.out / RESULT).write_text(result.model_dump_json(indent=1) + "\n")
        shutil.rmtree(self.work)
        return result

    def _load(self, teacher: Teacher) -> None:
        experiment = self.experiment
        self.splits = load_task(self.task, experiment.data)
        if experiment.held_out:
            train, held_out = hold_out_examples(self.task, self.splits[TRAIN], experiment.held_out)
            self.splits = {**self.splits, TRAIN: train, "held_out": held_out}
            self.held_out = self._encode(teacher, held_out)
        if experiment.limit:
            drawn = random.Random(0).sample(self.splits[TRAIN], len(self.splits[TRAIN]))
            self.splits[TRAIN] = drawn[: experiment.limit]

    def _check_inputs(self, teacher: Teacher) -> None:
        """Refuse to go on from checkpoints of another teacher's student, or on other data."""
        sums = {
            "teacher": _checksum(w.cpu().numpy().data for w in teacher.model.state_dict().values()),
            "data": _checksum(repr(example).encode() for example in self.splits[TRAIN]),
        }
        path = self.work / "inputs.json"
        if path.exists() and (before := json.loads(path.read_text())) != sums:
            changed = [name for name in sums if before.get(name) != sums[name]]
            raise InputError(
                f"{self.out} has checkpoints of another model: its {changed[0]} changed since "
                f"they were written; remove the folder or name another --out"
            )
        path.write_text(json.dumps(sums))

    def _tuned(self, teacher: Teacher) -> Teacher:
        """Return the teacher fine-tuned on the task, if it isn't yet or nothing else is asked."""
        if teacher.is_tuned and self.recipe.makes_student:
            return teacher
        model: Any = teacher.model.to(self.device)
        phase = self.experiment.change(TUNING)
        self._phase(phase, model, None, teacher)
        return Teacher(model.eval(), teacher.tokenizer)

    def _student(self, teacher: Teacher) -> Any:
        experiment = self.experiment
        if experiment.student:
            student = _load_student(experiment, self.task, teacher).to(self.device)
        else:
            student = from_distilbert(teacher.model, experiment.attention_kind).to(self.device)
            if experiment.initial == "derived":
                self.initial = derive(student, self._drawn(teacher, CALIBRATION_TEXTS))
        if experiment.normalization == "static":
            make_static(student, self._drawn(teacher, CONVERSION_TEXTS))
        if experiment.bits:
            quantize(student, experiment.bits, self._drawn(teacher, CONVERSION_TEXTS))
        return student

    def _drawn(self, teacher: Teacher, n_texts: int) -> list[list[int]]:
        """Token ids of some of the texts to train on, the same ones for any seed."""
        examples = self.splits[TRAIN]
        drawn = random.Random(0).sample(examples, min(n_texts, len(examples)))
        return [row.ids for row in self._encode(teacher, drawn)]

    def _phase(self, phase: Phase, model: Any, reference: Any, teacher: Teacher) -> None:
        """Run a phase, or load what it ended with."""
        done = self.work / f"{phase.name}.safetensors"
        if phase.max_steps == 0:
            return
        if done.exists():
            saved = load_file(done)
            self.phase_s[phase.name] = float(saved.pop("seconds"))
            model.load_state_dict(saved)
            model.eval()
            return
        start = time.monotonic()
        folder, settings = self.work / phase.name, self.experiment
        rows = self._rows(phase, teacher)
        learn = self.experiment.learn_thresholds
        if phase.trains == "layers":
            align_layers(
                model, reference, phase, settings, rows, folder,
                lambda layer: self._journal(phase=phase.name, layer=layer), learn,
            )  # fmt: skip
        else:
            choose_trained(model, learn)
            train_model(
                model, reference, phase, settings, rows, folder,
                self._journal(phase=phase.name), self.task, self.held_out,
            )  # fmt: skip
        model.eval()
        self.phase_s[phase.name] = round(time.monotonic() - start, 1)
        seconds = torch.tensor(self.phase_s[phase.name])
        partial = done.with_suffix(".partial")
        save_file({**model.state_dict(), "seconds": seconds}, partial)
        partial.rename(done)
        shutil.rmtree(folder, ignore_errors=True)

    def _rows(self, phase: Phase, teacher: Teacher) -> list[TokenRow]:
        """Return what a phase reads, no more of it than its steps need."""
        examples: Sequence[Example] = self.splits[TRAIN]
        if phase.reads == "text" and self.experiment.text:
            examples = [Example((text,), UNKNOWN) for text in read_sentences(self.experiment.text)]
        needed = phase.steps(len(examples)) * phase.batch_size
        if len(examples) > needed:
            examples = random.Random(self.experiment.seed).sample(list(examples), needed)
        if phase.augmented:
            examples = [
                *examples, *alter(examples, phase.augmented, self.experiment.seed)
            ]  # fmt: skip
        return self._encode(teacher, examples)

    def _journal(self, **place: Any) -> Journal:
        return Journal(self.out / JOURNAL, place, self.on_step)

    def _encode(self, teacher: Teacher, examples: Sequence[Example]) -> list[TokenRow]:
        return encode_examples(teacher.tokenizer, examples, self.experiment.max_tokens)

    def _measure(self, model: Any, teacher: Teacher) -> list[Row]:
        """The task's metrics on every split but train: of the student, and of its teacher."""
        measured = {self.recipe.name: model}
        if self.recipe.tuned_teacher and self.recipe.makes_student:
            measured["teacher"] = teacher.model.to(self.device)
        return [
            Row(
                recipe=name,
                task=self.task.name,
                seed=0 if name == "teacher" else self.experiment.seed,
                metric=metric,
                value=value,
                split=split,
                settings={} if name == "teacher" else self._settings(model),
            )
            for name, measured_model in measured.items()
            for split, examples in self.splits.items()
            if split != TRAIN
            for metric, value in measure_rows(
                measured_model, self.task, self._encode(teacher, examples)
            ).items()
        ]

    def _layers(self) -> list[dict[str, Any]]:
        path = self.out / JOURNAL
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        kept = ("layer", "step", "loss", "held_out")
        return [{k: row[k] for k in kept if k in row} for row in rows if "layer" in row]

    def _settings(self, model: Any) -> dict[str, Any]:
        """What tells the student's rows apart; of a float one with LayerNorm neither is named."""
        experiment = self.experiment
        names = ("initial", "learn_thresholds")
        settings = {name: getattr(experiment, name) for name in names}
        settings["attention_kind"] = model.config.attention_kind  # of the student that was named
        if experiment.normalization != "layer_norm":
            settings["normalization"] = experiment.normalization
        return {**settings, "bits": experiment.bits} if experiment.bits else settings


def _checksum(parts: Iterable[Any]) -> int:
    total = 0
    for part in parts:
        total = zlib.crc32(part, total)
    return total


def _load_student(experiment: Experiment, task: Task, teacher: Teacher) -> Any:
    """Load a student to go on with; it has to have its teacher's shape."""
    assert experiment.student is not None
    student: Any = load_classifier(experiment.student, task)[0]
    for field in ("vocab_size", "dim", "n_layers"):
        own, other = (getattr(model.config, field, None) for model in (student, teacher.model))
        if own != other:
            raise InputError(
                f"the student {experiment.student!r} has {field} {own}, the teacher {other}; "
                f"a student's hidden states are compared with its teacher's: shapes must match"
            )
    return student
