"""An experiment's examples, and which of them each part of it reads, as token ids."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from fhe_inhibitor.experiments.settings import Experiment
from fhe_inhibitor.text.alteration import alter
from fhe_inhibitor.text.data import read_sentences
from fhe_inhibitor.text.tasks import (
    TRAIN,
    UNKNOWN,
    Example,
    Splits,
    Task,
    hold_out_examples,
    load_task,
)
from fhe_inhibitor.training.phases import Phase
from fhe_inhibitor.training.rows import TokenRow, encode_examples

HELD_OUT = "held_out"


@dataclass(frozen=True)
class ExperimentData:
    """The splits of the task: train, held_out if the experiment asks for it, development sets."""

    experiment: Experiment
    splits: Splits
    tokenizer: PreTrainedTokenizerFast

    def encode(self, split: str) -> list[TokenRow]:
        """Return a split's examples as token ids; none of a split that doesn't exist."""
        return self._encode(self.splits.get(split, []))

    def calibration_ids(self, n_texts: int) -> list[list[int]]:
        """Return the token ids of some of the texts to train on, the same ones for any seed."""
        examples = self.splits[TRAIN]
        drawn = random.Random(0).sample(examples, min(n_texts, len(examples)))
        return [row.ids for row in self._encode(drawn)]

    def derivation_ids(self, phases: Sequence[Phase], n_texts: int) -> list[list[int]]:
        """Return the token ids of the texts that gamma, delta and eta are derived from.

        phases: that follow. If the first of them reads joined sentences, it is some of those;
        otherwise it is `calibration_ids`. Of single sentences the measured students (E1) were
        derived that way, and their results are to be had again.
        """
        text, joined = self.experiment.text, self.experiment.joined
        if text and joined > 1 and phases and phases[0].reads == "text":
            return [row.ids for row in self._encode(self._unlabelled(text)[:n_texts])]
        return self.calibration_ids(n_texts)

    def phase_rows(self, phase: Phase) -> list[TokenRow]:
        """Return what a phase reads, no more of it than its steps need."""
        examples: Sequence[Example] = self.splits[TRAIN]
        if phase.reads == "text" and self.experiment.text:
            examples = self._unlabelled(self.experiment.text)
        needed = phase.steps(len(examples)) * phase.batch_size
        if len(examples) > needed:
            examples = random.Random(self.experiment.seed).sample(list(examples), needed)
        if phase.augmented:
            altered = alter(examples, phase.augmented, self.experiment.seed)
            examples = [*examples, *altered]
        return self._encode(examples)

    def _unlabelled(self, path: str) -> list[Example]:
        sentences = read_sentences(path)
        return join_sentences(sentences, self.experiment.joined, self.experiment.seed)

    def _encode(self, examples: Sequence[Example]) -> list[TokenRow]:
        return encode_examples(self.tokenizer, examples, self.experiment.max_tokens)


def join_sentences(sentences: Sequence[str], most: int, seed: int) -> list[Example]:
    """Return unlabelled examples of 1 to `most` sentences each, every number drawn as often.

    Of two or more sentences the last one is the second text of a pair. Each sentence is in one
    example. They are shuffled unless `most` is 1.

    >>> [e.texts for e in join_sentences(["a", "b", "c", "d", "e", "f"], 4, seed=2)]
    [('c d', 'b'), ('e', 'f'), ('a',)]
    """
    if most == 1:
        return [Example((sentence,), UNKNOWN) for sentence in sentences]
    random_ = random.Random(seed)
    left, examples = random_.sample(sentences, len(sentences)), []
    while left:
        *first, last = (left.pop() for _ in range(min(len(left), random_.randint(1, most))))
        texts = (" ".join(first), last) if first else (last,)
        examples.append(Example(texts, UNKNOWN))
    return examples


def load_data(
    experiment: Experiment, task: Task, tokenizer: PreTrainedTokenizerFast
) -> ExperimentData:
    """Load the task's examples. Raises InputError for data that isn't the task's."""
    splits = load_task(task, experiment.data)
    if experiment.held_out:
        train, held_out = hold_out_examples(task, splits[TRAIN], experiment.held_out)
        splits = {**splits, TRAIN: train, HELD_OUT: held_out}
    if experiment.limit:
        drawn = random.Random(0).sample(splits[TRAIN], len(splits[TRAIN]))
        splits[TRAIN] = drawn[: experiment.limit]
    return ExperimentData(experiment, splits, tokenizer)
