"""The recipes of `fhe-inhibitor distill`: which phases, on what, against which teacher.

Two are published (Zhang & Braennvall 2025, arXiv 2503.15983), one is ours, and one makes the
teacher that they are compared with. Numbers are for two processor cores; an experiment's file can
set each of them.
"""

from __future__ import annotations

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.measurements import Record
from fhe_inhibitor.phases import Phase


class Recipe(Record):
    """Phases in order. tuned_teacher: the teacher is fine-tuned on the task before they begin."""

    name: str
    phases: tuple[Phase, ...]
    tuned_teacher: bool


# E0: the teacher by itself, labels only. Its checkpoint serves the others as --teacher.
TEACHER = Recipe(
    name="teacher",
    tuned_teacher=True,
    phases=(),
)
TUNING = Phase(name="teacher", hard=1, epochs=3, min_steps=300, learning_rate=5e-5)

# E1: attention learns to speak like the pretrained teacher's, on any text; then the task.
TASK_AGNOSTIC = Recipe(
    name="task-agnostic",
    tuned_teacher=False,
    phases=(
        Phase(
            name="layers",
            reads="text",
            trains="layers",
            attention=1,
            epochs=3,
            min_steps=400,
            max_steps=600,
            learning_rate=1e-3,
        ),
        Phase(
            name="hidden",
            reads="text",
            hidden=1,
            epochs=3,
            min_steps=1000,
            max_steps=2500,
            learning_rate=3e-4,
        ),
        Phase(name="task", hard=1, epochs=3, min_steps=300, learning_rate=5e-5),
    ),
)

# E2: the fine-tuned teacher's probabilities and hidden states, on the task's texts alone.
TASK_SPECIFIC = Recipe(
    name="task-specific",
    tuned_teacher=True,
    phases=(Phase(name="task", hidden=1, soft=1, epochs=3, min_steps=300, learning_rate=5e-5),),
)

# Ours.
GRADUAL = Recipe(
    name="gradual",
    tuned_teacher=True,
    phases=(
        Phase(
            name="layers",
            reads="text",
            trains="layers",
            attention=1,
            epochs=3,
            min_steps=300,
            max_steps=400,
            learning_rate=1e-3,
        ),
        Phase(
            name="task",
            hidden=1,
            soft=1,
            hard=0.3,
            epochs=3,
            min_steps=1500,
            learning_rate=1e-4,
            augmented=3,
        ),
    ),
)

RECIPES = {recipe.name: recipe for recipe in (TEACHER, TASK_AGNOSTIC, TASK_SPECIFIC, GRADUAL)}


def find_recipe(name: str) -> Recipe:
    """Return a recipe by name. Raises InputError for an unknown one."""
    if name not in RECIPES:
        raise InputError(f"no recipe {name!r}; wanted one of {', '.join(RECIPES)}")
    return RECIPES[name]
