"""The recipes of `fhe-inhibitor distill`: which phases, on what, against which teacher.

    teacher          no student: the teacher itself, fine-tuned on the task
    task-agnostic    a published recipe, E1
    task-specific    a published recipe, E2
    aligned          ours
    converted        a student with static norms or of few bits, changed after its training
    retrained        the same, then trained for 600 steps more

E0, E1 and E2 are the experiments of Zhang & Brännvall 2025 (arXiv 2503.15983). E0 is the fine-tuned
teacher, with which the students are compared. E1 distils a pretrained teacher on any text, first
the attention of one layer at a time, then all hidden states, and learns the task last, from labels.
E2 distils a teacher that was fine-tuned on the task, on the task's texts alone: it trains all
weights at once, on the teacher's hidden states and probabilities.

E2 can only afford a small learning rate, because it starts from trained weights; so its lower
layers hardly move, although their attention is the furthest from the teacher's. `aligned` takes
from each what works. Like E2 it needs nothing but the task and its fine-tuned teacher. Like E1 it
first aligns the attention of one layer at a time, with a larger learning rate. But its teacher
knows the task, so what a layer learns is what the task needs, and no later phase has to unlearn it.
Then all layers learn from the teacher's hidden states and probabilities, on the task's texts and
altered copies. Hidden states have a large weight, so that lower layers go on learning.

`converted` and `retrained` start from a student that another recipe made (the setting `student`;
without it, from the teacher's weights) and change what the settings `normalization` and `bits` say.
Retraining uses the losses of E2, so that it mends what the change broke and doesn't learn another
network.

Numbers are for two processor cores; an experiment's file can set each of them.
"""

from __future__ import annotations

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.system.files import Record
from fhe_inhibitor.training.phases import Phase


class DistillationRecipe(Record):
    """Phases in order. tuned_teacher: the teacher is fine-tuned on the task before they begin.

    makes_student: False if the teacher is all that it makes.
    """

    name: str
    phases: tuple[Phase, ...]
    tuned_teacher: bool
    makes_student: bool = True


TEACHER = DistillationRecipe(name="teacher", tuned_teacher=True, phases=(), makes_student=False)
# How a teacher that knows the language only is fine-tuned, in any recipe.
TUNING = Phase(name="teacher", hard=1, epochs=3, min_steps=1500, learning_rate=5e-5)

LAYERS = Phase(
    name="layers",
    reads="text",
    trains="layers",
    epochs=3,
    min_steps=400,
    max_steps=600,
    learning_rate=3e-4,
)

TASK_AGNOSTIC = DistillationRecipe(
    name="task-agnostic",
    tuned_teacher=False,
    phases=(
        LAYERS,
        Phase(
            name="hidden",
            reads="text",
            hidden=1,
            epochs=3,
            min_steps=1000,
            max_steps=2500,
            learning_rate=3e-4,
        ),
        Phase(name="task", hard=1, epochs=3, min_steps=1500, learning_rate=5e-5),
    ),
)

TASK_SPECIFIC = DistillationRecipe(
    name="task-specific",
    tuned_teacher=True,
    phases=(Phase(name="task", hidden=1, soft=1, epochs=3, min_steps=1500, learning_rate=5e-5),),
)

ALIGNED = DistillationRecipe(
    name="aligned",
    tuned_teacher=True,
    phases=(
        LAYERS,
        Phase(
            name="task",
            hidden=5,
            soft=1,
            hard=0.3,
            epochs=3,
            min_steps=1500,
            max_steps=6000,
            learning_rate=2e-4,
            augmented=1,
        ),
    ),
)

CONVERTED = DistillationRecipe(name="converted", tuned_teacher=True, phases=())

RETRAINED = DistillationRecipe(
    name="retrained",
    tuned_teacher=True,
    phases=(
        Phase(name="retrain", hidden=1, soft=1, min_steps=600, max_steps=600, learning_rate=5e-5),
    ),
)

RECIPES = {
    recipe.name: recipe
    for recipe in (TEACHER, TASK_AGNOSTIC, TASK_SPECIFIC, ALIGNED, CONVERTED, RETRAINED)
}


def find_recipe(name: str) -> DistillationRecipe:
    """Return a recipe by name. Raises InputError for an unknown one."""
    if name not in RECIPES:
        raise InputError(f"no recipe {name!r}; wanted one of {', '.join(RECIPES)}")
    return RECIPES[name]
