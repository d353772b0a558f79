"""One experiment: a recipe, a task, a teacher, a seed; everything that decides a student.

An experiment is a YAML or JSON file, or the options of `fhe-inhibitor distill`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import (
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.experiments.recipes import TUNING, DistillationRecipe, find_recipe
from fhe_inhibitor.system.files import read_yaml
from fhe_inhibitor.text.batches import MAX_TOKENS
from fhe_inhibitor.text.tasks import OWN, Task, find_task, own_task
from fhe_inhibitor.training.phases import Phase, TrainingSettings
from fhe_inhibitor.training.teacher import OFFLINE_TEACHER


class Experiment(TrainingSettings):
    """Everything that decides what `run` makes, but for the folder it is made in.

    labels: names of the classes 0, 1, ... in texts of one's own, whose task is `own`; None for the
    task's. data: a folder of TSV files, or None for the hub. text: a file of unlabelled texts, or
    None for the task's own. joined: how many of its sentences are one example at most, drawn by the
    seed; two or more are a pair. With 1, each is an example by itself. student: a folder to start
    from in place of the teacher's weights. initial: of gamma, eta and delta; "default" is 1, 1 and
    the configuration's shift, and "derived" reads texts of the task, or joined sentences if joined
    is more than 1 and the recipe's first phase reads "text".
    normalization: "static" makes the student's static before its phases begin, and bits
    fake-quantizes its weights and activations (see `fake_quantization`); None is float.
    held_out: examples kept out of train, to stop early by; they are measured too. limit: train
    on so many examples only. phases: changes of the recipe's phases, by their name.
    """

    recipe: str
    task: str
    labels: tuple[str, ...] | None = None
    teacher: str = OFFLINE_TEACHER
    data: str | None = None
    text: str | None = None
    joined: PositiveInt = 1
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

    @model_validator(mode="before")
    @classmethod
    def _name_own_task(cls, content: Any) -> Any:
        """Whoever names labels need not name the task."""
        if isinstance(content, dict) and content.get("labels") is not None:
            return {"task": OWN, **content}
        return content

    @field_validator("joined")
    @classmethod
    def _have_text_to_join(cls, joined: int, others: ValidationInfo) -> int:
        if joined > 1 and not others.data.get("text"):
            raise ValueError(f"{joined} joined sentences need a file of them, as text")
        return joined

    def chosen_task(self) -> Task:
        """Return the task. Raises InputError for an unknown one, and for one with other labels."""
        if self.labels is None:
            return find_task(self.task)
        if self.task != OWN:
            raise InputError(
                f"the task {self.task} has labels of its own: drop the labels "
                f"{', '.join(self.labels)}, or the task"
            )
        return own_task(self.labels)

    def changed_recipe(self) -> DistillationRecipe:
        """Return the recipe with this experiment's changes of its phases.

        Raises InputError for an unknown recipe, and for settings that it can't use.
        """
        recipe = find_recipe(self.recipe)
        names = [phase.name for phase in (TUNING, *recipe.phases)]
        if unknown := [name for name in self.phases if name not in names]:
            raise InputError(
                f"phases of {recipe.name} are {', '.join(names)}; there is no {unknown[0]!r}"
            )
        if not recipe.makes_student and (self.bits or self.normalization != "layer_norm"):
            raise InputError(
                f"the recipe {recipe.name} makes no student whose bits or normalization could "
                f"change; wanted another recipe, such as converted"
            )
        phases = tuple(self.changed(phase) for phase in recipe.phases)
        return recipe.model_copy(update={"phases": phases})

    def changed(self, phase: Phase) -> Phase:
        """Return a phase of the recipe with this experiment's changes."""
        return read_settings(Phase, {**phase.model_dump(), **self.phases.get(phase.name, {})})


def read_experiment(path: Path | None, changes: dict[str, Any]) -> Experiment:
    """Return the experiment of a YAML or JSON file, with changes that are not None.

    Raises InputError for a file that can't be read and for unknown or impossible values.
    """
    content: Any = {}
    if path is not None:
        content = read_yaml(path)
        if not isinstance(content, dict):
            raise InputError(f"{path} holds no settings; wanted lines such as `task: sst2`")
    given = {name: value for name, value in changes.items() if value is not None}
    return read_settings(Experiment, {**content, **given})


def read_settings(kind: Any, content: dict[str, Any]) -> Any:
    """Return a record of settings. Raises InputError that names what is unknown or impossible."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        said = first["msg"].lower().removeprefix("value error, ")
        raise InputError(f"setting {where!r}: {said}") from None
