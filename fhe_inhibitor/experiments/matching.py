"""Whether a network can learn to compare two texts, from so many labelled pairs.

Pairs are made from a file of sentences, each of them in one pair only. The first text is two
sentences. The second one repeats either of them, and in half of the pairs something in it is
exchanged: one word for a word of a third sentence, or all of it for the third sentence. To tell the
two classes apart is to look up the words of one text in the other. Teacher and student learn from
the same pairs, for as many steps, and are measured on other pairs.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

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
FILES = ("train.tsv", "dev.tsv")
SENTENCE_WORDS = range(8, 21)
EXCHANGED_LETTERS = 4  # that a word has at least; shorter ones are often in both texts

Exchanged = Literal["word", "sentence"]


class Matching(Record):
    """Settings of one comparison.

    text: a file of sentences. student: a folder of one that was distilled from the teacher.
    exchanged: in half of the pairs. n_pairs: to learn from. n_measured: other ones.
    """

    text: str
    student: str
    teacher: str = OFFLINE_TEACHER
    exchanged: Exchanged = "word"
    n_pairs: Annotated[int, Field(ge=2)] = 2490
    n_measured: Annotated[int, Field(ge=2)] = 1000
    steps: PositiveInt = 250
    learning_rate: PositiveFloat = 1e-4
    seed: int = 0

    def learner(self, data: Path, student: str | None) -> Experiment:
        """Return the experiment in which the student, or the teacher if None, learns the pairs."""
        steps = {
            "min_steps": self.steps, "max_steps": self.steps, "learning_rate": self.learning_rate,
        }  # fmt: skip
        skipped = {"max_steps": 0}
        return Experiment(
            recipe="task-agnostic" if student else "teacher",
            task=FORM,
            data=str(data),
            teacher=self.teacher,
            student=student,
            seed=self.seed,
            phases={"layers": skipped, "hidden": skipped, "task": steps}
            if student
            else {"teacher": steps},
        )


class MatchingResult(Record):
    """What was measured. seconds: of each network's training."""

    experiment: Matching
    machine: Machine
    rows: list[Row]
    seconds: dict[str, float]


def run_matching(
    experiment: Matching, out: Path, observer: Observer | None = None
) -> MatchingResult:
    """Let both learn the pairs and measure them; the result lies in `out` as JSON too.

    An interrupted call goes on where it stopped. Raises InputError for text, teachers and students
    that can't be used.
    """
    n_pairs = experiment.n_pairs + experiment.n_measured
    pairs = make_pairs(
        read_sentences(experiment.text), experiment.exchanged, n_pairs, experiment.seed
    )
    data = out / WORK / "pairs"
    make_folder(data)
    parts = pairs[: experiment.n_pairs], pairs[experiment.n_pairs :]
    for name, chosen in zip(FILES, parts, strict=True):
        _write(data / name, chosen)
    rows, seconds = list[Row](), dict[str, float]()
    for student in (None, experiment.student):
        settings = experiment.learner(data, student)
        learned = run(settings, out / WORK / settings.recipe, observer)
        seconds[settings.recipe] = sum(learned.phase_s.values())
        rows += [
            row.model_copy(
                update={
                    "task": f"one {experiment.exchanged} exchanged",
                    "seed": experiment.seed,
                    "settings": {"pairs": experiment.n_pairs, "steps": experiment.steps},
                }
            )
            for row in learned.rows
        ]
    result = MatchingResult(
        experiment=experiment, machine=describe_machine(PACKAGES), rows=rows, seconds=seconds
    )
    write_atomically(out / RESULT, result.model_dump_json(indent=1) + "\n")
    shutil.rmtree(out / WORK)
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
