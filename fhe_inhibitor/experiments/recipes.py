"""The recipes of `fhe-inhibitor distill`: which phases, on what, against which teacher.

    teacher          the teacher itself, fine-tuned: E0, and the --teacher of the others
    task-agnostic    E1 of Zhang & Brännvall 2025 (arXiv 2503.15983)
    task-specific    E2 of the same
    aligned          ours
    converted        a student as it is, or with static norms or of few bits: after training
    retrained        the same, then trained for 600 steps more: in training

E1 teaches attention on any text to speak like the pretrained teacher's and learns the task last.
E2 has the task's texts alone and changes everything at once, at the small learning rate that a
network of trained weights stands; its lower layers, whose attention is the furthest from the
teacher's, hardly move. `aligned` takes from each what works. Like E2 it needs nothing but the
task and its fine-tuned teacher. Like E1 it first aligns the attention of one layer at a time,
which stands a larger rate, but with the teacher that knows the task: what a layer learns is what
this task needs, and no later phase has to unlearn it. Then all layers follow the teacher's hidden
states (weighted up, so that lower layers go on learning) and probabilities, on the task's texts
and altered copies, which the teacher labels too.

The last two start from a student that another recipe made (`student`; without one, from the
teacher's weights, which are the dot-product student), and change what the experiment's
`normalization` and `bits` say. Retraining follows the fine-tuned teacher's hidden states and
probabilities like E2, so that it mends what the change broke and doesn't learn another network.

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
    attention=1,
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
