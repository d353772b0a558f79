"""Running one experiment: its folder holds the student, its tokenizer and what was measured.

A call that was interrupted, however rudely, goes on where it stopped: finished phases are
loaded, the current one continues from its last checkpoint.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.experiments.data import ExperimentData, load_data
from fhe_inhibitor.experiments.phases import Phases
from fhe_inhibitor.experiments.recipes import TUNING, DistillationRecipe
from fhe_inhibitor.experiments.record import (
    RESULT,
    WORK,
    Result,
    Row,
    check_folder,
    check_inputs,
    claim_folder,
    read_layers,
)
from fhe_inhibitor.experiments.settings import Experiment
from fhe_inhibitor.model.fake_quantization import quantize
from fhe_inhibitor.model.from_distilbert import from_distilbert
from fhe_inhibitor.model.int8_checkpoint import save_int8
from fhe_inhibitor.model.loading import load_model, name_labels
from fhe_inhibitor.system.extras import install_command
from fhe_inhibitor.system.files import write_atomically
from fhe_inhibitor.system.machine import describe_machine, peak_memory_bytes
from fhe_inhibitor.system.processor import fastest_device
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.text.data import read_sentences
from fhe_inhibitor.text.tasks import TRAIN, Task
from fhe_inhibitor.training.derivation import CALIBRATION_TEXTS, LayerFit, derive
from fhe_inhibitor.training.rows import measure_rows
from fhe_inhibitor.training.static_norm import make_static
from fhe_inhibitor.training.teacher import Teacher, as_distilbert, load_teacher

PACKAGES = ("torch", "transformers", "accelerate")
CONVERSION_TEXTS = 256  # that static norms and ranges are fitted on


def run(experiment: Experiment, out: str | Path, observer: Observer | None = None) -> Result:
    """Make a student in `out` and return what was measured, which lies there as JSON too.

    observer: hears of each phase, and of each layer where one is trained at a time, how many
    steps it has and when they are done. Repeated after it has finished, `run` only reads the
    result. Raises InputError for tasks, recipes, teachers, students, data and folders that can't
    be used, and for a folder of another experiment.
    """
    out = Path(out)
    task, recipe = experiment.chosen_task(), experiment.changed_recipe()
    if find_spec("accelerate") is None:
        raise InputError(f"distilling needs accelerate: {install_command('train')}")
    check_folder(out, experiment)
    if (out / RESULT).exists():
        return Result.model_validate_json((out / RESULT).read_text())
    torch.manual_seed(experiment.seed)
    teacher = as_distilbert(load_teacher(experiment.teacher, task.labels, may_be_untuned=True))
    data = load_data(experiment, task, teacher.tokenizer)
    models: dict[str, Any] = {"teacher": teacher.model}
    texts: dict[str, Iterable[Any]] = {"data": data.splits[TRAIN]}
    # What phases read later is read here already: what is refused must leave no claimed folder.
    if experiment.student:
        models["student"] = _load_student(experiment.student, task, recipe, teacher)
    if experiment.text:
        texts["text"] = read_sentences(experiment.text)
    claim_folder(out, experiment)
    (out / WORK).mkdir(exist_ok=True)
    check_inputs(out, models, texts)
    phases = Phases(data, task, out, observer or Observer())
    result = _train(experiment, recipe, teacher, phases)
    write_atomically(out / RESULT, result.model_dump_json(indent=1) + "\n")
    shutil.rmtree(out / WORK)
    return result


def _train(
    experiment: Experiment, recipe: DistillationRecipe, teacher: Teacher, phases: Phases
) -> Result:
    """Run all phases, save the student (or the teacher, if a recipe makes nothing else)."""
    device = fastest_device()
    tunes = recipe.tuned_teacher and not (teacher.is_tuned and recipe.makes_student)
    if tunes:
        model: Any = teacher.model.to(device)
        phases.run(experiment.changed(TUNING), model)
        teacher = Teacher(model.eval(), teacher.tokenizer)
    model, fits = teacher.model, list[LayerFit]()
    if recipe.makes_student:
        model, fits = _make_student(phases.data, phases.task, recipe, teacher, device)
        reference = from_distilbert(teacher.model).to(device).requires_grad_(False)
        for phase in recipe.phases:
            phases.run(phase, model, reference)
    measured = {recipe.name: model}
    if recipe.tuned_teacher and recipe.makes_student:
        measured["teacher"] = teacher.model.to(device)
    rows = _measure(measured, phases.data, phases.task, experiment.seed if tunes else 0)
    if experiment.bits:
        save_int8(model, phases.out)
    else:
        model.save_pretrained(phases.out)
    teacher.tokenizer.save_pretrained(phases.out)
    return Result(
        experiment=experiment,
        machine=describe_machine(PACKAGES),
        rows=rows,
        initial=[asdict(fit) for fit in fits],
        layers=read_layers(phases.out),
        phase_s=phases.seconds,
        peak_memory_bytes=peak_memory_bytes(),
    )


def _make_student(
    data: ExperimentData,
    task: Task,
    recipe: DistillationRecipe,
    teacher: Teacher,
    device: torch.device,
) -> tuple[Any, list[LayerFit]]:
    """Return the student before its phases, and each layer's error if it was derived."""
    experiment, fits = data.experiment, list[LayerFit]()
    if experiment.student:
        student = _load_student(experiment.student, task, recipe, teacher).to(device)
    else:
        student = from_distilbert(teacher.model, experiment.attention_kind).to(device)
        if experiment.initial == "derived":
            fits = derive(student, data.derivation_ids(recipe.phases, CALIBRATION_TEXTS))
    if experiment.normalization == "static":
        make_static(student, data.calibration_ids(CONVERSION_TEXTS))
    if experiment.bits:
        quantize(student, experiment.bits, data.calibration_ids(CONVERSION_TEXTS))
    return student, fits


