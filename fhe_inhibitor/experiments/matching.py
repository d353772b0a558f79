"""Whether a network can learn to compare two texts, from so many labelled pairs.

Pairs are made from a file of sentences, each of them in one pair only. The first text is two
sentences. The second one repeats either of them, and in half of the pairs something in it is
exchanged: one word for a word of a third sentence, or all of it for the third sentence. To tell the
two classes apart is to look up the words of one text in the other. All learn from the same pairs,
and are measured on others:

    teacher          fine-tuned on the labels
    task-agnostic    a student that was distilled on other texts, fine-tuned as its teacher is (E1)
    aligned          a student distilled on the pairs, from the teacher that was fine-tuned on them
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.experiments.record import RESULT, WORK, Row
from fhe_inhibitor.experiments.run import PACKAGES, run
from fhe_inhibitor.experiments.settings import Experiment
from fhe_inhibitor.system.files import Record, make_folder, write_atomically
from fhe_inhibitor.system.machine import Machine, describe_machine
from fhe_inhibitor.system.progress import Observer
from fhe_inhibitor.text.data import read_sentences
from fhe_inhibitor.text.tasks import Example, find_task
from fhe_inhibitor.training.teacher import OFFLINE_TEACHER

FORM = "rte"  # the task whose files the pairs have: 0 repeats the first text, 1 does not
PAIRS, FILES = "pairs", ("train.tsv", "dev.tsv")
SENTENCE_WORDS = range(8, 21)
EXCHANGED_LETTERS = 4  # that a word has at least; shorter ones are often in both texts

Exchanged = Literal["word", "sentence"]


class Matching(Record):
    """Settings of one comparison.

    text: a file of sentences. student: a folder of one that was distilled from the teacher.
    exchanged: in half of the pairs. n_pairs: to learn from. n_measured: other ones. steps: of
    fine-tuning, at learning_rate. layer_steps: of each layer of `aligned`. aligned_steps: of all
    its layers together, after that; 0 leaves `aligned` out.
    """

    text: str
    student: str
    teacher: str = OFFLINE_TEACHER
    exchanged: Exchanged = "word"
    n_pairs: Annotated[int, Field(ge=2)] = 2490
    n_measured: Annotated[int, Field(ge=2)] = 1000
    steps: PositiveInt = 250
    learning_rate: PositiveFloat = 1e-4
    layer_steps: PositiveInt = 150
    aligned_steps: NonNegativeInt = 0
    seed: int = 0

    def learners(self, work: Path) -> list[Experiment]:
        """Return the experiments in which each learns the pairs, in `work`, in this order."""
        tuning = {**_exactly(self.steps), "learning_rate": self.learning_rate}
        skipped = {"max_steps": 0}
        shared: dict[str, Any] = {"task": FORM, "data": str(work / PAIRS), "seed": self.seed}
        given = {"teacher": self.teacher, **shared}
        found = [
            Experiment(recipe="teacher", phases={"teacher": tuning}, **given),
            Experiment(
                recipe="task-agnostic", student=self.student,
                phases={"layers": skipped, "hidden": skipped, "task": tuning}, **given,
            ),
        ]  # fmt: skip
        if self.aligned_steps:
            phases = {"layers": _exactly(self.layer_steps), "task": _exactly(self.aligned_steps)}
            tuned = str(work / "teacher")
            found.append(Experiment(recipe="aligned", phases=phases, teacher=tuned, **shared))
        return found


class MatchingResult(Record):
    """What was measured. seconds: of each network's training."""

    experiment: Matching
    machine: Machine
    rows: list[Row]
    seconds: dict[str, float]


def run_matching(
    experiment: Matching, out: Path, observer: Observer | None = None
) -> MatchingResult:
    """Let all learn the pairs and measure them; the result lies in `out` as JSON too.

    An interrupted call goes on where it stopped. Raises InputError for text, teachers and students
    that can't be used.
    """
    n_pairs = experiment.n_pairs + experiment.n_measured
    pairs = make_pairs(
        read_sentences(experiment.text), experiment.exchanged, n_pairs, experiment.seed
    )
    work = out / WORK
    make_folder(work / PAIRS)
    parts = pairs[: experiment.n_pairs], pairs[experiment.n_pairs :]
    for name, chosen in zip(FILES, parts, strict=True):
        _write(work / PAIRS / name, chosen)
    rows, seconds = list[Row](), dict[str, float]()
    for learner in experiment.learners(work):
        learned = run(learner, work / learner.recipe, observer)
        seconds[learner.recipe] = sum(learned.phase_s.values())
        rows += [
            row.model_copy(
                update={
                    "task": f"one {experiment.exchanged} exchanged",
                    "seed": experiment.seed,
                    "settings": {"pairs": experiment.n_pairs},
                }
            )
            for row in learned.rows
            if row.recipe == learner.recipe
        ]
    result = MatchingResult(
        experiment=experiment, machine=describe_machine(PACKAGES), rows=rows, seconds=seconds
    )
    write_atomically(out / RESULT, result.model_dump_json(indent=1) + "\n")
    shutil.rmtree(work)
    return result


def make_pairs(
    sentences: Sequence[str], exchanged: Exchanged, n_pairs: int, seed: int
) -> list[Example]:
    """Return pairs, every other one of which has something exchanged (label 1, otherwise 0).

    Raises InputError if the sentences of `SENTENCE_WORDS` words are too few.

    >>> animals = ("horses", "cats", "dogs")
    >>> sentences = [f"in the old days {name} slept near the fire" for name in animals]
    >>> make_pairs(sentences, "word", 1, seed=0)[0].texts[1] in sentences
    True
    """
    random_ = random.Random(seed)
    left = [text for text in dict.fromkeys(sentences) if len(text.split()) in SENTENCE_WORDS]
    n_sentences, pairs = len(left), list[Example]()
    random_.shuffle(left)
    while len(pairs) < n_pairs:
        if len(left) < 3:
            raise InputError(
                f"{n_pairs} pairs take {3 * n_pairs} different sentences of {SENTENCE_WORDS[0]} "
                f"to {SENTENCE_WORDS[-1]} words; the text has {n_sentences}"
            )
        *both, third = (left.pop() for _ in range(3))
        first, repeated = " ".join(both), random_.choice(both)
        label = len(pairs) % 2
        second: str | None = repeated
        if label:
            second = (
                third if exchanged == "sentence" else _exchange(repeated, third, first, random_)
            )
        if second is not None:
            pairs.append(Example((first, second), label))
    return pairs


def _exactly(steps: int) -> dict[str, int]:
    return {"min_steps": steps, "max_steps": steps}


def _exchange(text: str, other: str, first: str, random_: random.Random) -> str | None:
    """Exchange a long word for one of `other` that isn't in `first`; None where there is none."""
    words = text.split()
    places = [place for place, word in enumerate(words) if len(word) >= EXCHANGED_LETTERS]
    known = set(first.split())
    new = [word for word in other.split() if len(word) >= EXCHANGED_LETTERS and word not in known]
    if not places or not new:
        return None
    words[random_.choice(places)] = random_.choice(new)
    return " ".join(words)


def _write(path: Path, pairs: Sequence[Example]) -> None:
    lines = ["\t".join(("label", *find_task(FORM).columns))]
    lines += ["\t".join((f"{pair.label:g}", *pair.texts)) for pair in pairs]
    write_atomically(path, "\n".join(lines) + "\n")