def _load_student(name: str, task: Task, recipe: DistillationRecipe, teacher: Teacher) -> Any:
    """Load a student to go on with; it has to have its teacher's shape.

    A recipe that learns the task last takes one of another task too, with the teacher's classifier.
    """
    student: Any = load_model(name).model
    try:
        name_labels(student.config, task.labels, name)
    except InputError:
        if recipe.tuned_teacher:
            raise
        whole = from_distilbert(teacher.model)
        student.pre_classifier, student.classifier = whole.pre_classifier, whole.classifier
        student.config.id2label, student.num_labels = whole.config.id2label, whole.num_labels
        student.config.label2id = whole.config.label2id
    for field in ("vocab_size", "dim", "n_layers", "head_activation"):
        own, other = (
            getattr(model.config, field, "relu" if field == "head_activation" else None)
            for model in (student, teacher.model)
        )
        if own != other:
            raise InputError(
                f"the student {name!r} has {field} {own}, the teacher {other}; "
                f"a student's hidden states are compared with its teacher's: shapes must match"
            )
    return student


def _measure(
    models: dict[str, Any], data: ExperimentData, task: Task, teacher_seed: int
) -> list[Row]:
    """Return the task's metrics of each model on every split but train.

    teacher_seed: that the teacher was fine-tuned with here. One that came fine-tuned is the same
    for all seeds, and has 0.
    """
    experiment = data.experiment
    return [
        Row(
            recipe=name,
            task=task.name,
            seed=teacher_seed if name == "teacher" else experiment.seed,
            metric=metric,
            value=value,
            split=split,
            settings={} if name == "teacher" else _describe(experiment, model),
        )
        for name, model in models.items()
        for split in data.splits
        if split != TRAIN
        for metric, value in measure_rows(model, task, data.encode(split)).items()
    ]


def _describe(experiment: Experiment, student: Any) -> dict[str, Any]:
    """Return what tells the student's rows apart; of most settings only if they aren't default."""
    names = ("initial", "learn_thresholds")
    settings = {name: getattr(experiment, name) for name in names}
    settings["attention_kind"] = student.config.attention_kind  # of the student that was named
    if experiment.normalization != "layer_norm":
        settings["normalization"] = experiment.normalization
    if experiment.joined > 1:
        settings["joined"] = experiment.joined
    return {**settings, "bits": experiment.bits} if experiment.bits else settings
